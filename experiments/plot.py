"""One look for every figure: colours that colour-blind readers tell apart, a legend below the axes, a light grid."""

from __future__ import annotations

from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from experiments import common

# Okabe and Ito's colours
BLACK, ORANGE, SKY, GREEN, YELLOW, BLUE, RED, PINK = "#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "0.55"
MAP = "cividis"  # of values over a plane


def axes(columns: int, rows: int = 1, width: float = 5.2, height: float = 3.8) -> tuple[plt.Figure, list[Any]]:
    """A figure and its axes, row by row."""
    plt.rcParams.update({"font.size": 9, "axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    figure, grid = plt.subplots(rows, columns, figsize=(width * columns, height * rows), squeeze=False, layout="constrained")
    return figure, list(np.ravel(grid))


def save(figure: plt.Figure, name: str, title: str = "", legend_columns: int = 4) -> None:
    """Put one legend of all axes below them and write docs/NAME.png."""
    handles: dict[str, Any] = {}
    for ax in figure.axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=legend_columns, frameon=False, fontsize=8)
    if title:
        figure.suptitle(title, fontsize=9)
    figure.savefig(common.DOCS / f"{name}.png", dpi=110)
    plt.close(figure)
