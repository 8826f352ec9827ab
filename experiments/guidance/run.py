"""Scene Fréchet distance and attribute accuracy of a teacher by guidance: what is built into the flow map.

`python -m experiments.guidance.run --teacher out/teacher/weights --guidance 1,1.5,2,3`
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import torch

from experiments import common
from megen.evaluation import backbone as bench_backbone
from megen.models import embedded
from megen.scenes import judge


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", required=True)
    parser.add_argument("--guidance", default="1,1.5,2,3")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args()
    prompts = bench_backbone.Prompts.of(args.prompts, seed=1)
    bench = bench_backbone.Bench(judge.load(), prompts, torch.device(args.device), args.batch, print)
    teacher = embedded.load(args.teacher, args.device, quick=True)
    found = {}
    for text in args.guidance.split(","):
        teacher.config = replace(teacher.config, guidance=float(text))
        row = found[text] = bench.measure(f"guidance {text}", bench_backbone.Sampler(teacher), args.steps)[0]
        print(text, {k: round(v, 3) for k, v in row.items() if isinstance(v, float)}, row["by_attribute"])
    common.write("guidance", {"steps": args.steps, "prompts": 2 * args.prompts, "by_guidance": found})


if __name__ == "__main__":
    main()
