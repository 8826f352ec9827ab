"""Figure of `megen bench backbone --json experiments/backbone/result.json`: writes docs/backbone.png."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments import common

STYLE = {
    "steps": ("C0", "o-", "flow map"),
    "teacher, Euler": ("C1", "s--", "teacher, Euler"),
    "teacher, midpoint": ("C2", "^--", "teacher, midpoint rule"),
    "consistency": ("C3", "v:", "consistency model"),
}


def main() -> None:
    told = common.read("backbone")
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
    for name, (colour, line, label) in STYLE.items():
        rows = told.get(name)
        if not rows:
            continue
        work = [r["gflops"] for r in rows.values()]
        left.errorbar(
            work, [r["scene_fd"] for r in rows.values()], [r["scene_fd_error"] for r in rows.values()], fmt=colour + line, label=label
        )
        both = [(r["attribute_accuracy"] + r["attribute_accuracy_unseen"]) / 2 for r in rows.values()]
        right.plot(work, both, colour + line, label=label)
        for (steps, r), x, y in zip(rows.items(), work, both, strict=True):
            left.annotate(steps, (x, r["scene_fd"]), fontsize=7, textcoords="offset points", xytext=(3, 3))
            right.annotate(steps, (x, y), fontsize=7, textcoords="offset points", xytext=(3, 3))
    if "teacher" in told:
        (steps, reference), *_ = told["teacher"].items()
        left.axhline(reference["scene_fd"], color="0.5", linewidth=0.8, label=f"teacher, {steps} steps ({reference['gflops']:.0f} GFLOP)")
    left.set(xscale="log", yscale="log", xlabel="GFLOP an image (numbers: steps)", ylabel="scene Fréchet distance (not an FID)")
    right.set(xscale="log", xlabel="GFLOP an image", ylabel="named attributes right")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.suptitle(f"{told['prompts']} held-out prompts, half of them of combinations that training never saw", fontsize=10)
    figure.tight_layout()
    figure.savefig(common.DOCS / "backbone.png", dpi=110)


if __name__ == "__main__":
    main()
