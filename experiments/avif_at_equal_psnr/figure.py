"""Our payload's bits over AVIF's, by PSNR, to docs/avif-at-equal-psnr.png."""

from __future__ import annotations

from experiments import common, plot


def main() -> None:
    result = common.read("avif_at_equal_psnr")
    figure, (ax,) = plot.axes(1, width=6.0)
    rows = result["at_equal_psnr"]
    levels = [float(name.split()[0]) for name in rows]
    ratios = [row["ratio"] for row in rows.values()]
    error = [r["standard_error"] for r in ratios]
    ax.errorbar(levels, [r["mean"] for r in ratios], error, fmt="o-", color=plot.BLUE, capsize=2, label="mean and standard error")
    cap = result["avif_at_its_best_quality"]
    ax.axvline(cap["psnr_db"]["mean"], color=plot.GREY, linestyle="--", label=f"AVIF at quality {cap['quality']}, the highest")
    ax.set(xlabel="PSNR to the undisturbed image (dB)", ylabel="bits of the payload by those of AVIF", ylim=(0, None))
    plot.save(figure, "avif-at-equal-psnr", f"{result['prompts']} prompts, AVIF speed {result['avif_speed']}")


if __name__ == "__main__":
    main()
