"""PSNR over bits by merge ratio, to docs/merging-against-quantiser.png."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments import common

COLOURS = ("#0072B2", "#009E73", "#E69F00", "#D55E00")


def main() -> None:
    result = common.read("merging_against_quantiser")
    figure, axes = plt.subplots(figsize=(6.4, 4.2))
    for (ratio, rows), colour, mark in zip(result["payloads"].items(), COLOURS, "os^v", strict=False):
        bits = [row["bits"]["mean"] / 1e3 for row in rows]
        level = [row["psnr_db"]["mean"] for row in rows]
        error = [row["psnr_db"]["standard_error"] for row in rows]
        axes.errorbar(bits, level, error, fmt=f"{mark}-", color=colour, markersize=4, label=f"merge ratio {ratio}")
    axes.set(xscale="log", xlabel="payload (kbit)", ylabel="PSNR to the undisturbed image (dB)")
    axes.grid(alpha=0.3, which="both")
    axes.legend(loc="lower right")
    axes.set_title(f"{len(rows)} quantiser depths, {result['prompts']} prompts, mean and standard error", fontsize=9)
    figure.tight_layout()
    figure.savefig(common.DOCS / "merging-against-quantiser.png", dpi=110)


if __name__ == "__main__":
    main()
