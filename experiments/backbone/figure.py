"""Figure of `megen bench backbone --json experiments/backbone/result.json`: writes docs/backbone.png."""

from __future__ import annotations

from experiments import common, plot

STYLE = {
    "steps": (plot.BLUE, "o-", "flow map"),
    "teacher, Euler": (plot.ORANGE, "s--", "teacher, Euler"),
    "teacher, midpoint": (plot.GREEN, "^--", "teacher, midpoint rule"),
    "consistency": (plot.RED, "v:", "consistency model"),
}


def main() -> None:
    result = common.read("backbone")
    figure, (left, right) = plot.axes(2)
    for name, (colour, line, label) in STYLE.items():
        rows = result.get(name)
        if not rows:
            continue
        work = [r["gflops"] for r in rows.values()]
        distance, error = ([r[key] for r in rows.values()] for key in ("scene_fd", "scene_fd_error"))
        left.errorbar(work, distance, error, fmt=line, color=colour, label=label)
        both = [100 * (r["attribute_accuracy"] + r["attribute_accuracy_unseen"]) / 2 for r in rows.values()]
        right.plot(work, both, line, color=colour, label=label)
        for steps, x, y, z in zip(rows, work, distance, both, strict=True):
            for ax, level in ((left, y), (right, z)):
                ax.annotate(steps, (x, level), fontsize=7, textcoords="offset points", xytext=(4, 4))
    if "teacher" in result:
        (steps, reference), *_ = result["teacher"].items()
        label = f"teacher, {steps} steps ({reference['gflops']:.0f} GFLOP)"
        left.axhline(reference["scene_fd"], color=plot.GREY, linewidth=0.8, label=label)
    left.set(xscale="log", yscale="log", xlabel="GFLOP an image (numbers: steps)", ylabel="scene Fréchet distance (not an FID)")
    left.set_yticks([300, 400, 600, 1000], ["300", "400", "600", "1000"])
    left.minorticks_off()
    right.set(xscale="log", xlabel="GFLOP an image (numbers: steps)", ylabel="named attributes that come out right (%)")
    plot.save(figure, "backbone", f"{result['prompts']} held-out prompts, half of them of combinations that training never saw")


if __name__ == "__main__":
    main()
