"""Figures of the controller, `python -m experiments.control.figure`: results of control and tradeoff to docs/control-*.png."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

ROOT = Path(__file__).parents[2]
LEARNED = {
    "cvpo": ("C0", "MEG-CVPO"),
    "cvpo-value": ("C4", "MEG-CVPO, published constraint"),
    "ppo-lag": ("C1", "PPO-Lagrangian"),
    "sac-lag": ("C2", "SAC-Lagrangian"),
    "fixed-penalty": ("C5", "fixed penalty (the optimum's multipliers)"),
}
RULES = {"lp": ("k", "exact optimum (LP)"), "backlog-blind": ("C3", "backlog-blind"), "fixed-mixture": ("0.6", "best fixed mixture")}
COSTS = {"late": "requests after the deadline", "energy_j": "energy of a request (J), modelled"}


def read(name: str) -> dict:
    result: dict = json.loads((ROOT / "experiments" / name / "result.json").read_text())
    return result


def learning(result: dict) -> None:
    """Reward and both costs of the rollouts against samples, every seed in the band."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    names = list(result["limits"])
    for name, (colour, label) in LEARNED.items():
        if name not in result["learned"]:
            continue
        curves = result["learned"][name]["curves"]
        samples = np.array(curves[0]["samples"]) / 1e6
        for ax, key in zip(axes, ("reward", *names), strict=True):
            values = np.array([c[key][: len(samples)] for c in curves])
            ax.plot(samples, np.median(values, 0), colour, label=f"{label} ({len(curves)} seeds)")
            ax.fill_between(samples, values.min(0), values.max(0), color=colour, alpha=0.15)
    axes[0].axhline(result["policies"]["lp"]["reward"], color="k", linestyle=":", label="exact optimum (LP)")
    for ax, key in zip(axes[1:], names, strict=True):
        ax.axhline(result["limits"][key], color="k", linestyle="--", label="limit")
        ax.set(xlabel="requests (millions)", ylabel=COSTS[key])
        ax.legend(fontsize=7)
    axes[0].set(xlabel="requests (millions)", ylabel="reward: -ln MSE to the reference")
    axes[0].legend(fontsize=7)
    best = result["policies"]["lp"]["reward"]
    axes[0].set_ylim(0.8 * best, 1.05 * best)
    axes[1].set_ylim(0, min(4 * result["limits"][names[0]], axes[1].get_ylim()[1]))
    save(figure, axes, "learning", "median over seeds, all of them in the band")


def violations(result: dict) -> None:
    """The distribution of an episode's mean costs."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4))
    for ax, key in zip(axes, result["limits"], strict=True):
        for name, (colour, label) in {**RULES, **LEARNED}.items():
            of = result["policies"].get(name) or result["learned"].get(name)
            if of:
                values = of["episode_cost_quantiles"][key]
                ax.plot(values, np.linspace(0, 1, len(values)), color=colour, label=label)
        ax.axvline(result["limits"][key], color="k", linestyle="--")
        ax.set(xlabel=f"{COSTS[key]}, mean of an episode", ylabel="share of episodes below")
    axes[0].legend(fontsize=7, loc="lower right")
    caption = f"{result['episodes']} episodes of {result['horizon']} requests (learned ones: mean over seeds); limits dashed"
    save(figure, axes, "violations", caption)


def maps(result: dict) -> None:
    """Mean steps and merge ratio over SNR and backlog, beside the optimum's."""
    chosen = {k: v for k, v in result["maps"].items() if k in ("lp", "cvpo")}
    figure, axes = plt.subplots(2, len(chosen), figsize=(5 * len(chosen), 6.4), squeeze=False)
    snr, backlog = result["snr_db"], result["backlog_s"]
    for column, (name, decisions) in enumerate(chosen.items()):
        for row, (key, top) in enumerate((("steps", 12), ("merge_ratio", 0.75))):
            image = axes[row, column].pcolormesh(snr, backlog, np.array(decisions[key]).T, vmin=0, vmax=top, shading="nearest")
            axes[row, column].set(xlabel="SNR (dB)", ylabel="backlog (s)", ylim=(0, 1.5), title=f"{(RULES | LEARNED)[name][1]}: {key}")
            figure.colorbar(image, ax=axes[row, column])
    save(figure, (), "map", "decisions in a burst, mean over prompt classes")


def tradeoff(result: dict, points: dict) -> None:
    """The gap against the training's length; the best quality against either limit."""
    figure, axes = plt.subplots(1, 3, figsize=(13, 4))
    budgets = {int(k) / 1e6: v for k, v in result["budgets"].items()}
    for label, mark, of in (
        ("gap to the exact optimum in reward", "o-", lambda r: r["gap"]),
        ("most that a cost is above its limit", "s--", lambda r: max(r["over_limit"].values())),
    ):
        axes[0].plot(list(budgets), [100 * np.median([of(r) for r in rows]) for rows in budgets.values()], mark, label=label)
        for x, rows in budgets.items():
            axes[0].plot([x] * len(rows), [100 * of(r) for r in rows], ".", color="0.6", markersize=4)
    axes[0].axhline(0, color="k", linewidth=0.6)
    axes[0].set(xscale="log", xlabel="requests learned from (millions)", ylabel="% (MEG-CVPO, three seeds)")
    axes[0].set_xticks(list(budgets), [f"{x:.1f}" for x in budgets])
    axes[0].minorticks_off()
    axes[0].legend(fontsize=7)
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
        ax.axvline(points["usual"][key], color="0.7", linewidth=0.8)
        ax.set(xlabel=label, ylabel="PSNR of the mean ln MSE (dB)")
        ax.legend(fontsize=7)
    title = "left: length of training; middle and right: what looser limits buy (usual setting grey; ringed: a cost is 2 % above its limit)"
    save(figure, axes, "tradeoff", title)


def breaks(costs: dict[str, float], setting: dict[str, float]) -> bool:
    """Whether a cost is more than 2 % above its limit."""
    return costs["late"] > 1.02 * setting["late_limit"] or costs["energy_j"] > 1.02 * setting["energy_limit_j"]


def save(figure: plt.Figure, axes: object, name: str, title: str) -> None:
    for ax in np.ravel(axes):
        ax.grid(alpha=0.3)
    figure.suptitle(title, fontsize=9)
    figure.tight_layout()
    figure.savefig(ROOT / "docs" / f"control-{name}.png", dpi=100)


if __name__ == "__main__":
    main_process = read("control")
    learning(main_process)
    violations(main_process)
    maps(main_process)
    tradeoff(main_process, read("tradeoff"))
