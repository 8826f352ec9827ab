"""Figures of `python -m experiments.paper.run`: writes docs/paper-steps.png, paper-limits.png, paper-learning.png and claim-map.png."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from experiments import common, plot
from megen.cost import quality_grid

WAYS = {
    "local": (plot.SKY, "made on the phone"),
    "small local generator": (plot.GREEN, "a small local generator"),
    "split, light decoder": (plot.ORANGE, "split, light decoder"),
    "split, own decoder": (plot.RED, "split, its own decoder"),
    "file": (plot.BLUE, "an AVIF file"),
}


def claim_map() -> None:
    """Who is fastest, by model, against the largest file as good."""
    models = common.read("paper", "claim")["models"]
    figure, axes = plot.axes(3, 2, width=3.6, height=3.2)
    names = list(WAYS)
    for ax, (name, model) in zip(axes, models.items(), strict=False):
        winner = np.array([[names.index(cell) for cell in row] for row in model["most_file"]["winner"]])
        rates, speeds = np.array(model["rates_bps"]) / 1e6, np.array(model["ue_tflops"])
        ax.pcolormesh(rates, speeds, winner, cmap=ListedColormap([colour for colour, _ in WAYS.values()]), vmin=-0.5, vmax=len(names) - 0.5)
        ax.set(xscale="log", yscale="log", title=name, xlabel="rate, Mbit/s", ylabel="phone, TFLOPS")
        ax.grid(False)
    for ax in axes[len(models) :]:
        ax.axis("off")
    patches = [Patch(color=colour, label=label) for colour, label in WAYS.values()]
    axes[-1].legend(handles=patches, loc="center", frameon=False)
    plot.save(figure, "claim-map", "fastest way to a picture, modelled; against the largest AVIF file as good")


def steps_and_ratio() -> None:
    """FLOPs, seconds and joules against steps; payload and delay against ratio; MSE against steps and ratio."""
    result = common.read("paper", "as-released")
    figure, (costs, payload, error) = plot.axes(3, width=4.2)
    by_steps = result["costs_by_steps"]
    for name, unit, scale, colour in (("tflop", "100 TFLOP", 100, plot.BLUE), ("s", "s", 1, plot.ORANGE), ("j", "100 J", 100, plot.GREEN)):
        costs.plot(by_steps["steps"], np.array(by_steps[name]) / scale, "o-", color=colour, label=unit)
    costs.set(xlabel="denoising steps", ylabel="edge server, by unit", title="SDXL on an A100, modelled")
    ratios = [float(r) for r in result["payloads_mbit"]]
    payload.plot(ratios, list(result["payloads_mbit"].values()), "s-", color=plot.BLUE, label="payload of one image, Mbit")
    table = list(result["latency_table_s"].values())[1:]
    payload.plot(ratios, table, "o--", color=plot.RED, label="two images at its constant rate, s")
    payload.set(xlabel="merge ratio", title="as released")
    grid = quality_grid.load()
    log_mse = np.einsum("p,pnm->nm", grid.counts / grid.counts.sum(), grid.log_mse[..., -1]).ravel()
    for ratio, colour in zip((0.0, 0.25, 0.5, 0.75), (plot.BLUE, plot.ORANGE, plot.GREEN, plot.RED), strict=True):
        rows = [(d.steps, np.exp(log_mse[i])) for i, d in enumerate(grid.decisions) if d.merge_ratio == ratio and d.quantiser_bits == 5]
        error.plot(*zip(*rows, strict=True), "o-", color=colour, label=f"merge ratio {ratio:g}")
    error.set(yscale="log", xlabel="denoising steps", ylabel="MSE to the image of most steps", title="scenes, over the digital link")
    plot.save(figure, "paper-steps")


def limits() -> None:
    """The exact optimum, the best single decision and the plain split, against power and both limits."""
    sweeps = common.read("paper", "control")["sweeps"]
    figure, axes = plot.axes(3, width=3.8)
    labels = {
        "power_dbm": "transmit power, dBm",
        "latency_limit_s": "limit of the mean latency, s",
        "energy_limit_j": "limit of the mean energy, J",
    }
    for ax, (name, points) in zip(axes, sweeps.items(), strict=True):
        feasible = [p for p in points if "optimum" in p]
        values = [p["value"] for p in feasible]
        ax.plot(values, [p["optimum"]["reward"] for p in feasible], "o-", color=plot.BLUE, label="exact optimum")
        single = [p["best_single"]["reward"] if p["best_single"] else np.nan for p in feasible]
        ax.plot(values, single, "s--", color=plot.ORANGE, label="best single decision")
        ax.set(xlabel=labels[name], ylabel="mean reward, -ln MSE")
    plot.save(figure, "paper-limits")


def learning() -> None:
    """Reward and both costs against requests."""
    result: dict[str, Any] = common.read("paper", "control")["learning"]
    figure, axes = plot.axes(3, width=3.8)
    for name, colour in (("cvpo", plot.BLUE), ("ppo-lag", plot.ORANGE)):
        for k, run in enumerate(result["curves"][name]):
            samples = [row["samples"] for row in run["rows"]]
            for ax, key in zip(axes, ("reward", "latency_s", "energy_j"), strict=True):
                label = {"cvpo": "MEG-CVPO", "ppo-lag": "PPO-Lagrangian"}[name] if k == 0 else None
                ax.plot(samples, [row[key] for row in run["rows"]], color=colour, alpha=0.7, label=label)
    axes[0].axhline(result["optimum"], color=plot.BLACK, ls=":", label="exact optimum")
    for ax, limit in zip(axes[1:], result["limits"], strict=True):
        ax.axhline(limit, color=plot.RED, ls="--", label="limit")
    for ax, label in zip(axes, ("mean reward", "mean latency, s", "mean energy, J"), strict=True):
        ax.set(xlabel="requests", ylabel=label)
    plot.save(figure, "paper-learning")


def main() -> None:
    claim_map()
    steps_and_ratio()
    limits()
    learning()


if __name__ == "__main__":
    main()
