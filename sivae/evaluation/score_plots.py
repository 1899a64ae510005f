"""Histograms of the scores of two sets of images."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import ArrayLike, NDArray

from sivae.evaluation.style import BLUE, INK, MUTED, ORANGE, finish, new_figure, plain, write_figure

_BINS = 60


def plot_scores(
    path: str | os.PathLike[str],
    panels: Mapping[str, Mapping[str, ArrayLike]],
    score: str,
    title: str,
    *,
    threshold: float | None = None,
) -> None:
    """Draw histograms of the scores of two sets of images, one panel for each model.

    Args:
        path: PNG file to write; missing folders are made, an existing file is replaced.
        panels: by the model's name the scores by the set's name, the set that the model knows first. Each panel has a
            scale of its own. The outermost half per cent on either side, and scores that are not finite, are drawn at
            the edge.
        score: what it is, with its unit.
        title: shown as it is.
        threshold: where to draw a line; of the only panel.

    Raises:
        ValueError: there is nothing to draw, or a score is NaN.
    """
    drawn = {
        model: {name: np.asarray(values, dtype=np.float64).reshape(-1) for name, values in sets.items()}
        for model, sets in panels.items()
    }
    if not drawn or not all(len(values) for sets in drawn.values() for values in sets.values()):
        raise ValueError("plot_scores: a set has no scores")
    if any(np.isnan(values).any() for sets in drawn.values() for values in sets.values()):
        raise ValueError("plot_scores: a score is NaN")
    figure = new_figure(7.2 * max(1.0, 0.75 * len(drawn)), 4.3)
    inch = 1.0 / figure.get_figwidth()
    width = 1.0 / len(drawn)
    for index, (model, sets) in enumerate(drawn.items()):
        axes = figure.add_axes((index * width + 0.65 * inch, 0.21, width - 0.9 * inch, 0.53))
        plain(axes)
        edges = _score_edges(axes, list(sets.values()))
        for (name, values), color in zip(sets.items(), (BLUE, ORANGE), strict=False):
            inside = np.clip(values, edges[0], edges[-1])
            share = np.full(len(values), 1.0 / len(values))
            label = f"{name} ({len(values):,})".replace("$", r"\$")
            axes.hist(inside, edges.tolist(), weights=share, color=color, alpha=0.28, linewidth=0)
            axes.hist(inside, edges.tolist(), weights=share, color=color, histtype="step", linewidth=1.5, label=label)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1.0, linestyle="--", label="threshold")
        axes.set_title(model, color=INK, fontsize=11, fontweight="bold", loc="left", pad=24).set_parse_math(False)
        axes.set_xlabel(score, color=MUTED, fontsize=9)
        if index == 0:
            axes.set_ylabel("share of the set's images", color=MUTED, fontsize=9)
        axes.legend(
            frameon=False,
            fontsize=9,
            labelcolor=INK,
            ncols=3,
            loc="lower left",
            bbox_to_anchor=(0.0, 1.0),
            borderaxespad=0.2,
            borderpad=0.0,
            handlelength=1.2,
            columnspacing=1.2,
        )
    finish(figure, title, "more to the right: less like what the model was trained on; extremes are drawn at the edges")
    write_figure(path, figure)


def _score_edges(axes: Axes, sets: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Edges of bins that show all but the extremes; the axis gets a scale on which both sets can be seen."""
    ends = [np.percentile(finite, (0.5, 99.5)) for values in sets if (finite := values[np.isfinite(values)]).size] or [
        np.array([0.0, 1.0])
    ]
    low, high = min(one[0] for one in ends), max(one[1] for one in ends)
    narrowest = min(one[1] - one[0] for one in ends)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    elif high - low > 20 * narrowest > 0:
        if low > 0:
            axes.set_xscale("log")
        else:
            axes.set_xscale("symlog", linthresh=max(-low, narrowest))
    scale = axes.xaxis.get_transform()
    start, stop = scale.transform(np.array([low, high]))
    edges: NDArray[np.float64] = scale.inverted().transform(np.linspace(start, stop, _BINS + 1))
    return edges
