"""Late share by its limit, from the tables to the process as described, to docs/control-real-process.png."""

from __future__ import annotations

from experiments import common, plot

STYLE = {"cvpo": (plot.BLUE, "MEG-CVPO"), "ppo-lag": (plot.RED, "PPO-Lagrangian")}
MEANS = {"stationary": ("o", "stationary"), "discounted_from_empty": ("^", "discounted, from an empty server")}
STEPS = {
    "all as the tables": "tables",
    "and the gaps": "backlog continuous,\nno clip",
    "and the channel": "gaps\nexponential",
    "airtimes as the tables": "SNR\nGauss-Markov",
    "as described": "airtimes\nheld out",
}


def main() -> None:
    result = common.read("real_process")
    figure, (axes,) = plot.axes(1, width=7.2, height=4.4)
    for name, (colour, label) in STYLE.items():
        rows = result["policies"][name]
        for mean, (mark, text) in MEANS.items():
            late = [rows[step][mean]["late_by_limit"] for step in STEPS]
            levels, errors = [row["mean"] for row in late], [row["standard_error"] for row in late]
            filled = colour if mean == "stationary" else "none"
            axes.errorbar(range(len(STEPS)), levels, errors, fmt=f"{mark}-", color=colour, mfc=filled, capsize=2, label=f"{label}, {text}")
    axes.axhline(1, color=plot.GREY, linestyle="--", label="limit")
    axes.set_xticks(range(len(STEPS)), list(STEPS.values()), fontsize=8)
    axes.set(ylabel="share of late requests by its limit", xlabel="what is as described, from left to right one more")
    axes.set_ylim(0.8, None)
    plot.save(figure, "control-real-process", legend_columns=2)


if __name__ == "__main__":
    main()
