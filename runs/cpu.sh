#!/usr/bin/env bash
# The embedded backbone on two CPU cores: hours. Run it again to go on after an interruption.
# Continue from shipped weights with: megen train scenes --from scenes --autoencoder-steps 0 --out FOLDER
set -euo pipefail
megen train scenes --out "${1:-out/scenes-cpu}" --scenes 6144 --autoencoder-steps 2800 --steps 8000 --batch 16 --lr 7e-4
