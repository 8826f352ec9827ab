"""Figure of `megen bench link --json experiments/link/result.json`: writes docs/link.png."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from experiments import common

STYLE = {
    "digital 0": ("C0", "-", "megen digital, ratio 0"),
    "digital 0.5": ("C0", "--", "megen digital, ratio 0.5"),
    "analog 0": ("C1", "-", "megen analog, ratio 0"),
    "analog 0.5": ("C1", "--", "megen analog, ratio 0.5"),
    "analog 0, blind receiver": ("C1", ":", "analog, receiver that does not know the noise"),
    "int8 latent": ("C2", "-", "plain int8 latent"),
    "reference fp16, ratio 0.5": ("C3", "--", "reference system's fp16, ratio 0.5"),
    "avif": ("C4", "-", "AVIF file"),
    "jpeg xl": ("C5", "-", "JPEG XL file"),
    "webp": ("C6", "-", "WebP file"),
    "jpeg": ("C7", "-", "JPEG file"),
    "png": ("C8", "-", "PNG file"),
}


def main() -> None:
    told = common.read("link")
    figure, (left, right) = plt.subplots(1, 2, figsize=(12, 4.6))
    for name, (colour, line, label) in STYLE.items():
        rows = told["schemes"].get(name)
        if rows is None:
            continue
        snr = [float(s) for s in rows]
        level = [min(r["psnr_db"], 60) if r["psnr_db"] is not None and r["delivered"] == 1 else 0.0 for r in rows.values()]
        if "file" not in label or name == "avif":
            left.plot(snr, level, colour, linestyle=line, label=label)
        seconds = [r["airtime_s"] if r["delivered"] == 1 else None for r in rows.values()]
        right.semilogy(snr, [s if s is not None else float("nan") for s in seconds], colour, linestyle=line, label=label)
    left.set(xlabel="SNR in dB (1 MHz, no fading)", ylabel="PSNR to the reference image in dB (0: not delivered)")
    right.set(xlabel="SNR in dB", ylabel="time on the air in s (modelled)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.suptitle(f"{told['sweep_prompts']} held-out prompts; files at the PSNR of megen's digital payload at ratio 0", fontsize=10)
    figure.tight_layout()
    figure.savefig(common.DOCS / "link.png", dpi=110)


if __name__ == "__main__":
    main()
