"""Figure of `megen bench link --json experiments/link/result.json`: writes docs/link.png."""

from __future__ import annotations

from experiments import common, plot

STYLE = {
    "digital 0": (plot.BLUE, "-", "megen digital, ratio 0"),
    "digital 0.5": (plot.BLUE, "--", "megen digital, ratio 0.5"),
    "analog 0": (plot.ORANGE, "-", "megen analog, ratio 0"),
    "analog 0.5": (plot.ORANGE, "--", "megen analog, ratio 0.5"),
    "analog 0, blind receiver": (plot.ORANGE, ":", "analog, receiver that does not know the noise"),
    "int8 latent": (plot.GREEN, "-", "plain int8 latent"),
    "reference fp16, ratio 0.5": (plot.RED, "--", "reference system's fp16, ratio 0.5"),
    "avif": (plot.PINK, "-", "AVIF file"),
    "jpeg xl": (plot.SKY, "-", "JPEG XL file"),
    "webp": (plot.BLACK, "-.", "WebP file"),
    "jpeg": (plot.BLACK, ":", "JPEG file"),
    "png": (plot.GREY, "-", "PNG file"),
}


def main() -> None:
    result = common.read("link")
    figure, (left, right) = plot.axes(2, width=5.8)
    for name, (colour, line, label) in STYLE.items():
        rows = result["schemes"].get(name)
        if rows is None:
            continue
        snr, arrived = [float(s) for s in rows], [r["delivered"] == 1 for r in rows.values()]
        level = [min(r["psnr_db"], 60) if a and r["psnr_db"] is not None else 0.0 for a, r in zip(arrived, rows.values(), strict=True)]
        if "file" not in label or name == "avif":
            left.plot(snr, level, color=colour, linestyle=line, label=label)
        seconds = [r["airtime_s"] if a else float("nan") for a, r in zip(arrived, rows.values(), strict=True)]
        right.semilogy(snr, seconds, color=colour, linestyle=line, label=label)
    left.set(xlabel="SNR (dB), 1 MHz, no fading", ylabel="PSNR (dB), 0: not delivered")
    right.set(xlabel="SNR (dB), 1 MHz, no fading", ylabel="time on the air (s), modelled")
    title = f"{result['sweep_prompts']} held-out prompts; files at the PSNR of megen's digital payload at ratio 0"
    plot.save(figure, "link", title)


if __name__ == "__main__":
    main()
