"""The floor of the scene Fréchet distance by the number of prompts, to docs/frechet-floor.png."""

from __future__ import annotations

from experiments import common, plot

KINDS = {"another geometry": (plot.BLUE, "o"), "what the caption leaves out drawn anew": (plot.ORANGE, "s")}


def main() -> None:
    result = common.read("frechet_floor")
    figure, (ax,) = plot.axes(1, width=6.0)
    for kind, (colour, mark) in KINDS.items():
        points = [(result["prompts"][name], value) for name, row in result["floor"][kind].items() for value in row["each"]]
        ax.plot(*zip(*points, strict=True), mark, color=colour, mfc="none", label=f"renders against renders: {kind}")
    ax.set(xscale="log", xlabel="prompts", ylabel="scene Fréchet distance", ylim=(0, None))
    ticks = sorted(result["prompts"].values())
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.minorticks_off()
    plot.save(figure, "frechet-floor", "what no generator can be below; a mark each draw", legend_columns=1)


if __name__ == "__main__":
    main()
