#!/usr/bin/env bash
# The embedded backbone on two CPU cores: hours. Run it again to go on after an interruption.
# Continue from shipped weights with:
#   megen train scenes --from scenes --autoencoder-steps 0 --receiver-steps 0 --batch 16 --lr 1.2e-3 --time-shift 3.5 --out FOLDER
set -euo pipefail
megen train scenes --out "${1:-out/scenes-cpu}" --scenes 2560 --fresh 3 --autoencoder-steps 6000 --steps 8000 --batch 32
