"""How every figure looks: colours, axes, title and caption.

Figures are built through matplotlib's object interface, so nothing here touches pyplot's global state or
needs a display.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from sivae.files import atomic_file

INK = "#22303c"
MUTED = "#6b7885"
RULE = "#d5dbe1"
BLUE = "#2a6f97"
ORANGE = "#e07a3f"
GREEN = "#5f8f4e"
DEPTHS = LinearSegmentedColormap.from_list(
    "sivae_depths", ["#ffffff", "#d3e6ec", "#8fc1cf", "#3f8fae", "#1f5f8b", "#1a3a63", "#14213d"]
)


def new_figure(width: float, height: float) -> Figure:
    """A white figure of that size in inches."""
    figure = Figure(figsize=(width, height), dpi=144, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def plain(axes: Axes) -> None:
    """Axes without the upper and right spines, in quiet colours."""
    axes.set_facecolor("white")
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=8, length=3)
    for side, spine in axes.spines.items():
        spine.set_color(RULE)
        spine.set_visible(side in ("left", "bottom"))


def square(axes: Axes, limit: float) -> None:
    """Axes over the square `[-limit, limit]²` of the plane."""
    plain(axes)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set_xlabel("x₁", color=MUTED, fontsize=10)
    axes.set_ylabel("x₂", color=MUTED, fontsize=10, rotation=0, labelpad=8)
    ticks = np.linspace(-limit, limit, 5)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    for spine in axes.spines.values():
        spine.set_visible(True)


def finish(figure: Figure, title: str, caption: str) -> None:
    """Write a title above and a caption below; they take the uppermost and the lowest tenth, about."""
    # A run's name may hold a dollar sign; it is text, not mathematics.
    heading = figure.text(0.02, 0.978, title, ha="left", va="top", fontsize=14, fontweight="bold", color=INK)
    heading.set_parse_math(False)
    figure.text(0.02, 0.022, caption, ha="left", va="bottom", fontsize=9, color=MUTED)


def write_figure(path: str | os.PathLike[str], figure: Figure) -> None:
    """Write a PNG file atomically; missing folders are made."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(target) as temporary:
        figure.savefig(temporary, format="png")
