"""Compare VAE, IntroVAE and Soft-IntroVAE on four densities: samples, density estimates and metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sivae.reproduce.experiment import METHODS, Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import figure, mean, mean_and_spread, over_seeds, spread, table
from sivae.words import listed, plural

NAME = "density-2d"
SUMMARY = "VAE, IntroVAE and Soft-IntroVAE on four densities in the plane"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "32 trainings of 3,000 iterations, about 15 minutes on 2 idle CPU cores with AMX",
    "full": "80 trainings of 30,000 iterations, about 10 minutes each on an idle CPU core with AMX",
}

# Of a short training; it keeps the full rate for longer than the presets' third of the steps.
QUICK: Mapping[str, Any] = {"steps": 3_000, "batch_size": 256, "milestones": (0.75, 0.9), "rate_factor": 0.2}
_AUTO = "auto"
_METHODS = {**METHODS, _AUTO: "Soft-IntroVAE, automatic"}
DENSITIES = ("8gaussians", "2spirals", "checkerboard", "rings")
_METRICS = {
    "gnelbo": "gnELBO",
    "official_kl": "official KL",
    "official_jsd": "official JSD",
    "kl": "KL (nats)",
    "jsd": "JSD (nats)",
}
_FIGURE = "densities.png"
_POINTS = 4_000  # in a panel
_PROTOCOL = 5_000  # points of each kind that the divergences compare


def trainings(settings: Settings) -> list[Training]:
    """Every method on every density with every seed, seeds outermost, so that a first look needs only the first."""
    settings.allow("seeds", "steps", experiment=NAME)
    made = []
    for seed in settings.seed_range(quick=2, full=5):
        for density in DENSITIES:
            for method in _METHODS:
                auto = {"objective": "soft-intro", "beta_neg": "auto"}
                given = auto if method == _AUTO else {"objective": method}
                config = settings.configure(density, seed=seed, precision="auto", quick=QUICK, **given)
                made.append(Training(_name(density, method, seed), config))
    return made


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """The figure of the first seed, and the metrics over all of them."""
    seeds = seeds_of(runs)
    _draw(folder / _FIGURE, runs, seeds[0])
    numbers: dict[str, Any] = {}
    rows = []
    for density in DENSITIES:
        found = {
            method: {
                metric: [runs[_name(density, method, seed)].metric(metric) for seed in seeds]
                for metric in (*_METRICS, "modes_captured")
            }
            for method in _METHODS
        }
        floor = _floor(density)
        numbers[density] = {
            method: {
                metric: {"values": given, "mean": mean(given), "standard_deviation": spread(given)}
                for metric, given in values.items()
            }
            for method, values in found.items()
        } | {"data": floor}
        best = {metric: _lowest({method: found[method][metric] for method in _METHODS}) for metric in _METRICS}
        for method, title in _METHODS.items():
            cells = [mean_and_spread(found[method][metric]) for metric in _METRICS]
            cells = [
                f"**{cell}**" if best[metric] == method else cell for metric, cell in zip(_METRICS, cells, strict=True)
            ]
            modes = [f"{value:.0f}" for value in found[method]["modes_captured"] if math.isfinite(value)]
            rows.append([f"{density}, {title}", *cells, listed(modes) or "–"])
        data = [mean_and_spread(floor.get(metric, [])) for metric in _METRICS]
        rows.append([f"{density}, the data itself", *data, "–"])
    config = next(iter(runs.values())).config
    panels = figure(
        _FIGURE,
        f"Data, and for each method {_POINTS:,} points decoded from the prior (left) and the density that its ELBO "
        f"implies, exp(ELBO) normalised over the square, darker is denser, square-root scale (right); seed {seeds[0]}.",
    )
    how = (
        f"Lower is better; {over_seeds(len(seeds))}; bold where every seed is below every seed of the other methods. "
        "gnELBO, official KL and official JSD are computed as the published program computes them: gnELBO can "
        "be compared only on an equal grid, and the two divergences sum densities instead of probabilities. "
        f"*The data itself* compares fresh samples of the data with each other, {_PROTOCOL:,} points each: the "
        "lowest values that a perfect model can reach. Modes of 8gaussians out of 8, seed by seed."
    )
    return Report(
        f"{listed(METHODS.values())} on {listed(DENSITIES)} with {plural(len(seeds), 'seed')} each: "
        f"{schedule(config)}, precision {config.precision}. Weights are those of the presets; *automatic* is "
        "Soft-IntroVAE with `--beta-neg auto`.",
        [
            ("Samples and densities", panels),
            ("Metrics", f"{table(['', *_METRICS.values(), 'modes'], rows)}\n\n{how}"),
        ],
        numbers,
        [_FIGURE],
    )


def _name(density: str, method: str, seed: int) -> str:
    return f"{density}-{method}-seed{seed}"


def _lowest(values: Mapping[str, Sequence[float]]) -> str | None:
    """The method whose values are all below all of the others; None where there is none, or only one seed."""
    filled = {method: [x if math.isfinite(x) else math.inf for x in given] for method, given in values.items()}
    best, *others = sorted(filled, key=lambda method: max(filled[method]))
    apart = max(filled[best]) < min(min(filled[other]) for other in others)
    return best if apart and len(filled[best]) > 1 else None


def _floor(density: str) -> dict[str, list[float]]:
    """The divergences between fresh samples of the data: three pairs."""
    import torch

    from sivae.data import get_density
    from sivae.evaluation import density as metrics

    source = get_density(density)
    generator = torch.Generator().manual_seed(0)
    functions = {
        "official_kl": metrics.official_kl_divergence,
        "official_jsd": metrics.official_js_divergence,
        "kl": metrics.kl_divergence,
        "jsd": metrics.js_divergence,
    }

    def histogram() -> torch.Tensor:
        points = source.sample(_PROTOCOL, generator=generator, dtype=torch.float64)
        return metrics.density_histogram(points, source.extent)

    pairs = [(histogram(), histogram()) for _ in range(3)]
    return {name: [function(p, q) for p, q in pairs] for name, function in functions.items()}


def _draw(path: Path, runs: Mapping[str, Trained], seed: int) -> None:
    import torch

    from sivae.data import get_density
    from sivae.evaluation.density import density_grid
    from sivae.figures.charts import new_figure, show_density, show_points, show_text, small_plane, write_figure
    from sivae.figures.look import BLUE, INK, ORANGE

    heads = ["data", *(f"{title}{part}" for title in _METHODS.values() for part in (": samples", ": density"))]
    panel, left, top = 1.75, 1.15, 0.95  # inches
    width, height = left + len(heads) * panel + 0.15, top + len(DENSITIES) * panel + 0.55
    drawing = new_figure(width, height)
    for row, name in enumerate(DENSITIES):
        density = get_density(name)
        generator = torch.Generator().manual_seed(0)
        lower = top + (row + 1) * panel
        drawing.text(0.012, 1 - (lower - panel / 2) / height, name, rotation=90, va="center", color=INK)
        cells = []
        for column, head in enumerate(heads):
            x = left - 0.45 + column * panel + 0.14 * ((column + 1) // 2)  # a gap between the methods
            box = (x / width, 1 - (lower - 0.08) / height, (panel - 0.12) / width, (panel - 0.12) / height)
            last = row == len(DENSITIES) - 1
            title = head if row == 0 else ""
            cells.append(small_plane(drawing, box, 2 * density.extent, title=title, x=last, y=column == 0))
        show_points(cells[0], density.sample(_POINTS, generator=generator), BLUE)
        for index, method in enumerate(_METHODS):
            samples, grid = cells[1 + 2 * index : 3 + 2 * index]
            run = runs[_name(name, method, seed)]
            if run.summary is None:
                show_text(samples, "diverged")
                show_text(grid, "diverged")
                continue
            model = run.load()
            show_points(samples, model.sample(_POINTS, generator=generator), ORANGE)
            show_density(grid, density_grid(model, density, 128))
    write_figure(
        path,
        drawing,
        "Samples and density estimates",
        f"{_POINTS:,} points in each panel of samples; densities normalised over the square, each panel to its own "
        f"maximum; seed {seed}",
    )
