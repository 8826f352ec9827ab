#!/usr/bin/env bash
# On one data-centre GPU: a teacher on the shipped autoencoder, its flow map by each loss, the sharpening, then the figures. Resumes.
# Of it only the sharpening ran on a GPU (an H200: 0.27 s a step while eleven cores rendered scenes): begin with few steps, and look at the log.
set -euo pipefail
out="${1:-out/gpu}"
train=(megen train scenes --device cuda --autoencoder-steps 0 --receiver-steps 0 --scenes 24576 --batch 512 --save-every 500)
"${train[@]}" --from scenes --reset-denoiser --fresh-scenes-per-step 4 --steps 6000 --out "$out/teacher"
python -m experiments.guidance.run --teacher "$out/teacher/weights" --device cuda --batch 64
for loss in trajectory progressive lagrangian consistency; do
  mkdir -p "$out/$loss"
  ln -sfn ../teacher/latents "$out/$loss/latents"
  "${train[@]}" --from "$out/teacher/weights" --distill "$loss" --lr 1e-3 --fresh-scenes-per-step 0 --steps 1500 --out "$out/$loss"
done
megen train scenes --from "$out/trajectory/weights" --adversarial --device cuda --autoencoder-steps 0 --receiver-steps 1800 --scenes 4096 \
  --fresh-scenes-per-step 5 --batch 256 --lr 1.2e-4 --steps 1228 --out "$out/sharp"
python -m experiments.sharpening.run --start "$out/trajectory/weights" --latents "$out/sharp/latents" --judges "$out/sharp" --device cuda
megen bench backbone --backbone "$out/trajectory/weights" --teacher "$out/teacher/weights" --consistency "$out/consistency/weights" \
  --device cuda --batch 64 --prompts 1000 --json experiments/backbone/result.json --sheet docs/backbone-steps.jpg
