"""Draw charts by matplotlib: points, densities, loss curves and histograms of scores, as PNG files.

Charts are built through matplotlib's object interface, so nothing here changes pyplot's global state or needs a
display. A file is complete or not there at all; missing folders are made, and an existing file is replaced.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from sivae.figures.look import BLUE, INK, LIGHT_TO_DARK, MUTED, NOT_FINITE, ORANGE, PAPER, RULE, picture_file
from sivae.words import plural

Grid = Literal["both", "x", "y"]
Box = tuple[float, float, float, float]  # left, bottom, width and height, as shares of the figure

DEPTHS = LinearSegmentedColormap.from_list("sivae_depths", LIGHT_TO_DARK)

_SMOOTHED_FROM = 200  # points; a shorter curve is drawn as it is
_BINS = 60

# Title, unit and curves of each panel; of a curve its key in the records, its label and its colour.
_CURVES: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Reconstruction", "squared error per sample", (("rec", "rec", BLUE),)),
    ("KL to the prior", "nats per sample", (("kl_real", "real", BLUE), ("kl_fake", "fake", ORANGE))),
    ("exp-ELBO of fakes", "mean of exp(…)/α", (("exp_elbo_fake", "fake", ORANGE),)),
    ("Losses", "loss", (("loss_encoder", "encoder", BLUE), ("loss_decoder", "decoder", ORANGE))),
)


def new_figure(width: float, height: float) -> Figure:
    """Make a white figure of that size in inches."""
    figure = Figure(figsize=(width, height), dpi=144, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def panel(figure: Figure, box: Box, *, title: str = "", x: str = "", y: str = "", grid: Grid | None = "both") -> Axes:
    """Add axes with a title and labels, without the upper and right spines, over the thin lines of a grid."""
    axes = figure.add_axes(box)
    _plain(axes)
    if grid is not None:
        axes.grid(True, axis=grid, color=RULE, linewidth=0.6)
    axes.set_title(title, color=INK, fontsize=11, fontweight="bold", loc="left").set_parse_math(False)
    axes.set_xlabel(x, color=MUTED, fontsize=9)
    axes.set_ylabel(y, color=MUTED, fontsize=9)
    return axes


def plane(figure: Figure, box: Box, limit: float) -> Axes:
    """Add axes over the square `[-limit, limit]²` of the plane."""
    axes = figure.add_axes(box)
    _plain(axes)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set_xlabel("x₁", color=MUTED, fontsize=10)
    axes.set_ylabel("x₂", color=MUTED, fontsize=10, rotation=0, labelpad=8)
    ticks = np.linspace(-limit, limit, 5)
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)
    for spine in axes.spines.values():
        spine.set_visible(True)
    return axes


def small_plane(figure: Figure, box: Box, limit: float, *, title: str = "", x: bool = True, y: bool = True) -> Axes:
    """Add a :func:`plane` that is one of many, with the name of an axis only where `x` or `y` says so."""
    axes = plane(figure, box, limit)
    axes.set_title(title, color=INK, fontsize=9, fontweight="bold", loc="left")
    axes.set_xlabel("x₁" if x else "", fontsize=8, labelpad=1)
    axes.set_ylabel("x₂" if y else "", fontsize=8, labelpad=1)
    axes.set_xticks([-limit / 2, 0, limit / 2])
    axes.set_yticks([-limit / 2, 0, limit / 2])
    axes.tick_params(labelsize=6, length=2, labelleft=y, pad=1)
    return axes


def value_ticks(axes: Axes, values: Sequence[float]) -> None:
    """Put a logarithmic scale below, with a tick at each of the values, whose numbers stand aslant to have room."""
    axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:.3g}" for value in values], rotation=40, ha="right", rotation_mode="anchor")
    axes.minorticks_off()


def legend(axes: Axes, **options: Any) -> None:
    """Add a legend without a frame."""
    axes.legend(**{"frameon": False, "fontsize": 9, "labelcolor": INK, **options})


def show_text(axes: Axes, text: str) -> None:
    """Write a text in the middle of axes that have nothing else to show."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=MUTED)


def show_points(axes: Axes, points: Tensor, color: str, *, size: float = 1.2, alpha: float = 0.5) -> None:
    """Draw points [N, 2] as dots of that area, in square points."""
    values = _array(points)
    axes.scatter(values[:, 0], values[:, 1], s=size, color=color, alpha=alpha, linewidths=0)


def show_density(axes: Axes, grid: Tensor) -> AxesImage:
    """Draw a density [R, R] over the whole of the axes, the first index to the right, darker where it is denser."""
    values = _array(grid)
    finite = values[np.isfinite(values)]
    axes.set_facecolor(NOT_FINITE)
    return axes.imshow(
        np.ma.masked_invalid(values.T),
        origin="lower",
        extent=(*axes.get_xlim(), *axes.get_ylim()),
        cmap=DEPTHS,
        # One sharp peak would make everything else invisible on a linear scale.
        norm=PowerNorm(0.5, vmin=0.0, vmax=float(finite.max()) if finite.size and finite.max() > 0 else 1.0),
        interpolation="nearest",
    )


def write_figure(path: str | os.PathLike[str], figure: Figure, title: str, caption: str) -> None:
    """Add a title above and a caption below, in about a tenth of the height each, and write a PNG file."""
    # A run's name may hold a dollar sign; it is text, not mathematics.
    heading = figure.text(0.02, 0.978, title, ha="left", va="top", fontsize=14, fontweight="bold", color=INK)
    heading.set_parse_math(False)
    figure.text(0.02, 0.022, caption, ha="left", va="bottom", fontsize=9, color=MUTED)
    with picture_file(path) as temporary:
        figure.savefig(temporary, format="png")


def plot_samples(path: str | os.PathLike[str], real: Tensor, fake: Tensor, extent: float, title: str) -> None:
    """Draw data and generated points side by side.

    Args:
        path: PNG file to write.
        real: data points ``[N, 2]``.
        fake: generated points ``[M, 2]``; those outside the square ``[-2·extent, 2·extent]²`` are counted in the
            caption.
        extent: a quarter of the square's side.
        title: shown as it is.

    Raises:
        ValueError: ``real`` or ``fake`` is not ``[N, 2]``.
    """
    for name, points in (("real", real), ("fake", fake)):
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"plot_samples: {name} must be [N, 2], got {list(points.shape)}")
    figure = new_figure(9.0, 5.0)
    limit = 2 * extent
    for index, (name, points, color) in enumerate((("data", real, BLUE), ("model", fake, ORANGE))):
        axes = plane(figure, (0.075 + 0.475 * index, 0.165, 0.425, 0.68), limit)
        # Dots shrink as they grow in number, so that neither 200 nor 20,000 of them hide the shape.
        show_points(axes, points, color, size=float(np.clip(9000 / max(len(points), 1), 1.2, 14)), alpha=0.55)
        axes.set_title(name, color=color, fontsize=11, fontweight="bold", loc="left")
    hidden = int((~(np.abs(_array(fake)) <= limit).all(axis=1)).sum())
    caption = f"{len(real):,} data points and {len(fake):,} points generated from the prior"
    caption += f"; generated points outside the frame: {hidden:,}" if hidden else ""
    write_figure(path, figure, title, caption)


def plot_density(path: str | os.PathLike[str], grid: Tensor, extent: float, title: str) -> None:
    """Draw a density on the square ``[-2·extent, 2·extent]²``.

    Args:
        path: PNG file to write.
        grid: density per unit area ``[R, R]``, the first index along the first coordinate, as
            :func:`sivae.evaluation.density.density_grid` and its `density_histogram` return it.
        extent: a quarter of the square's side.
        title: shown as it is.

    Raises:
        ValueError: ``grid`` is not a square matrix.
    """
    if grid.ndim != 2 or grid.shape[0] != grid.shape[1] or grid.shape[0] == 0:
        raise ValueError(f"plot_density: grid must be [R, R], got {list(grid.shape)}")
    figure = new_figure(6.4, 6.05)
    axes = plane(figure, (0.115, 0.14, 0.715, 0.757), 2 * extent)
    bar = figure.colorbar(show_density(axes, grid), cax=figure.add_axes((0.855, 0.14, 0.028, 0.757)))
    bar.set_label("density per unit area, square-root scale", color=MUTED, fontsize=9)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=3)
    bar.outline.set_visible(False)
    side, broken = grid.shape[0], int((~grid.isfinite()).sum())
    caption = f"{side} × {side} cells, normalised over the square shown"
    caption += f"; cells that are not finite: {broken:,}" if broken else ""
    write_figure(path, figure, title, caption)


def plot_curves(path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the loss curves of a run.

    Args:
        path: PNG file to write.
        records: one mapping per logged step with ``step`` and any of ``rec``, ``kl_real``, ``kl_fake``,
            ``exp_elbo_fake``, ``loss_encoder``, ``loss_decoder``. Records without a finite step are left out, missing
            values leave a gap, and values that are not finite are left out and counted in the caption.
        title: shown as it is.
    """
    kept = [record for record in records if math.isfinite(_number(record.get("step")))]
    steps = np.array([_number(record["step"]) for record in kept])
    figure = new_figure(10.0, 6.6)
    broken = 0
    smoothed = False
    for index, (name, unit, series) in enumerate(_CURVES):
        box = (0.085 + 0.485 * (index % 2), 0.555 - 0.425 * (index // 2), 0.405, 0.315)
        axes = panel(figure, box, title=name, x="step", y=unit)
        drawn = []
        recorded = False
        for key, label, color in series:
            present = [key in record and record[key] is not None for record in kept]
            values = np.array([_number(record.get(key)) for record in kept])
            shown = np.isfinite(values)
            recorded |= any(present)
            broken += int((np.array(present, dtype=bool) & ~shown).sum())
            if not shown.any():
                continue
            drawn.append(values[shown])
            smoothed |= _curve(axes, steps[shown], values[shown], label, color)
        if not drawn:
            show_text(axes, "no finite values" if recorded else "not recorded")
            axes.set_xticks([])
            axes.set_yticks([])
            continue
        _value_scale(axes, np.concatenate(drawn))
        margin = max(0.03 * (steps.max() - steps.min()), 0.5)
        axes.set_xlim(steps.min() - margin, steps.max() + margin)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(series) > 1:
            legend(axes, loc="best")
    caption = plural(len(kept), "record")
    caption += "; thin: as recorded, thick: running median" if smoothed else ""
    caption += f"; values left out because they are not finite: {broken:,}" if broken else ""
    write_figure(path, figure, title, caption)


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
        path: PNG file to write.
        panels: scores by the set's name by the model's name, the set that the model knows first. Each panel has a
            scale of its own. The outermost half per cent on either side, and scores that are not finite, are drawn at
            the edge.
        score: the label of the axis, with its unit.
        title: shown as it is.
        threshold: where to draw a line in every panel; None: nowhere.

    Raises:
        ValueError: a set is empty, or there is none, or a score is NaN.
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
        box = (index * width + 0.65 * inch, 0.21, width - 0.9 * inch, 0.53)
        axes = panel(figure, box, x=score, y="share of the set" if index == 0 else "", grid=None)
        axes.set_title(model, color=INK, fontsize=11, fontweight="bold", loc="left", pad=24).set_parse_math(False)
        edges = _score_edges(axes, list(sets.values()))
        for (name, values), color in zip(sets.items(), (BLUE, ORANGE), strict=False):
            inside = np.clip(values, edges[0], edges[-1])
            share = np.full(len(values), 1.0 / len(values))
            label = f"{name} ({len(values):,})".replace("$", r"\$")
            axes.hist(inside, edges.tolist(), weights=share, color=color, alpha=0.28, linewidth=0)
            axes.hist(inside, edges.tolist(), weights=share, color=color, histtype="step", linewidth=1.5, label=label)
        if threshold is not None:
            axes.axvline(threshold, color=INK, linewidth=1.0, linestyle="--", label="threshold")
        above = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2, "borderpad": 0.0}
        legend(axes, ncols=3, handlelength=1.2, columnspacing=1.2, **above)
    write_figure(
        path,
        figure,
        title,
        "more to the right: less like what the model was trained on; extremes are drawn at the edges",
    )


def _plain(axes: Axes) -> None:
    axes.set_facecolor(PAPER)
    axes.set_axisbelow(True)
    axes.tick_params(which="both", colors=MUTED, labelsize=8, length=3)
    for side, spine in axes.spines.items():
        spine.set_color(RULE)
        spine.set_visible(side in ("left", "bottom"))


def _curve(axes: Axes, steps: NDArray[Any], values: NDArray[Any], label: str, color: str) -> bool:
    """Draw one curve, with a running median over it if it is long; return whether there is one."""
    if len(values) < _SMOOTHED_FROM:
        marker = "o" if len(values) <= 30 else ""
        axes.plot(steps, values, color=color, linewidth=1.6, marker=marker, markersize=3, label=label)
        return False
    half = len(values) // 100 + 1
    padded = np.pad(values, half, mode="reflect")
    median = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1), axis=1)
    axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.35)
    axes.plot(steps, median, color=color, linewidth=1.7, label=label)
    return True


def _value_scale(axes: Axes, values: NDArray[Any]) -> None:
    """Set log for positive values over a decade and a half or more, symlog if signs mix, else linear."""
    size = np.abs(values[values != 0])
    if size.size == 0 or size.max() < 30 * np.percentile(size, 2):
        return
    if size.size == values.size and values.min() > 0:
        axes.set_yscale("log")
        # One value that underflowed would otherwise squeeze the curve into the top of the panel.
        floor = max(float(values.min()), float(values.max()) * 1e-12)
        axes.set_ylim(floor / 1.3, float(values.max()) * 1.3)
    else:
        threshold = max(float(np.percentile(size, 10)), float(size.max()) * 1e-6)
        axes.set_yscale("symlog", linthresh=10.0 ** math.floor(math.log10(threshold)))


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


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _array(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array
