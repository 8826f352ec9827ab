"""PSNR by bits of our payloads and of image files, thumbnails included, to docs/rate-curves.png."""

from __future__ import annotations

from experiments import common, plot

WAYS = {
    "megen, ratio 0": (plot.BLUE, "o-"),
    "megen, ratio 0.5": (plot.BLUE, "--"),
    "megen, ratio 0.75": (plot.BLUE, ":"),
    "avif": (plot.ORANGE, "s-"),
    "webp": (plot.GREEN, "s-"),
    "jpeg xl": (plot.GREY, "s-"),
}


NAMES = {"avif": "AVIF", "webp": "WebP", "jpeg xl": "JPEG XL"}


def main() -> None:
    result = common.read("rate_curves")
    figure, (ax,) = plot.axes(1, width=6.5)
    for way, (colour, style) in WAYS.items():
        held = {int(b) / 1000: row["psnr_db"]["mean"] for b, row in result["levels"][way].items() if row["fits"] == 1}
        ax.plot(list(held), list(held.values()), style, color=colour, markersize=3, label=NAMES.get(way, way))
    ax.set(xscale="log", xticks=[], xlabel="bits (thousands)", ylabel="PSNR to the undisturbed image (dB)")
    thousands = [int(b) / 1000 for b in result["levels"]["avif"]]
    ax.set_xticks(thousands, [f"{n:g}" for n in thousands])
    ax.minorticks_off()
    plot.save(figure, "rate-curves", f"{result['prompts']} prompts; of a file the best side, scaled up", legend_columns=3)


if __name__ == "__main__":
    main()
