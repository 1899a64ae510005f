"""VAE, IntroVAE and Soft-IntroVAE on the four densities of the paper: samples, density estimates, and a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training
from sivae.reproduce.markdown import figure, finite, listed, mean, mean_and_spread, spread, table
from sivae.reproduce.methods import METHODS

NAME = "density-2d"
SUMMARY = "VAE, IntroVAE and Soft-IntroVAE on four densities in the plane"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "24 trainings of 3,000 iterations, about 15 minutes on 2 idle CPU cores",
    "full": "60 trainings of 30,000 iterations, about 15 minutes each on an idle CPU core",
}

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
    settings.refuse("data", "against", "run", experiment=NAME)
    length = settings.pick(quick={"steps": 3_000, "batch_size": 256}, full={})
    return [
        Training(_name(density, method, seed), settings.configure(density, objective=method, seed=seed, **length))
        for seed in settings.seed_range(quick=2, full=5)
        for density in DENSITIES
        for method in METHODS
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path) -> Report:
    """The figure of the first seed, and the metrics over all of them."""
    seeds = sorted({run.config.seed for run in runs.values()})
    _draw(folder / _FIGURE, runs, seeds[0])
    numbers: dict[str, Any] = {}
    rows = []
    for density in DENSITIES:
        numbers[density] = {}
        for method, title in METHODS.items():
            values = {
                metric: [runs[_name(density, method, seed)].metric(metric) for seed in seeds] for metric in _METRICS
            }
            numbers[density][method] = {
                metric: {"values": given, "mean": mean(given), "standard_deviation": spread(given)}
                for metric, given in values.items()
            }
            rows.append([f"{density}, {title}", *(mean_and_spread(given) for given in values.values())])
        floor = _floor(density)
        numbers[density]["data"] = floor
        rows.append([f"{density}, the data itself", *(mean_and_spread(floor.get(metric, [])) for metric in _METRICS)])
    first = runs[_name(DENSITIES[0], "soft-intro", seeds[0])].config
    about = (
        f"{listed(list(METHODS.values()))}, each on {listed(DENSITIES)} with {len(seeds)} "
        f"seed{'' if len(seeds) == 1 else 's'}: {first.total_steps:,} iterations of batch {first.batch_size}, of which "
        f"the first {first.warmup_steps:,} train a plain VAE. Weights are those that the authors published for "
        "Soft-IntroVAE on each density; VAE and IntroVAE have the same beta_rec and beta_kl, and nobody published "
        f"values for them here. IntroVAE's margin is {_margin(runs)}."
    )
    panels = figure(
        _FIGURE,
        f"Data, and for each method {_POINTS:,} points decoded from the prior (left) and the density that its ELBO "
        f"implies, exp(ELBO) normalised over the square, darker is denser, square-root scale (right); seed {seeds[0]}.",
    )
    measured = table(["", *_METRICS.values()], rows)
    words = (
        f"{measured}\n\nLower is better in every column; {_over(len(seeds))}. gnELBO, "
        "official KL and official JSD are computed as the published program computes them: the first is a ratio that "
        "only compares with others on an equal grid, and the two divergences sum densities instead of probabilities. "
        "KL and JSD are on probabilities, JSD with the standard direction. *The data itself* is what fresh samples of "
        f"the data score against each other, {_PROTOCOL:,} points each as in the metric: a perfect model's floor."
    )
    return Report(
        about,
        [
            ("Samples and densities", panels),
            ("Figures of merit", words),
            ("What we see", _findings(numbers, runs, len(seeds))),
            (
                "What there is to compare with",
                "The paper's tables are not at hand, so no figure here is held against one of theirs. "
                "`docs/results/density-2d.md` of the project has a run of the published program at full size.",
            ),
        ],
        numbers,
        [_FIGURE],
    )


def _name(density: str, method: str, seed: int) -> str:
    return f"{density}-{method}-seed{seed}"


def _over(seeds: int) -> str:
    return "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"


def _margin(runs: Mapping[str, Trained]) -> str:
    margins = {run.config.objective.margin for run in runs.values() if run.config.objective.name == "intro"}
    return listed([f"{margin:g}" for margin in sorted(one for one in margins if one is not None)])


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
    values: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(3):
        p, q = (
            metrics.density_histogram(source.sample(_PROTOCOL, generator=generator, dtype=torch.float64), source.extent)
            for _ in range(2)
        )
        for name, function in functions.items():
            values[name].append(function(p, q))
    return values


def _rankings(numbers: Mapping[str, Any]) -> list[str]:
    """For each density, whose mean is lowest, and where the seeds do not decide it."""
    lines = []
    for density in DENSITIES:
        leaders: dict[str, list[str]] = {}
        undecided = []
        for metric, title in _METRICS.items():
            found = {
                method: numbers[density][method][metric]
                for method in METHODS
                if finite(numbers[density][method][metric]["values"])
            }
            if not found:
                continue
            ranked = sorted(found, key=lambda method: float(found[method]["mean"]))
            leaders.setdefault(METHODS[ranked[0]], []).append(title)
            if len(ranked) > 1 and _overlap(found[ranked[0]]["values"], found[ranked[1]]["values"]):
                undecided.append(title)
        best = "; ".join(f"{method} in {listed(titles)}" for method, titles in leaders.items())
        doubt = f" (in {listed(undecided)} the seeds of the best two overlap)" if undecided else ""
        lines.append(f"- {density}: lowest mean is {best or 'nobody, as no figure is finite'}{doubt}.")
    return lines


def _findings(numbers: Mapping[str, Any], runs: Mapping[str, Trained], seeds: int) -> str:
    """Sentences that say no more than the numbers do."""
    lines = _rankings(numbers)
    if seeds == 1:
        lines.append("- With one seed there is no spread, and no order is certain.")
    diverged = [run.name for run in runs.values() if run.summary is None]
    if diverged:
        lines.append(f"- Training diverged, and was given up: {listed(diverged)}.")
    for method, title in METHODS.items():
        captured = [runs[_name("8gaussians", method, seed)].metric("modes_captured") for seed in sorted(_seeds(runs))]
        kept = finite(captured)
        if kept:
            counts = listed([f"{value:.0f}" for value in kept])
            lines.append(f"- Of the 8 modes of 8gaussians {title} captures {counts} (seed by seed).")
    return "\n".join(lines)


def _seeds(runs: Mapping[str, Trained]) -> set[int]:
    return {run.config.seed for run in runs.values()}


def _overlap(best: Sequence[float], second: Sequence[float]) -> bool:
    return max(finite(best)) >= min(finite(second))


def _draw(path: Path, runs: Mapping[str, Trained], seed: int) -> None:
    import torch

    from sivae import from_pretrained
    from sivae.data import get_density
    from sivae.evaluation import density_grid
    from sivae.figures.charts import new_figure, show_density, show_points, show_text, small_plane, write_figure
    from sivae.figures.look import BLUE, INK, ORANGE

    heads = ["data", *(f"{title}{part}" for title in METHODS.values() for part in (": samples", ": density"))]
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
        for index, method in enumerate(METHODS):
            samples, grid = cells[1 + 2 * index : 3 + 2 * index]
            run = runs[_name(name, method, seed)]
            if run.summary is None:
                show_text(samples, "diverged")
                show_text(grid, "diverged")
                continue
            model = from_pretrained(run.folder)
            show_points(samples, model.sample(_POINTS, generator=generator), ORANGE)
            show_density(grid, density_grid(model, density, 128))
    write_figure(
        path,
        drawing,
        "Samples and density estimates",
        f"{_POINTS:,} points in each panel of samples; densities normalised over the square, each panel to its own "
        f"maximum; seed {seed}",
    )
