"""The entropy in the optimum, KL(p_data || p_d) + gamma H(p_d): on a discrete example, and in trained models."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sivae.reproduce.comparing import rank_correlation
from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training
from sivae.reproduce.markdown import figure, finite, listed, mean, mean_and_spread, number, table

NAME = "entropy"
SUMMARY = "the bias towards a low entropy that the theory predicts, against gamma"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "8 trainings of 2,000 iterations, about 5 minutes on 2 idle CPU cores",
    "full": "30 trainings of 30,000 iterations, about 20 minutes each on an idle CPU core",
}

DENSITY = "8gaussians"
GAMMAS: Mapping[Size, tuple[float, ...]] = {"quick": (0.0, 0.5, 1.0, 2.0), "full": (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)}
# The theorem's setting: Algorithm 1, one ELBO for real samples and fakes, of which only prior samples count.
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


def trainings(settings: Settings) -> list[Training]:
    """A Soft-IntroVAE for every gamma and seed, seeds outermost."""
    settings.refuse("data", "against", "run", experiment=NAME)
    length = settings.pick(quick={"steps": 2_000, "batch_size": 256}, full={})
    return [
        Training(_name(gamma, seed), settings.configure(DENSITY, gamma=gamma, seed=seed, **WEIGHTS, **length))
        for seed in settings.seed_range(quick=2, full=5)
        for gamma in GAMMAS[settings.size]
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path) -> Report:
    """The discrete optimum, the optimum in the plane, and what the trained models have."""
    import torch

    from sivae import from_pretrained
    from sivae.data import get_density
    from sivae.reproduce.entropy_theory import SmoothedOptimum

    gammas = sorted({_gamma(run) for run in runs.values()})
    seeds = sorted({run.config.seed for run in runs.values()})
    discrete = _discrete()
    beta_rec, beta_kl = next(iter(runs.values())).config.objective.elbo_weights()
    variance = beta_kl / (2 * beta_rec)
    density = get_density(DENSITY)
    data = density.sample(_POINTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    solver = SmoothedOptimum(data[:800], variance, 2 * density.extent)
    predicted = {gamma: solver.solve(gamma) for gamma in gammas}
    measured: dict[float, list[dict[str, float]]] = {gamma: [] for gamma in gammas}
    samples: dict[float, Any] = {}
    for run in runs.values():
        if run.summary is None:
            continue
        model = from_pretrained(run.folder)
        means = model.sample(_MEANS, generator=torch.Generator().manual_seed(1)).double()
        others = model.sample(_POINTS, generator=torch.Generator().manual_seed(2)).double()
        measured[_gamma(run)].append(_measure(means, others, data, variance))
        samples.setdefault(_gamma(run), means)
    _draw_discrete(folder / _DISCRETE, discrete)
    _draw_trained(folder / _TRAINED, predicted, measured, samples, 2 * density.extent)

    config = next(iter(runs.values())).config
    about = (
        f"The discrete example has 8 states with probabilities {listed([f'{one:.2f}' for one in _EXAMPLE])}. The "
        f"trained models are Soft-IntroVAEs on {DENSITY} with gamma = {listed([f'{one:g}' for one in gammas])} and "
        f"{len(seeds)} seed{'' if len(seeds) == 1 else 's'} each, {config.total_steps:,} iterations of batch "
        f"{config.batch_size}, the first {config.warmup_steps:,} of them a plain VAE. They stand in the theorem's "
        "setting, not in the published one: Algorithm 1 (semantics paper, fakes prior, gamma_r 1), and one ELBO "
        f"everywhere, beta_rec {beta_rec:g} and beta_kl = beta_neg = {beta_kl:g}, which is a "
        f"decoder noise of variance beta_kl/(2 beta_rec) = {variance:g} a coordinate."
    )
    rows = [
        [
            f"γ = {gamma:g}",
            number(predicted[gamma]["entropy"]),
            mean_and_spread([one["entropy"] for one in measured[gamma]]),
            number(predicted[gamma]["cross_entropy"]),
            mean_and_spread([one["cross_entropy"] for one in measured[gamma]]),
            str(len(measured[gamma])),
        ]
        for gamma in gammas
    ]
    header = ["", "H(p_d), theory", "trained", "−E_data log p_d, theory", "trained", "runs"]
    return Report(
        about,
        [
            ("What is compared", _THEORY),
            (
                "A discrete example",
                figure(
                    _DISCRETE,
                    "Left: the probabilities that minimise KL(p_data‖q) + γ H(q), solved numerically. Right: their "
                    "entropy and their divergence from the data, against γ, in nats.",
                )
                + "\n\n"
                + _discrete_words(discrete),
            ),
            (
                "Trained models in the plane",
                figure(
                    _TRAINED,
                    f"Above: what the decoder makes of prior samples (the means, without the noise), seed {seeds[0]}. "
                    "Below: entropy and cross entropy of the model's density p_d, its noise included, in nats: the "
                    "theory's optimum and the trained runs.",
                )
                + "\n\n"
                + table(header, rows)
                + "\n\nIn nats; mean ± standard deviation over the seeds. KL(p_data‖p_d) is the cross entropy less the "
                "entropy of the data, which is the same number in every row.",
            ),
            ("What we see", _findings(predicted, measured)),
        ],
        {
            "discrete": discrete,
            "predicted": {str(gamma): values for gamma, values in predicted.items()},
            "measured": {str(gamma): values for gamma, values in measured.items()},
            "variance": variance,
        },
        [_DISCRETE, _TRAINED],
    )


_THEORY = """\
The decoder minimises −ELBO of real samples − γ · ELBO of its fakes (L_D with both of the fakes' terms weighted by γ:
`gamma` of the objective, with gamma_r 1). Where the encoder is at its optimum the ELBO is tight, ELBO(x) = log p_d(x),
so the decoder minimises −E_data log p_d − γ E_{p_d} log p_d, which is KL(p_data‖p_d) + γ H(p_d) and a constant. γ = 1
is the paper's Algorithm 1; the published code has gamma_r = 1e-8, that is, the KL half of the fakes' ELBO only.

Whatever the family of densities, if p_γ minimises KL + γ H for each γ, then H(p_γ) cannot rise with γ, and
KL(p_data‖p_γ) cannot fall (add the two inequalities that say that each is best for its own γ). That much is to be seen
in the trained models, if they come near the optimum.

The ELBO is tight only where p_d(x)^(α+1) ≤ p_data(x): elsewhere the encoder gains by giving x a lower ELBO than
log p_d(x). Between the modes p_data is nearly 0 and p_d, which has the decoder's noise, is not. So in the plane the
assumption does not hold, and the theory's numbers are a direction there, not a value to be met."""


def _name(gamma: float, seed: int) -> str:
    return f"gamma{gamma:g}-seed{seed}"


def _gamma(run: Trained) -> float:
    assert run.config.objective.gamma is not None
    return run.config.objective.gamma


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


def _discrete_words(rows: Sequence[Mapping[str, Any]]) -> str:
    first, last = rows[0], rows[-1]
    holds = [row["gamma"] for row in rows if row["assumption_holds"]]
    broken = [row["gamma"] for row in rows if not row["assumption_holds"]]
    words = (
        f"With γ = 0 the optimum is the data (KL {number(first['kl'], 2)}). From γ = 0 to {last['gamma']:g} its "
        f"entropy goes from {number(first['entropy'])} to {number(last['entropy'])} nats, and the likeliest state's "
        f"probability from {number(max(first['q']))} to {number(max(last['q']))}."
    )
    if holds and broken:
        words += (
            f" The theory's assumption, q^(α+1) ≤ p_data with α = {_EXAMPLE_ALPHA:g}, holds at these optima up to γ = "
            f"{max(holds):g} and not from γ = {min(broken):g} on."
        )
    return words


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


def _findings(
    predicted: Mapping[float, Mapping[str, float]], measured: Mapping[float, Sequence[Mapping[str, float]]]
) -> str:
    """Sentences that say no more than the numbers do."""
    lines = []
    expected = {"entropy": ("H(p_d)", -1), "cross_entropy": ("the cross entropy, and with it KL(p_data‖p_d),", 1)}
    for key, (title, sign) in expected.items():
        pairs = [(gamma, one[key]) for gamma, found in measured.items() for one in found if math.isfinite(one[key])]
        if len({gamma for gamma, _ in pairs}) < 2:
            lines.append(f"- {title}: too few runs came through to tell.")
            continue
        correlation, chance = rank_correlation(*zip(*pairs, strict=True))
        moves, should = ("rises" if value > 0 else "falls" for value in (correlation, sign))
        verdict = f"{moves} with γ, {'as' if moves == should else 'against what'} the theory has it"
        if not chance < 0.05:
            verdict += ", but no more than chance could have it"
        lines.append(
            f"- Over the trained runs {title} {verdict} (rank correlation {correlation:.2f}, p = {number(chance, 2)}, "
            f"{len(pairs)} runs)."
        )
    ends = sorted(measured)
    low, high = ([one["entropy"] for one in measured[gamma]] for gamma in (ends[0], ends[-1]))
    if finite(low) and finite(high):
        fall = mean(low) - mean(high)
        theory = predicted[ends[0]]["entropy"] - predicted[ends[-1]]["entropy"]
        lines.append(
            f"- From γ = {ends[0]:g} to {ends[-1]:g} the entropy falls by {number(fall)} nats in training and by "
            f"{number(theory)} at the theory's optimum."
            if fall > 0
            else f"- From γ = {ends[0]:g} to {ends[-1]:g} the entropy rises by {number(-fall)} nats in training, and "
            f"falls by {number(theory)} at the theory's optimum."
        )
    missing = [f"{gamma:g}" for gamma, found in measured.items() if not found]
    if missing:
        lines.append(f"- With γ = {listed(missing)} every run diverged, and none is counted.")
    return "\n".join(lines)


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
        gammas, values = zip(*((gamma, one[key]) for gamma, found in measured.items() for one in found), strict=True)
        axes.plot(gammas, values, color=ORANGE, marker="o", markersize=5, linestyle="", label="trained, each seed")
        legend(axes, fontsize=8)
    write_figure(path, drawing, f"{DENSITY}: trained with γ", "lower entropy means more concentrated samples")
