#!/usr/bin/env bash
# The embedded backbone on one data-centre GPU: larger batches, five times the scenes. Resumes like cpu.sh.
set -euo pipefail
megen train scenes --out "${1:-out/scenes-gpu}" --device cuda --scenes 30720 --autoencoder-steps 8000 \
  --steps 30000 --batch 256 --lr 1e-3 --save-every 500
