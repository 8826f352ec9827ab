#!/usr/bin/env bash
# The embedded backbone on two CPU cores: hours for the teacher, one for its flow map. Run it again to go on after an interruption.
# Train a teacher on with:
#   megen train scenes --from FOLDER/teacher/weights --autoencoder-steps 0 --scenes 2560 --fresh-scenes-per-step 1 --batch 48 --lr 1.2e-3 --time-shift 3 --steps 1200 --out MORE
set -euo pipefail
# keep freed memory in the process: handing it back and forth to the kernel costs a tenth of the time
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=268435456 OMP_WAIT_POLICY=PASSIVE
out="${1:-out/scenes-cpu}"
megen train scenes --out "$out/teacher" --scenes 2560 --fresh-scenes-per-step 3 --autoencoder-steps 6000 --steps 8000 --batch 32 --receiver-steps 0
mkdir -p "$out/flow"
ln -sfn ../teacher/latents "$out/flow/latents"
megen train scenes --from "$out/teacher/weights" --distill trajectory --autoencoder-steps 0 --receiver-steps 1800 --scenes 2560 --fresh-scenes-per-step 0 \
  --batch 48 --lr 1e-3 --steps 300 --out "$out/flow"
megen bench backbone --backbone "$out/flow/weights" --teacher "$out/teacher/weights" --prompts 40
