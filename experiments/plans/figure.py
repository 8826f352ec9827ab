"""Late share by its limit in every context, and the plan's decisions over SNR and backlog, to docs/control-plans.png."""

from __future__ import annotations

import numpy as np

from experiments import common, plot

TOP_S = 3.0  # of the backlogs that are drawn


def main() -> None:
    contexts = common.read("plans")["contexts"]
    figure, (left, middle, right) = plot.axes(3, width=4.8, height=4.0)
    places = np.arange(len(contexts))[::-1]
    for key, name, colour, mark in (("plan", "exact plan", plot.BLUE, "o"), ("bundled cvpo", "MEG-CVPO, bundled", plot.RED, "^")):
        left.plot([1 + row[key]["over_limit"]["late"] for row in contexts.values()], places, mark, color=colour, label=name)
    left.axvline(1, color=plot.GREY, linestyle="--", label="limit")
    left.set(xscale="log", xlabel="share of late requests by its limit")
    left.set_yticks(places, list(contexts))
    left.set_xticks([0.1, 0.3, 1, 3, 10], ["0.1", "0.3", "1", "3", "10"])
    found = contexts["as assumed"]["map"]
    backlog = np.array(found["backlog_s"])
    shown = backlog <= TOP_S
    for ax, key, label, top in ((middle, "steps", "denoising steps", 12), (right, "quantiser_bits", "bits a value", 5)):
        values = np.array(found[key])[:, shown].T
        image = ax.pcolormesh(found["snr_db"], backlog[shown], values, vmin=0, vmax=top, shading="nearest", cmap=plot.MAP)
        ax.set(xlabel="SNR (dB)", ylabel="backlog (s)")
        ax.grid(visible=False)
        figure.colorbar(image, ax=ax, label=label)
    plot.save(figure, "control-plans", "left: on the process as described; middle and right: the plan's decisions in a burst, as assumed")


if __name__ == "__main__":
    main()
