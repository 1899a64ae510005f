"""Compare how often IntroVAE, over a range of margins, and Soft-IntroVAE, over ranges of its weights, fail to train."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sivae.progress import measuring
from sivae.reproduce.density_2d import QUICK
from sivae.reproduce.experiment import METHODS, SIZES, Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import figure, mean_and_spread, number, over_seeds, table
from sivae.reproduce.outcomes import DEFINITIONS, POINTS, Outcome, failed, how_they_failed, outcome
from sivae.reproduce.significance import share_difference
from sivae.words import listed, plural

if TYPE_CHECKING:
    from sivae.settings.run import RunConfig

NAME = "stability"
SUMMARY = "IntroVAE over a range of margins compared with Soft-IntroVAE over ranges of its weights"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "30 trainings of 3,000 iterations, about 15 minutes on 2 idle CPU cores with AMX",
    "full": "95 trainings of 30,000 iterations, about 10 minutes each on an idle CPU core with AMX",
}

DENSITY = "8gaussians"
_FIGURE = "stability.png"
_LOOKS = 8  # checkpoints of a run that are measured


@dataclass(frozen=True)
class Arm:
    """A method whose trainings differ in one setting.

    Attributes:
        title: of the method.
        objective: its name.
        key, symbol: the setting, and what pages call it.
        factors: of the setting's default, by size.
        changes: of all its trainings.
    """

    title: str
    objective: str
    key: str
    symbol: str
    factors: Mapping[Size, Sequence[float]]
    changes: Mapping[str, Any] = field(default_factory=dict)


_WIDE: dict[Size, Sequence[float]] = {
    "quick": (1 / 8, 1 / 2, 1.0, 2.0, 8.0),
    "full": (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0),
}
# A push of twice the default is more than any weight reaches.
_PUSHES: dict[Size, Sequence[float]] = dict.fromkeys(SIZES, (1 / 8, 1 / 4, 1 / 2, 1.0, 2.0))
ARMS: Mapping[str, Arm] = {
    "intro": Arm(METHODS["intro"], "intro", "margin", "m", _WIDE),
    "soft-intro": Arm(METHODS["soft-intro"], "soft-intro", "beta_neg", "β_neg", _WIDE),
    "auto": Arm("Soft-IntroVAE, automatic", "soft-intro", "neg_push", "push", _PUSHES, {"beta_neg": "auto"}),
}


def trainings(settings: Settings) -> list[Training]:
    """Every value of each method's setting with every seed, seeds outermost."""
    settings.allow("seeds", "steps", experiment=NAME)
    made = []
    for seed in settings.seed_range(quick=2, full=5):
        for name, arm in ARMS.items():
            base = settings.configure(DENSITY, objective=arm.objective, seed=seed, precision="auto", quick=QUICK)
            every = max(1, base.total_steps // _LOOKS)
            base = base.replace(checkpoint_every=every, keep_checkpoints=_LOOKS + 1, **arm.changes)
            for value in _values_of(arm, settings.size, base):
                made.append(Training(_name(name, value, seed), base.replace(**{arm.key: value})))
    return made


def _values_of(arm: Arm, size: Size, config: RunConfig) -> list[float]:
    return [float(f"{config.value(arm.key) * factor:.3g}") for factor in arm.factors[size]]


def _name(arm: str, value: float, seed: int) -> str:
    return f"{arm}-{ARMS[arm].key}{value:g}-seed{seed}"


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """How every run ended, drawn and counted."""
    with measuring("measuring", len(runs), enabled=show) as display:
        outcomes = {
            name: [
                outcome(run, DENSITY, run.config.value(arm.key), display)
                for title, run in runs.items()
                if title.startswith(f"{name}-{arm.key}")
            ]
            for name, arm in ARMS.items()
        }
    _draw(folder / _FIGURE, outcomes)
    seeds = len(seeds_of(runs))
    config = next(iter(runs.values())).config
    ranges = listed(
        f"{ARMS[name].title} with {ARMS[name].symbol} = {listed(f'{value:g}' for value in _values(found))}"
        for name, found in outcomes.items()
    )
    shown = figure(
        _FIGURE,
        f"Above: JSD between {POINTS:,} samples and as many data points over the iterations, a line for each run. "
        "Below: the same at the end, against the hyperparameter; crosses are runs that failed. The dashed line is "
        "ln 2, the value of two distributions without overlap.",
    )
    how = f"JSD and rec: {over_seeds(seeds)}. Modes: seed by seed, out of 8."
    return Report(
        f"{ranges}: the first two from an eighth to eight times the default, the push (`--beta-neg auto`, "
        f"`--neg-push`) from an eighth to more than can be reached; on {DENSITY}, {plural(seeds, 'seed')} each, "
        f"{schedule(config)}, precision {config.precision}. Other weights are those of the presets.",
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


def _table(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    rows = []
    for method, found in outcomes.items():
        arm = ARMS[method]
        groups = {f"{arm.symbol} = {value:g}": [one for one in found if one.value == value] for value in _values(found)}
        for name, group in {**groups, "all": found}.items():
            rows.append(
                [
                    f"{arm.title}, {name}",
                    "{} of {}".format(*failed(group)),
                    how_they_failed(group),
                    mean_and_spread([one.last_jsd for one in group]),
                    mean_and_spread([one.rec for one in group]),
                    "" if name == "all" else listed(str(one.modes) for one in group),
                ]
            )
    return table(["", "failed", "how", "JSD at the end (nats)", "rec / variance", "modes reached"], rows)


def _verdict(outcomes: Mapping[str, Sequence[Outcome]]) -> str:
    """Whether the counts of failures differ from IntroVAE's, a sentence for each other method."""
    intro, *others = ((ARMS[name].title, failed(found)) for name, found in outcomes.items())
    words = []
    for title, (count, runs) in others:
        chance = share_difference(intro[1], (count, runs))
        finds = f"finds {'a' if chance < 0.05 else 'no'} difference (p = {number(chance, 2)})"
        words.append(
            f"**{intro[0]} failed in {intro[1][0]} of {plural(intro[1][1], 'run')} and {title} in {count} of {runs}: "
            f"Fisher's exact test {finds}.**"
        )
    words.append(
        "The paper's slides claim, without a number, that IntroVAE's hard margin is sensitive and the soft exponential "
        "is not."
    )
    return " ".join(words)


def _draw(path: Path, outcomes: Mapping[str, Sequence[Outcome]]) -> None:
    from matplotlib.lines import Line2D

    from sivae.figures.charts import DEPTHS, legend, new_figure, panel, value_ticks, write_figure
    from sivae.figures.look import MUTED, ORANGE

    drawing = new_figure(14.0, 7.4)
    for column, (method, found) in enumerate(outcomes.items()):
        values = _values(found)
        colours = {value: DEPTHS(0.3 + 0.7 * index / max(1, len(values) - 1)) for index, value in enumerate(values)}
        left = 0.06 + 0.325 * column
        labels = ("JSD (nats)", "JSD at the end (nats)") if column == 0 else ("", "")
        above = panel(drawing, (left, 0.55, 0.275, 0.33), title=ARMS[method].title, x="iteration", y=labels[0])
        name = "margin m (nats, logarithmic)" if method == "intro" else f"{ARMS[method].symbol} (logarithmic)"
        below = panel(drawing, (left, 0.14, 0.275, 0.31), x=name, y=labels[1])
        for one in found:
            above.plot(one.steps, one.jsd, color=colours[one.value], linewidth=1.3, marker="o", markersize=2.5)
            mark = {"marker": "x", "color": ORANGE} if one.failures else {"marker": "o", "color": colours[one.value]}
            below.plot([one.value], [one.last_jsd], linestyle="", markersize=6, **mark)
        lines = [Line2D([], [], color=colours[value], label=f"{value:g}") for value in values]
        legend(above, handles=lines, title=ARMS[method].symbol, title_fontsize=8, fontsize=8, ncols=2, loc="lower left")
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
