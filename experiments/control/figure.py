"""Figures of the controller, `python -m experiments.control.figure`: results of control and tradeoff to docs/control-*.png."""

from __future__ import annotations

import numpy as np

from experiments import common, plot

LEARNED = {
    "cvpo": (plot.BLUE, "MEG-CVPO"),
    "cvpo-value": (plot.SKY, "MEG-CVPO, published constraint"),
    "ppo-lag": (plot.RED, "PPO-Lagrangian"),
    "sac-lag": (plot.GREEN, "SAC-Lagrangian"),
    "fixed-penalty": (plot.PINK, "fixed penalty (the optimum's multipliers)"),
}
RULES = {
    "lp": (plot.BLACK, "exact optimum (LP)"),
    "backlog-blind": (plot.ORANGE, "backlog-blind"),
    "fixed-mixture": (plot.GREY, "best fixed mixture"),
}
COSTS = {"late": "requests after the deadline", "energy_j": "energy of a request (J), modelled"}


def learning(result: dict) -> None:
    """Reward and both costs of the rollouts against samples, every seed in the band."""
    figure, axes = plot.axes(3, width=4.5)
    names = list(result["limits"])
    for name, (colour, label) in LEARNED.items():
        if name not in result["learned"]:
            continue
        curves = result["learned"][name]["curves"]
        samples = np.array(curves[0]["samples"]) / 1e6
        for ax, key in zip(axes, ("reward", *names), strict=True):
            values = np.array([c[key][: len(samples)] for c in curves])
            ax.plot(samples, np.median(values, 0), color=colour, label=f"{label} ({len(curves)} seeds)")
            ax.fill_between(samples, values.min(0), values.max(0), color=colour, alpha=0.15)
    axes[0].axhline(result["policies"]["lp"]["reward"], color=plot.BLACK, linestyle=":", label="exact optimum (LP)")
    for ax, key in zip(axes[1:], names, strict=True):
        ax.axhline(result["limits"][key], color=plot.BLACK, linestyle="--", label="limit")
        ax.set(xlabel="requests (millions)", ylabel=COSTS[key])
    axes[0].set(xlabel="requests (millions)", ylabel="reward: -ln MSE to the reference")
    best = result["policies"]["lp"]["reward"]
    axes[0].set_ylim(0.8 * best, 1.05 * best)
    axes[1].set_ylim(0, min(4 * result["limits"][names[0]], axes[1].get_ylim()[1]))
    plot.save(figure, "control-learning", "median over seeds, all of them in the band")


def violations(result: dict) -> None:
    """The distribution of an episode's mean costs."""
    figure, axes = plot.axes(2)
    for ax, key in zip(axes, result["limits"], strict=True):
        for name, (colour, label) in {**RULES, **LEARNED}.items():
            of = result["policies"].get(name) or result["learned"].get(name)
            if of:
                values = of["episode_cost_quantiles"][key]
                ax.plot(values, np.linspace(0, 1, len(values)), color=colour, label=label)
        ax.axvline(result["limits"][key], color=plot.BLACK, linestyle="--")
        ax.set(xlabel=f"{COSTS[key]}, mean of an episode", ylabel="share of episodes below")
    caption = f"{result['episodes']} episodes of {result['horizon']} requests (learned ones: mean over seeds); limits dashed"
    plot.save(figure, "control-violations", caption)


def maps(result: dict) -> None:
    """Mean steps and merge ratio over SNR and backlog, beside the optimum's."""
    chosen = {k: v for k, v in result["maps"].items() if k in ("lp", "cvpo")}
    figure, flat = plot.axes(len(chosen), 2, width=4.6, height=3.2)
    axes = np.reshape(flat, (2, len(chosen)))
    snr, backlog = result["snr_db"], result["backlog_s"]
    for column, (name, decisions) in enumerate(chosen.items()):
        for row, (key, top, label) in enumerate((("steps", 12, "denoising steps"), ("merge_ratio", 0.75, "merge ratio"))):
            ax = axes[row, column]
            image = ax.pcolormesh(snr, backlog, np.array(decisions[key]).T, vmin=0, vmax=top, shading="nearest", cmap=plot.MAP)
            ax.set(xlabel="SNR (dB)", ylabel="backlog (s)", ylim=(0, 1.5), title=(RULES | LEARNED)[name][1])
            ax.grid(visible=False)
            figure.colorbar(image, ax=ax, label=label)
    plot.save(figure, "control-map", "decisions in a burst, mean over prompt classes")


def tradeoff(result: dict, points: dict) -> None:
    """The gap against the training's length; the best quality against either limit."""
    figure, axes = plot.axes(3, width=4.5)
    budgets = {int(k) / 1e6: v for k, v in result["budgets"].items()}
    for label, colour, mark, of in (
        ("gap to the exact optimum in reward", plot.BLUE, "o-", lambda r: r["gap"]),
        ("most that a cost is above its limit", plot.ORANGE, "s--", lambda r: max(r["over_limit"].values())),
    ):
        middle = [100 * np.median([of(r) for r in rows]) for rows in budgets.values()]
        axes[0].plot(list(budgets), middle, mark, color=colour, label=label)
        for x, rows in budgets.items():
            axes[0].plot([x] * len(rows), [100 * of(r) for r in rows], ".", color=plot.GREY, markersize=4)
    axes[0].axhline(0, color=plot.BLACK, linewidth=0.6)
    axes[0].set(xscale="log", xlabel="requests learned from (millions)", ylabel="% (MEG-CVPO, three seeds)")
    axes[0].set_xticks(list(budgets), [f"{x:.1f}" for x in budgets])
    axes[0].minorticks_off()
    labels = {"deadline_s": "deadline (s)", "energy_limit_j": "limit of the mean energy (J), modelled"}
    for ax, (key, label) in zip(axes[1:], labels.items(), strict=True):
        rows = [p for p in points["points"] if key in p and "infeasible" not in p]
        for name, (colour, text) in {**RULES, "cvpo": LEARNED["cvpo"]}.items():
            if name in rows[0]:
                settings = [{**points["usual"], key: r[key]} for r in rows]
                broken = [i for i, (r, k) in enumerate(zip(rows, settings, strict=True)) if breaks(r[name]["costs"], k)]
                values = [r[name]["psnr_db"] for r in rows]
                ax.plot([r[key] for r in rows], values, "x" if name == "cvpo" else ".-", color=colour, label=text)
                ax.plot([rows[i][key] for i in broken], [values[i] for i in broken], "o", markersize=9, mfc="none", color=colour)
        ax.axvline(points["usual"][key], color=plot.GREY, linewidth=0.8)
        ax.set(xlabel=label, ylabel="PSNR of the mean ln MSE (dB)")
    title = "left: length of training; middle and right: what looser limits buy (usual setting grey; ringed: a cost is 2 % above its limit)"
    plot.save(figure, "control-tradeoff", title)


def breaks(costs: dict[str, float], setting: dict[str, float]) -> bool:
    """Whether a cost is more than 2 % above its limit."""
    return costs["late"] > 1.02 * setting["late_limit"] or costs["energy_j"] > 1.02 * setting["energy_limit_j"]


if __name__ == "__main__":
    main_process = common.read("control")
    learning(main_process)
    violations(main_process)
    maps(main_process)
    tradeoff(main_process, common.read("tradeoff"))
