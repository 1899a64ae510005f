"""Pictures of a run: samples, densities and loss curves, as PNG files.

A file appears under its name only when it is complete.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from sivae.evaluation.style import (
    BLUE,
    DEPTHS,
    INK,
    MUTED,
    ORANGE,
    RULE,
    finish,
    new_figure,
    plain,
    square,
    write_figure,
)

_SMOOTHED_FROM = 200  # points; below that the eye follows the raw curve

_PANELS: tuple[tuple[str, str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Reconstruction", "squared error per sample", (("rec", "rec", BLUE),)),
    ("KL to the prior", "nats per sample", (("kl_real", "real", BLUE), ("kl_fake", "fake", ORANGE))),
    ("exp-ELBO of fakes", "mean of exp(…)/α", (("exp_elbo_fake", "fake", ORANGE),)),
    ("Losses", "loss", (("loss_encoder", "encoder", BLUE), ("loss_decoder", "decoder", ORANGE))),
)


def plot_samples(path: str | os.PathLike[str], real: Tensor, fake: Tensor, extent: float, title: str) -> None:
    """Draw data and generated points beside each other.

    Args:
        path: PNG file to write; missing folders are made, an existing file is replaced.
        real: data points ``[N, 2]``.
        fake: generated points ``[M, 2]``; those outside the square ``[-2·extent, 2·extent]²`` are counted in
            the caption.
        extent: a quarter of the square's side.
        title: shown as it is.

    Raises:
        ValueError: ``real`` or ``fake`` is not ``[N, 2]``.
    """
    clouds = {"data": _points("real", real), "model": _points("fake", fake)}
    figure = new_figure(9.0, 5.0)
    limit = 2 * extent
    for index, ((name, cloud), color) in enumerate(zip(clouds.items(), (BLUE, ORANGE), strict=True)):
        axes = figure.add_axes((0.075 + 0.475 * index, 0.165, 0.425, 0.68))
        # Dots shrink as they grow in number, so that neither 200 nor 20,000 of them hide the shape.
        size = float(np.clip(9000 / max(len(cloud), 1), 1.2, 14))
        axes.scatter(cloud[:, 0], cloud[:, 1], s=size, color=color, alpha=0.55, linewidths=0)
        square(axes, limit)
        axes.set_title(name, color=color, fontsize=11, fontweight="bold", loc="left")
    hidden = int((~(np.abs(clouds["model"]) <= limit).all(axis=1)).sum())
    caption = f"{len(real):,} data points and {len(fake):,} points generated from the prior"
    caption += f"; generated points outside the frame: {hidden:,}" if hidden else ""
    finish(figure, title, caption)
    write_figure(path, figure)


def plot_density(path: str | os.PathLike[str], grid: Tensor, extent: float, title: str) -> None:
    """Draw a density on the square ``[-2·extent, 2·extent]²``.

    Args:
        path: PNG file to write; missing folders are made, an existing file is replaced.
        grid: density per unit area ``[R, R]``, the first index along the first coordinate, as
            :func:`sivae.evaluation.density_grid` and :func:`sivae.evaluation.density_histogram` return it.
        extent: a quarter of the square's side.
        title: shown as it is.

    Raises:
        ValueError: ``grid`` is not a square matrix.
    """
    if grid.ndim != 2 or grid.shape[0] != grid.shape[1] or grid.shape[0] == 0:
        raise ValueError(f"plot_density: grid must be [R, R], got {list(grid.shape)}")
    values = _array(grid)
    limit = 2 * extent
    finite = values[np.isfinite(values)]
    figure = new_figure(6.4, 6.05)
    axes = figure.add_axes((0.115, 0.14, 0.715, 0.757))
    image = axes.imshow(
        np.ma.masked_invalid(values.T),
        origin="lower",
        extent=(-limit, limit, -limit, limit),
        cmap=DEPTHS,
        # One sharp peak would make everything else invisible on a linear scale.
        norm=PowerNorm(0.5, vmin=0.0, vmax=float(finite.max()) if finite.size and finite.max() > 0 else 1.0),
        interpolation="nearest",
    )
    axes.set_facecolor("#f3d9cd")
    square(axes, limit)
    bar = figure.colorbar(image, cax=figure.add_axes((0.855, 0.14, 0.028, 0.757)))
    bar.set_label("density per unit area, square-root scale", color=MUTED, fontsize=9)
    bar.ax.tick_params(colors=MUTED, labelsize=8, length=3)
    bar.outline.set_visible(False)
    side = values.shape[0]
    caption = f"{side} × {side} cells, normalised over the square shown"
    caption += f"; cells that are not finite: {values.size - finite.size:,}" if finite.size < values.size else ""
    finish(figure, title, caption)
    write_figure(path, figure)


def plot_curves(path: str | os.PathLike[str], records: Sequence[Mapping[str, Any]], title: str) -> None:
    """Draw the loss curves of a run.

    Args:
        path: PNG file to write; missing folders are made, an existing file is replaced.
        records: one mapping per logged step with ``step`` and any of ``rec``, ``kl_real``, ``kl_fake``,
            ``exp_elbo_fake``, ``loss_encoder``, ``loss_decoder``. Records without a finite step are left out,
            missing values leave a gap, and values that are not finite are left out and counted in the
            caption.
        title: shown as it is.
    """
    kept = [record for record in records if math.isfinite(_number(record.get("step")))]
    steps = np.array([_number(record["step"]) for record in kept])
    figure = new_figure(10.0, 6.6)
    broken = 0
    smoothed = False
    for index, (name, unit, series) in enumerate(_PANELS):
        axes = figure.add_axes((0.085 + 0.485 * (index % 2), 0.555 - 0.425 * (index // 2), 0.405, 0.315))
        plain(axes)
        axes.grid(True, color=RULE, linewidth=0.6)
        axes.set_title(name, color=INK, fontsize=11, fontweight="bold", loc="left")
        axes.set_ylabel(unit, color=MUTED, fontsize=9)
        axes.set_xlabel("step", color=MUTED, fontsize=9)
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
            absence = "no finite values" if recorded else "not recorded"
            axes.text(0.5, 0.5, absence, transform=axes.transAxes, ha="center", color=MUTED)
            axes.set_xticks([])
            axes.set_yticks([])
            continue
        _value_scale(axes, np.concatenate(drawn))
        margin = max(0.03 * (steps.max() - steps.min()), 0.5)
        axes.set_xlim(steps.min() - margin, steps.max() + margin)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="best")
    caption = f"{len(kept):,} records"
    caption += "; thin: as recorded, thick: running median" if smoothed else ""
    caption += f"; values left out because they are not finite: {broken:,}" if broken else ""
    finish(figure, title, caption)
    write_figure(path, figure)


def _curve(axes: Axes, steps: NDArray[Any], values: NDArray[Any], label: str, color: str) -> bool:
    """Draw one curve, with a running median over it if it is long; tell whether there is one."""
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
    """Log for positive values over a decade and a half or more, symlog if signs mix, else linear."""
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


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return math.nan


def _array(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.detach().cpu().double().numpy()
    return array


def _points(name: str, points: Tensor) -> NDArray[np.float64]:
    if points.ndim != 2 or points.shape[1] != 2:
        raise ValueError(f"plot_samples: {name} must be [N, 2], got {list(points.shape)}")
    return _array(points)
