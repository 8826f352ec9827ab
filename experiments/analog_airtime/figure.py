"""PSNR by SNR for each airtime of the analog link, and the digital link's within the same, to docs/analog-airtime.png."""

from __future__ import annotations

from experiments import common, plot

WAYS = (
    ("a quarter of the coefficients", "digital, 5.7 ms", plot.GREY),
    ("half of them", "digital, 11.3 ms", plot.GREEN),
    ("all", "digital, 22.7 ms", plot.BLUE),
    ("all, twice", "digital, 45.4 ms", plot.ORANGE),
)
ARRIVED = 0.5  # of the digital link's points those count of which as many arrived


def main() -> None:
    result = common.read("analog_airtime")
    figure, (ax,) = plot.axes(1, width=6.5)
    rows = result["psnr_db"]
    for way, digital, colour in WAYS:
        for name, style in ((way, "o-"), (digital, ":")):
            held = {float(s): row["psnr_db"]["mean"] for s, row in rows[name].items() if row["arrived"] >= ARRIVED}
            label = f"{way}, {result['airtime_ms'][way]:.1f} ms" if name == way else f"digital within {digital.split()[1]} ms"
            ax.plot(list(held), list(held.values()), style, color=colour, markersize=3, label=label)
    ax.set(xlabel="SNR (dB)", ylabel="PSNR to the same latent without link (dB)", ylim=(26, 50))
    plot.save(figure, "analog-airtime", f"{result['prompts']} prompts, 1 MHz, no fading", legend_columns=2)


if __name__ == "__main__":
    main()
