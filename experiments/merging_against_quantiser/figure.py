"""PSNR over bits by merge ratio, to docs/merging-against-quantiser.png."""

from __future__ import annotations

from experiments import common, plot

COLOURS = (plot.BLUE, plot.GREEN, plot.ORANGE, plot.RED)


def main() -> None:
    result = common.read("merging_against_quantiser")
    figure, (ax,) = plot.axes(1, width=6.4)
    for (ratio, rows), colour, mark in zip(result["payloads"].items(), COLOURS, "os^v", strict=False):
        bits = [row["bits"]["mean"] / 1e3 for row in rows]
        level = [row["psnr_db"]["mean"] for row in rows]
        error = [row["psnr_db"]["standard_error"] for row in rows]
        ax.errorbar(bits, level, error, fmt=f"{mark}-", color=colour, markersize=4, label=f"merge ratio {ratio}")
    ax.set(xscale="log", xlabel="payload (kbit)", ylabel="PSNR to the undisturbed image (dB)")
    ticks = [5, 10, 20, 50, 100]
    ax.set_xticks(ticks, [str(t) for t in ticks])
    plot.save(figure, "merging-against-quantiser", f"{len(rows)} quantiser depths, {result['prompts']} prompts, mean and standard error")


if __name__ == "__main__":
    main()
