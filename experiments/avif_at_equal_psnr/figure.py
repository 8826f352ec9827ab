"""Our payload's bits over AVIF's, by PSNR, to docs/avif-at-equal-psnr.png."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments import common


def main() -> None:
    result = common.read("avif_at_equal_psnr")
    figure, axes = plt.subplots(figsize=(6.0, 4.0))
    rows = result["at_equal_psnr"]
    levels = [float(name.split()[0]) for name in rows]
    ratios = [row["ratio"] for row in rows.values()]
    axes.errorbar(levels, [r["mean"] for r in ratios], [r["standard_error"] for r in ratios], fmt="o-", color="#0072B2", capsize=2)
    cap = result["avif_at_its_best_quality"]
    axes.axvline(cap["psnr_db"]["mean"], color="0.4", linestyle="--")
    axes.annotate(
        f"AVIF at quality {cap['quality']}", (cap["psnr_db"]["mean"], axes.get_ylim()[1]), fontsize=8, rotation=90, va="top", ha="right"
    )
    axes.set(xlabel="PSNR to the undisturbed image (dB)", ylabel="bits of the payload by those of AVIF", ylim=(0, None))
    axes.set_title(f"{result['prompts']} prompts, mean and standard error, AVIF speed {result['avif_speed']}", fontsize=9)
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(common.DOCS / "avif-at-equal-psnr.png", dpi=110)


if __name__ == "__main__":
    main()
