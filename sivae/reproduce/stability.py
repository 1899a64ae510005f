"""Compare how often IntroVAE, over a range of margins, and Soft-IntroVAE, over a range of beta_neg, fail to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from sivae.reproduce.experiment import METHODS, Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import figure, mean_and_spread, number, over_seeds, table
from sivae.reproduce.outcomes import DEFINITIONS, POINTS, Outcome, failed, how_they_failed, outcome
from sivae.reproduce.significance import share_difference
from sivae.words import listed, plural

NAME = "stability"
SUMMARY = "IntroVAE over a range of margins compared with Soft-IntroVAE over a range of beta_neg"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "20 trainings of 3,000 iterations, about 15 minutes on 2 idle CPU cores",
    "full": "70 trainings of 30,000 iterations, about 15 minutes each on an idle CPU core",
}

DENSITY = "8gaussians"
VARIED = {"intro": "margin", "soft-intro": "beta_neg"}
_SYMBOLS = {"intro": "m", "soft-intro": "β_neg"}
_FACTORS = {"quick": (1 / 8, 1 / 2, 1.0, 2.0, 8.0), "full": (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0)}
_FIGURE = "stability.png"
_LOOKS = 8  # checkpoints of a run that are measured


def trainings(settings: Settings) -> list[Training]:
    """Every value of either hyperparameter with every seed, seeds outermost."""
    settings.allow("seeds", "steps", experiment=NAME)
    quick = {"steps": 3_000, "batch_size": 256}
    made = []
    for seed in settings.seed_range(quick=2, full=5):
        for method, key in VARIED.items():
            base = settings.configure(DENSITY, objective=method, seed=seed, quick=quick)
            centre = base.value(key)
            for factor in _FACTORS[settings.size]:
                value = float(f"{centre * factor:.3g}")
                every = max(1, base.total_steps // _LOOKS)
                config = base.replace(**{key: value}, checkpoint_every=every, keep_checkpoints=_LOOKS + 1)
                made.append(Training(f"{method}-{key}{value:g}-seed{seed}", config))
    return made


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path) -> Report:
    """How every run ended, drawn and counted."""
    outcomes = {
        method: [_outcome(run) for run in runs.values() if run.config.objective.name == method] for method in VARIED
    }
    _draw(folder / _FIGURE, outcomes)
    seeds = len(seeds_of(runs))
    ranges = listed(
        f"{METHODS[method]} with {_SYMBOLS[method]} = {listed(f'{value:g}' for value in _values(found))}"
        for method, found in outcomes.items()
    )
    shown = figure(
        _FIGURE,
        f"Above: JSD between {POINTS:,} samples and as many data points over the iterations, a line for each run. "
        "Below: the same at the end, against the hyperparameter; crosses are runs that failed. The dashed line is "
        "ln 2, the value of two distributions without overlap.",
    )
    how = f"JSD and rec: {over_seeds(seeds)}. Modes: seed by seed, out of 8."
    return Report(
        f"{ranges}: both from an eighth to eight times the default, on {DENSITY}, {plural(seeds, 'seed')} each, "
        f"{schedule(next(iter(runs.values())).config)}. Other weights are those of the presets.",
        [
            ("What counts as a failure", DEFINITIONS),
            ("How the runs went", shown),
            ("Counts", "\n\n".join([_table(outcomes), how, _verdict(outcomes)])),
        ],
        {method: [vars(one) for one in found] for method, found in outcomes.items()},
        [_FIGURE],
    )


def _values(found: Sequence[Outcome]) -> list[float]:
    return sorted({one.value for one in found})


def _outcome(run: Trained) -> Outcome:
    objective = run.config.objective
    return outcome(run, DENSITY, getattr(objective, VARIED[objective.name]))


def _table(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    rows = []
    for method, found in outcomes.items():
        groups = {
            f"{_SYMBOLS[method]} = {value:g}": [one for one in found if one.value == value] for value in _values(found)
        }
        for name, group in {**groups, "all": found}.items():
            rows.append(
                [
                    f"{METHODS[method]}, {name}",
                    "{} of {}".format(*failed(group)),
                    how_they_failed(group),
                    mean_and_spread([one.last_jsd for one in group]),
                    mean_and_spread([one.rec for one in group]),
                    "" if name == "all" else listed(str(one.modes) for one in group),
                ]
            )
    return table(["", "failed", "how", "JSD at the end (nats)", "rec / variance", "modes reached"], rows)


def _verdict(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Whether the counts of failures differ, in one sentence."""
    (intro, runs), (soft, others) = (failed(outcomes[method]) for method in VARIED)
    chance = share_difference((intro, runs), (soft, others))
    finds = f"finds {'a' if chance < 0.05 else 'no'} difference (p = {number(chance, 2)})"
    return (
        f"**IntroVAE failed in {intro} of {plural(runs, 'run')} and Soft-IntroVAE in {soft} of {others}: Fisher's "
        f"exact test {finds}.** The paper's slides claim, without a number, that IntroVAE's hard margin is "
        "sensitive and the soft exponential is not."
    )


def _draw(path: Path, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    from matplotlib.lines import Line2D

    from sivae.figures.charts import DEPTHS, legend, new_figure, panel, value_ticks, write_figure
    from sivae.figures.look import MUTED, ORANGE

    drawing = new_figure(10.0, 7.4)
    for column, (method, found) in enumerate(outcomes.items()):
        values = _values(found)
        colours = {value: DEPTHS(0.3 + 0.7 * index / max(1, len(values) - 1)) for index, value in enumerate(values)}
        left = 0.08 + 0.48 * column
        labels = ("JSD (nats)", "JSD at the end (nats)") if column == 0 else ("", "")
        above = panel(drawing, (left, 0.55, 0.4, 0.33), title=METHODS[method], x="iteration", y=labels[0])
        name = "margin m (nats, logarithmic)" if method == "intro" else "β_neg (logarithmic)"
        below = panel(drawing, (left, 0.14, 0.4, 0.31), x=name, y=labels[1])
        for one in found:
            above.plot(one.steps, one.jsd, color=colours[one.value], linewidth=1.3, marker="o", markersize=2.5)
            mark = {"marker": "x", "color": ORANGE} if one.failures else {"marker": "o", "color": colours[one.value]}
            below.plot([one.value], [one.last_jsd], linestyle="", markersize=6, **mark)
        lines = [Line2D([], [], color=colours[value], label=f"{value:g}") for value in values]
        legend(above, handles=lines, title=_SYMBOLS[method], title_fontsize=8, fontsize=8, ncols=2, loc="lower left")
        value_ticks(below, values)
        for axes in (above, below):
            axes.axhline(math.log(2), color=MUTED, linewidth=0.8, linestyle="--")
            axes.set_ylim(0.0, 0.74)
    write_figure(
        path,
        drawing,
        f"{DENSITY}: a hard margin and a soft exponential",
        "each line and each point is one run; × diverged or collapsed; dashed: ln 2",
    )
