#!/usr/bin/env bash
# The embedded backbone on two CPU cores: hours. Run it again to go on after an interruption.
# Continue from shipped weights with:
#   megen train scenes --from scenes --autoencoder-steps 0 --scenes 2560 --fresh 1 --batch 48 --lr 1.2e-3 --time-shift 3 --steps 1200 --out FOLDER
set -euo pipefail
# keep freed memory in the process: handing it back and forth to the kernel costs a tenth of the time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=PASSIVE
megen train scenes --out "${1:-out/scenes-cpu}" --scenes 2560 --fresh 3 --autoencoder-steps 6000 --steps 8000 --batch 32
