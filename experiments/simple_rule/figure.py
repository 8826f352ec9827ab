"""Reward and late share of a tuned rule beside the learned policy's, on the tables and off them, to docs/simple-rule.png."""

from __future__ import annotations

from experiments import common, plot


def main() -> None:
    result = common.read("simple_rule")
    figure, (ax,) = plot.axes(1, width=6.4)
    policies = {f"rule {name}": row for name, row in result["rules"].items()} | {"MEG-CVPO": result["bundled cvpo"]}
    for (name, row), colour, mark in zip(policies.items(), (plot.ORANGE, plot.GREEN, plot.BLUE), "s^o", strict=True):
        tables, real = row["tables"], row["as_described"]["stationary"]
        x, y = (tables["late_by_limit"], real["late_by_limit"]["mean"]), (tables["reward"], real["reward"]["mean"])
        ax.plot(x, y, color=colour, linewidth=0.8)
        ax.plot(x[0], y[0], mark, color=colour, mfc="white")
        error = real["late_by_limit"]["standard_error"], real["reward"]["standard_error"]
        ax.errorbar(x[1], y[1], error[1], error[0], fmt=mark, color=colour, label=name)
    ax.axhline(result["optimum_reward_on_the_tables"], color=plot.BLACK, linestyle=":", label="exact optimum of the tables")
    ax.axvline(1, color=plot.GREY, linestyle="--", label="limit")
    ax.set(xlabel="share of late requests by its limit", ylabel="reward: -ln MSE")
    plot.save(
        figure,
        "simple-rule",
        "hollow: exact discounted means on the tables; filled: stationary means on the process as described",
        legend_columns=2,
    )


if __name__ == "__main__":
    main()
