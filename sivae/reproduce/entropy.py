"""Compare the entropy of trained models with the optimum of KL(p_data || p_d) + gamma H(p_d), over gamma."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import figure, mean_and_spread, number, over_seeds, table
from sivae.reproduce.significance import rank_correlation
from sivae.words import listed, plural

NAME = "entropy"
SUMMARY = "the bias towards a low entropy that the theory predicts, against gamma"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "8 trainings of 2,000 iterations, about 5 minutes on 2 idle CPU cores",
    "full": "30 trainings of 30,000 iterations, about 20 minutes each on an idle CPU core",
}

DENSITY = "8gaussians"
GAMMAS: Mapping[Size, tuple[float, ...]] = {"quick": (0.0, 0.5, 1.0, 2.0), "full": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)}
# The theorem's setting: Algorithm 1, with one ELBO for real samples and fakes, and prior samples as the only fakes.
WEIGHTS: Mapping[str, Any] = {
    "beta_rec": 1.0,
    "beta_kl": 0.3,
    "beta_neg": 0.3,
    "gamma_r": 1.0,
    "alpha": 2.0,
    "semantics": "paper",
    "fakes": ("prior",),
}
_EXAMPLE = (0.30, 0.22, 0.16, 0.12, 0.08, 0.05, 0.04, 0.03)
_EXAMPLE_ALPHA = 2.0
_DISCRETE, _TRAINED = "discrete.png", "trained.png"
_POINTS, _MEANS = 4_000, 16_000  # where log p_d is taken, and of how many Gaussians it is made


_THEORY = """\
Where the encoder is at its optimum, ELBO(x) = log p_d(x), and the decoder, whose loss weighs the ELBO of its fakes by γ
(`gamma` of the objective), minimises KL(p_data‖p_d) + γ H(p_d). So H(p_d) cannot rise with γ, and KL(p_data‖p_d) cannot
fall. The encoder reaches that optimum only where p_d(x)^(α+1) ≤ p_data(x). That does not hold between the modes in the
plane, so the theory predicts the direction for trained models, not the values."""


def trainings(settings: Settings) -> list[Training]:
    """A Soft-IntroVAE for every gamma and seed, seeds outermost."""
    settings.allow("seeds", "steps", experiment=NAME)
    quick = {"steps": 2_000, "batch_size": 256}
    return [
        Training(
            f"gamma{gamma:g}-seed{seed}", settings.configure(DENSITY, gamma=gamma, seed=seed, quick=quick, **WEIGHTS)
        )
        for seed in settings.seed_range(quick=2, full=5)
        for gamma in GAMMAS[settings.size]
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """The discrete optimum, the optimum in the plane, and the trained models."""
    import torch

    from sivae.data import get_density
    from sivae.reproduce.entropy_theory import SmoothedOptimum

    discrete = _discrete()
    config = next(iter(runs.values())).config
    beta_rec, beta_kl = config.objective.elbo_weights()
    variance = beta_kl / (2 * beta_rec)
    density = get_density(DENSITY)
    data = density.sample(_POINTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solver = SmoothedOptimum(data[:800], variance, 2 * density.extent)
    gammas = sorted({_gamma(run) for run in runs.values()})
    predicted = {gamma: solver.solve(gamma) for gamma in gammas}
    measured: dict[float, list[dict[str, float]]] = {gamma: [] for gamma in gammas}
    samples: dict[float, Any] = {}
    for run in runs.values():
        if run.summary is None:
            continue
        model = run.load()
        means = model.sample(_MEANS, generator=torch.Generator().manual_seed(1)).double().cpu()
        others = model.sample(_POINTS, generator=torch.Generator().manual_seed(2)).double().cpu()
        measured[_gamma(run)].append(_measure(means, others, data, variance))
        samples.setdefault(_gamma(run), means)
    _draw_discrete(folder / _DISCRETE, discrete)
    _draw_trained(folder / _TRAINED, predicted, measured, samples, 2 * density.extent)

    seeds = seeds_of(runs)
    about = (
        f"The discrete example has 8 states with probabilities {listed(f'{one:.2f}' for one in _EXAMPLE)}. The trained "
        f"models are Soft-IntroVAEs on {DENSITY} with gamma = {listed(f'{one:g}' for one in gammas)} and "
        f"{plural(len(seeds), 'seed')} each: {schedule(config)}. They are trained in the theorem's setting, not in the "
        f"published one: Algorithm 1 (semantics paper, fakes prior, gamma_r 1), beta_rec {beta_rec:g} and beta_kl = "
        f"beta_neg = {beta_kl:g}, which is a decoder noise of variance beta_kl / (2 beta_rec) = {variance:g}."
    )
    optima = figure(
        _DISCRETE,
        "Left: the probabilities that minimise KL(p_data‖q) + γ H(q), solved numerically. Right: their entropy and "
        "their divergence from the data, against γ, in nats.",
    )
    holds = max(row["gamma"] for row in discrete if row["assumption_holds"])
    assumption = f"Of these optima those up to γ = {holds:g} have q^(α+1) ≤ p_data, with α = {_EXAMPLE_ALPHA:g}."
    models = figure(
        _TRAINED,
        f"Above: decoded prior samples, without the decoder's noise, seed {seeds[0]}. Below: entropy and cross entropy "
        "of the model's density p_d, its noise included, in nats: the theory's optimum and the trained runs.",
    )
    header = ["", "H(p_d), theory", "trained", "−E_data log p_d, theory", "trained", "runs"]
    rows = [
        [
            f"γ = {gamma:g}",
            *(
                cell
                for key in ("entropy", "cross_entropy")
                for cell in (number(predicted[gamma][key]), mean_and_spread([one[key] for one in measured[gamma]]))
            ),
            str(len(measured[gamma])),
        ]
        for gamma in gammas
    ]
    how = (
        f"In nats; {over_seeds(len(seeds))}. KL(p_data‖p_d) is the cross entropy minus the entropy of the data, "
        "the same in every row."
    )
    verdicts = [
        f"- {_verdict(title, key, should, measured)}"
        for title, key, should in (("H(p_d)", "entropy", "falls"), ("The cross entropy", "cross_entropy", "rises"))
    ]
    return Report(
        about,
        [
            ("Theory", _THEORY),
            ("A discrete example", f"{optima}\n\n{assumption}"),
            ("Trained models in the plane", "\n\n".join([models, table(header, rows), how, "\n".join(verdicts)])),
        ],
        {
            "discrete": discrete,
            "predicted": {str(gamma): values for gamma, values in predicted.items()},
            "measured": {str(gamma): values for gamma, values in measured.items()},
            "variance": variance,
        },
        [_DISCRETE, _TRAINED],
    )


def _gamma(run: Trained) -> float:
    return float(run.config.value("gamma"))


def _discrete() -> list[dict[str, Any]]:
    import numpy as np

    from sivae.reproduce.entropy_theory import assumption_margin, discrete_optimum, divergence, entropy

    p = np.array(_EXAMPLE)
    rows = []
    for gamma in (0.0, 0.25, 0.5, 0.625, 0.75, 1.0, 1.5, 2.0):
        q = discrete_optimum(p, gamma)
        rows.append(
            {
                "gamma": gamma,
                "q": q.tolist(),
                "entropy": entropy(q),
                "kl": divergence(p, q),
                "assumption_holds": assumption_margin(p, q, _EXAMPLE_ALPHA) >= 0.0,
            }
        )
    return rows


def _measure(means: Any, others: Any, data: Any, variance: float) -> dict[str, float]:
    """Entropy and cross entropy of the mixture of Gaussians around `means` [N, 2], in nats, by Monte Carlo."""
    import torch

    noise = torch.randn(others.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    draws = others + math.sqrt(variance) * noise
    constant = math.log(len(means)) + math.log(2 * math.pi * variance)

    def mean_log(points: Any) -> float:
        parts = [
            torch.logsumexp(-torch.cdist(part, means).square() / (2 * variance), dim=1) for part in points.split(250)
        ]
        return float(torch.cat(parts).mean()) - constant

    return {"entropy": -mean_log(draws), "cross_entropy": -mean_log(data)}


def _verdict(title: str, key: str, should: str, measured: Mapping[float, Sequence[Mapping[str, float]]]) -> str:
    """Whether a quantity of the trained models moves with gamma as the theory says, in one sentence."""
    pairs = [(gamma, one[key]) for gamma, found in measured.items() for one in found if math.isfinite(one[key])]
    correlation, chance = rank_correlation(*zip(*pairs, strict=True)) if pairs else (0.0, 1.0)
    moves = "does not change by more than chance" if chance >= 0.05 else "rises" if correlation > 0 else "falls"
    return (
        f"{title} {moves} with γ, where the theory says that it {should} (rank correlation {correlation:.2f}, p = "
        f"{number(chance, 2)}, {plural(len(pairs), 'run')})."
    )


def _draw_discrete(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    import numpy as np

    from sivae.figures.charts import DEPTHS, legend, new_figure, panel, write_figure
    from sivae.figures.look import BLUE, ORANGE

    drawing = new_figure(10.0, 4.4)
    left = panel(drawing, (0.08, 0.2, 0.5, 0.62), x="state", y="probability", grid="y")
    shown = [row for row in rows if row["gamma"] in (0.0, 0.25, 0.5, 1.0, 2.0)]
    states = np.arange(len(_EXAMPLE))
    width = 0.8 / len(shown)
    for index, row in enumerate(shown):
        place = states + (index - (len(shown) - 1) / 2) * width
        shade = DEPTHS(0.2 + 0.8 * index / (len(shown) - 1))
        label = f"γ = {row['gamma']:g}" + (" (the data)" if row["gamma"] == 0 else "")
        left.bar(place, row["q"], width, color=shade, label=label)
    left.set_xticks(states, [str(state + 1) for state in states])
    right = panel(drawing, (0.67, 0.2, 0.3, 0.62), x="γ", y="nats", grid="y")
    gammas = [row["gamma"] for row in rows]
    for key, label, colour in (("entropy", "entropy H(q)", BLUE), ("kl", "KL(p_data‖q)", ORANGE)):
        right.plot(gammas, [row[key] for row in rows], color=colour, marker="o", markersize=3, label=label)
    for axes in (left, right):
        legend(axes, fontsize=8)
    write_figure(path, drawing, "Eight states: the optimum of KL + γ H", "solved numerically")


def _draw_trained(
    path: Path,
    predicted: Mapping[float, Mapping[str, float]],
    measured: Mapping[float, Sequence[Mapping[str, float]]],
    samples: Mapping[float, Any],
    limit: float,
) -> None:
    from sivae.figures.charts import legend, new_figure, panel, show_points, show_text, small_plane, write_figure
    from sivae.figures.look import BLUE, ORANGE

    columns = max(len(predicted), 4)
    height = 4.3 + 9.0 / columns  # inches
    side = 8.9 / columns
    drawing = new_figure(10.0, height)
    for column, gamma in enumerate(predicted):
        left, edge = 0.55 + column * (side + 0.05), side - 0.3
        box = (left / 10.0, 1 - (0.8 + side) / height, edge / 10.0, edge / height)
        axes = small_plane(drawing, box, limit, title=f"γ = {gamma:g}", y=column == 0)
        if gamma in samples:
            show_points(axes, samples[gamma][:_POINTS], ORANGE)
        else:
            show_text(axes, "diverged")
    titles = {"entropy": "entropy of the model, H(p_d)", "cross_entropy": "cross entropy, −E_data log p_d"}
    for column, (key, title) in enumerate(titles.items()):
        box = (0.075 + 0.5 * column, 0.75 / height, 0.4, 2.2 / height)
        axes = panel(drawing, box, title=title, x="γ", y="nats")
        theory = [one[key] for one in predicted.values()]
        axes.plot(list(predicted), theory, color=BLUE, marker="o", markersize=4, label="theory's optimum")
        gammas = [gamma for gamma, found in measured.items() for _ in found]
        values = [one[key] for found in measured.values() for one in found]
        axes.plot(gammas, values, color=ORANGE, marker="o", markersize=5, linestyle="", label="trained, each seed")
        legend(axes, fontsize=8)
    write_figure(path, drawing, f"{DENSITY}: trained with γ", "lower entropy means more concentrated samples")
