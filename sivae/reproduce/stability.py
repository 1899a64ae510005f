"""How touchy IntroVAE's margin is, and Soft-IntroVAE's beta_neg: runs that diverge or collapse over a range of each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sivae.reproduce.comparing import share_difference
from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training
from sivae.reproduce.markdown import counted, figure, finite, listed, mean_and_spread, number, table
from sivae.reproduce.methods import METHODS

NAME = "stability"
SUMMARY = "IntroVAE over a range of margins against Soft-IntroVAE over a range of beta_neg"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "20 trainings of 3,000 iterations, about 15 minutes on 2 idle CPU cores",
    "full": "70 trainings of 30,000 iterations, about 15 minutes each on an idle CPU core",
}

DENSITY = "8gaussians"
VARIED = {"intro": "margin", "soft-intro": "beta_neg"}
_FACTORS = {"quick": (1 / 8, 1 / 2, 1.0, 2.0, 8.0), "full": (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)}
_FIGURE = "stability.png"
_LOOKS = 8  # checkpoints of a run that are measured
_POINTS = 5_000

# What counts as a collapse; see Outcome.
_EXPLAINED = 0.9
_MODES_SHARE, _FAIR_SHARE = 0.5, 0.1
_SHRUNKEN = 0.1


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        value: of the margin or of beta_neg.
        seed: of the run.
        steps, jsd: iterations, and the JSD in nats there, at each look.
        failures: what is wrong with it, out of "diverged", "posterior collapse", "mode collapse", "shrunken samples".
        rec: reconstruction error over the variance of the data, in the last tenth of the records.
        modes: how many modes are nearest to a tenth of their fair share of the samples or more.
        variance: of the samples over that of the data.
    """

    value: float
    seed: int
    steps: Sequence[int]
    jsd: Sequence[float]
    failures: Sequence[str]
    rec: float
    modes: int
    variance: float


def trainings(settings: Settings) -> list[Training]:
    """Every value of either hyperparameter with every seed, seeds outermost."""
    settings.refuse("data", "against", "run", experiment=NAME)
    length = settings.pick(quick={"steps": 3_000, "batch_size": 256}, full={})
    made = []
    for seed in settings.seed_range(quick=2, full=5):
        for method, key in VARIED.items():
            base = settings.configure(DENSITY, objective=method, seed=seed, **length)
            # IntroVAE's own default stands in its objective, not in the preset.
            centre = getattr(base.objective.resolved(), key)
            for factor in _FACTORS[settings.size]:
                value = float(f"{centre * factor:.3g}")
                every = max(1, base.total_steps // _LOOKS)
                config = base.replace(**{key: value}, checkpoint_every=every, keep_checkpoints=_LOOKS + 1)
                made.append(Training(_name(method, value, seed), config))
    return made


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path) -> Report:
    """What became of every run, drawn and counted."""
    outcomes = {
        method: [_outcome(run) for run in runs.values() if run.config.objective.name == method] for method in VARIED
    }
    _draw(folder / _FIGURE, outcomes)
    some = next(iter(runs.values())).config
    seeds = len({run.config.seed for run in runs.values()})
    ranges = "; ".join(
        f"{METHODS[method]} with {_symbol(method)} = {listed([f'{value:g}' for value in _values(found)])}"
        for method, found in outcomes.items()
    )
    intro = next(run.config.objective for run in runs.values() if run.config.objective.name == "intro")
    soft = next(run.config.objective for run in runs.values() if run.config.objective.name == "soft-intro")
    about = (
        f"{ranges}: both from an eighth to eight times the default, on {DENSITY}, {seeds} "
        f"seed{'' if seeds == 1 else 's'} each, {some.total_steps:,} iterations of batch {some.batch_size}, of which "
        f"the first {some.warmup_steps:,} train a plain VAE. IntroVAE has beta_rec {intro.beta_rec:g}, beta_kl "
        f"{intro.beta_kl:g} and alpha {intro.alpha:g}; Soft-IntroVAE beta_rec {soft.beta_rec:g} and beta_kl "
        f"{soft.beta_kl:g} as published."
    )
    return Report(
        about,
        [
            ("What counts as a failure", _definitions()),
            (
                "How the runs went",
                figure(
                    _FIGURE,
                    f"Above: JSD between {_POINTS:,} samples and as many data points over the iterations, a line for "
                    "each run. Below: the same at the end, against the hyperparameter; crosses are runs that diverged "
                    "or collapsed. The dashed line is ln 2, where nothing of the two distributions overlaps.",
                ),
            ),
            ("Counts", _table(outcomes)),
            ("What we see", _findings(outcomes)),
            (
                "What the slides show",
                "That IntroVAE's hard margin is touchy, and that the soft exponential is not. They give no number, so "
                "what is compared is the claim.",
            ),
        ],
        {method: [vars(one) for one in found] for method, found in outcomes.items()},
        [_FIGURE],
    )


def _name(method: str, value: float, seed: int) -> str:
    return f"{method}-{VARIED[method]}{value:g}-seed{seed}"


def _symbol(method: str) -> str:
    return {"intro": "m", "soft-intro": "β_neg"}[method]


def _values(found: Sequence[Outcome]) -> list[float]:
    return sorted({one.value for one in found})


def _definitions() -> str:
    return "\n".join(
        [
            "- *Diverged*: in five iterations in a row an update was not finite, or a thousand times larger than "
            "usual, so that the run went back to a checkpoint with half the learning rate, or was given up.",
            f"- *Posterior collapse*: in the last tenth of the records the reconstruction error is {_EXPLAINED:.0%} of "
            "the data's variance or more: the decoder makes little use of the latent, a constant would do as well.",
            f"- *Mode collapse*: of {_POINTS:,} samples, fewer than half of the 8 modes are nearest to a tenth of "
            "their fair share or more.",
            f"- *Shrunken samples*: the samples' variance is below {_SHRUNKEN:.0%} of the data's.",
            "",
            "The last three are collapses. One run can be several of these, and counts once.",
        ]
    )


def _outcome(run: Trained) -> Outcome:
    import torch

    from sivae.data import get_density
    from sivae.evaluation import density_histogram, js_divergence
    from sivae.models.storage import load_model
    from sivae.training.checkpoint import list_checkpoints
    from sivae.training.folder import CHECKPOINTS
    from sivae.training.recorder import read_records

    density = get_density(DENSITY)
    modes = density.modes
    assert modes is not None
    data = density.sample(_POINTS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = density_histogram(data, density.extent)
    steps, jsd = [], []
    fake = torch.full_like(data, math.nan)
    for path in list_checkpoints(run.folder / CHECKPOINTS):
        # The same noise at every look, so that a curve's changes are the model's.
        fake = load_model(path).sample(_POINTS, generator=torch.Generator().manual_seed(1)).double()
        steps.append(int(path.name))
        jsd.append(js_divergence(p, density_histogram(fake, density.extent)))
    total = float(data.var(dim=0).sum())
    records = [one["rec"] for one in read_records(run.folder) if one.get("rec") is not None]
    last = records[-max(1, len(records) // 10) :]
    rec = sum(last) / len(last) / total if last else math.nan
    nearest = torch.cdist(fake[fake.isfinite().all(dim=1)], modes).argmin(dim=1)
    shares = torch.bincount(nearest, minlength=len(modes)) * len(modes) / _POINTS
    reached = int((shares >= _FAIR_SHARE).sum())
    variance = float(fake.var(dim=0).sum()) / total
    failures = []
    if run.divergence is not None or run.went_back:
        failures.append("diverged")
    if not rec < _EXPLAINED:
        failures.append("posterior collapse")
    if reached < _MODES_SHARE * len(modes):
        failures.append("mode collapse")
    if not variance >= _SHRUNKEN:
        failures.append("shrunken samples")
    objective = run.config.objective
    value = getattr(objective, VARIED[objective.name])
    return Outcome(value, run.config.seed, steps, jsd, failures, rec, reached, variance)


def _last(one: Outcome) -> float:
    return one.jsd[-1] if one.jsd else math.nan


def _table(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    rows = []
    for method, found in outcomes.items():
        for value in _values(found):
            group = [one for one in found if one.value == value]
            reasons = [reason for one in group for reason in one.failures]
            named = listed([f"{reason} {reasons.count(reason)}" for reason in dict.fromkeys(reasons)])
            rows.append(
                [
                    f"{METHODS[method]}, {_symbol(method)} = {value:g}",
                    f"{sum(bool(one.failures) for one in group)} of {len(group)}",
                    named or "none",
                    mean_and_spread([_last(one) for one in group]),
                    mean_and_spread([one.rec for one in group]),
                    listed([str(one.modes) for one in group]),
                ]
            )
    header = ["", "failed", "how", "JSD at the end (nats)", "rec / variance", "modes reached"]
    return table(header, rows) + "\n\nMean ± standard deviation over the seeds; modes seed by seed, out of 8."


def _findings(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Sentences that say no more than the numbers do."""
    lines = []
    failed = {method: sum(bool(one.failures) for one in found) for method, found in outcomes.items()}
    for method, found in outcomes.items():
        diverged = sum("diverged" in one.failures for one in found)
        collapsed = sum(any(reason != "diverged" for reason in one.failures) for one in found)
        good = finite(_last(one) for one in found if not one.failures)
        span = f"; those that did not fail end at a JSD of {number(min(good))} to {number(max(good))}" if good else ""
        lines.append(
            f"- {METHODS[method]}: {counted(failed[method], len(found), 'run')} failed ({diverged} diverged, "
            f"{collapsed} collapsed){span}."
        )
        whole = [
            f"{value:g}" for value in _values(found) if not any(one.failures for one in found if one.value == value)
        ]
        lines.append(
            f"- {METHODS[method]}: no seed failed at {_symbol(method)} = {listed(whole)}."
            if whole
            else f"- {METHODS[method]}: at every {_symbol(method)} some seed failed."
        )
    intro, soft = (outcomes[method] for method in VARIED)
    chance = share_difference(*((failed[method], len(outcomes[method])) for method in VARIED))
    shares = [failed[method] / len(outcomes[method]) for method in VARIED]
    if shares[0] == shares[1]:
        lines.append("- **Both fail equally often here, so these runs do not show the slides' claim.**")
    else:
        more, less = ("IntroVAE", "Soft-IntroVAE") if shares[0] > shares[1] else ("Soft-IntroVAE", "IntroVAE")
        says = "as the slides claim" if shares[0] > shares[1] else "the opposite of what the slides claim"
        test = (
            f"Fisher's exact test, which takes the runs for independent draws of one range each: p = "
            f"{number(chance, 2)}"
        )
        seen = f"{more} fails more often than {less} over a range of equal width, {says}"
        lines.append(
            f"- **{seen}**, and more than chance would have it ({test})."
            if chance < 0.05
            else f"- {seen}, but so few runs cannot tell that from chance ({test}): **the claim is not decided here.**"
        )
    widths = []
    for found in (intro, soft):
        ends = finite(_last(one) for one in found)
        widths.append((min(ends), max(ends)) if ends else (math.nan, math.nan))
    lines.append(
        f"- Over all values and seeds the final JSD runs from {number(widths[0][0])} to {number(widths[0][1])} for "
        f"IntroVAE, and from {number(widths[1][0])} to {number(widths[1][1])} for Soft-IntroVAE."
    )
    return "\n".join(lines)


def _draw(path: Path, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    from matplotlib.lines import Line2D

    from sivae.figures.charts import DEPTHS, legend, new_figure, panel, write_figure
    from sivae.figures.look import MUTED, ORANGE

    drawing = new_figure(10.0, 7.4)
    for column, (method, found) in enumerate(outcomes.items()):
        values = _values(found)
        colours = {value: DEPTHS(0.3 + 0.7 * index / max(1, len(values) - 1)) for index, value in enumerate(values)}
        left = 0.08 + 0.48 * column
        labels = ("JSD (nats)", "JSD at the end (nats)") if column == 0 else ("", "")
        above = panel(drawing, (left, 0.55, 0.4, 0.33), title=METHODS[method], x="iteration", y=labels[0])
        name = "margin m (nats, logarithmic)" if method == "intro" else "β_neg (logarithmic)"
        below = panel(drawing, (left, 0.12, 0.4, 0.33), x=name, y=labels[1])
        for one in found:
            above.plot(one.steps, one.jsd, color=colours[one.value], linewidth=1.3, marker="o", markersize=2.5)
            mark = {"marker": "x", "color": ORANGE} if one.failures else {"marker": "o", "color": colours[one.value]}
            below.plot([one.value], [_last(one)], linestyle="", markersize=6, **mark)
        lines = [Line2D([], [], color=colours[value], label=f"{value:g}") for value in values]
        legend(above, handles=lines, title=_symbol(method), title_fontsize=8, fontsize=8, ncols=2, loc="lower left")
        below.set_xscale("log")
        below.set_xticks(values, [f"{value:g}" for value in values])
        below.minorticks_off()
        for axes in (above, below):
            axes.axhline(math.log(2), color=MUTED, linewidth=0.8, linestyle="--")
            axes.set_ylim(0.0, 0.74)
    write_figure(
        path,
        drawing,
        f"{DENSITY}: a hard margin and a soft exponential",
        "each line and each point is one run; × diverged or collapsed; dashed: ln 2",
    )
