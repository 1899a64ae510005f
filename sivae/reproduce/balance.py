"""Compare Soft-IntroVAE's fixed weights beta_neg with the automatic one, on four densities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sivae.method.objectives import NEG_PUSH
from sivae.progress import measuring
from sivae.reproduce.density_2d import DENSITIES, QUICK
from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import figure, mean, mean_and_spread, number, over_seeds, spread, table
from sivae.reproduce.outcomes import DEFINITIONS, POINTS, Outcome, failed, how_they_failed, outcome
from sivae.words import listed, plural

NAME = "balance"
SUMMARY = "Soft-IntroVAE with fixed and with automatic beta_neg on four densities"
NEEDS = "nothing but a CPU; a GPU is used where there is one"
TIME: Mapping[Size, str] = {
    "quick": "32 trainings of 3,000 iterations, about 30 minutes on 2 idle CPU cores with AMX",
    "full": "160 trainings of 6,000 iterations, about 2 hours on 2 idle CPU cores with AMX",
}

Way = Literal["fixed", "auto"]
_NAMES: Mapping[Way, str] = {
    "fixed": "fixed, times the published weight",
    "auto": "automatic, --neg-push times the default",
}
_Found = Mapping[str, Mapping[Way, Mapping[float, list[Outcome]]]]  # by density, way and factor, an outcome a seed
_FACTORS: Mapping[Size, Mapping[Way, Sequence[float]]] = {
    "quick": {"fixed": (1 / 2, 1.0, 2.0), "auto": (1.0,)},
    "full": {"fixed": (1 / 8, 1 / 2, 1.0, 2.0, 8.0), "auto": (1 / 2, 1.0, 2.0)},
}
_FIGURE = "balance.png"


def trainings(settings: Settings) -> list[Training]:
    """Every weight on every density with every seed, seeds outermost."""
    settings.allow("seeds", "steps", experiment=NAME)
    length = {**QUICK, "steps": settings.pick(quick=QUICK["steps"], full=6_000)}
    made = []
    for seed in settings.seed_range(quick=2, full=5):
        for density in DENSITIES:
            base = settings.configure(density, seed=seed, precision="auto", **length)
            published = base.value("beta_neg")
            for way, factors in _FACTORS[settings.size].items():
                for factor in factors:
                    changes: dict[str, Any] = {"beta_neg": published * factor}
                    if way == "auto":
                        changes = {"beta_neg": "auto", "neg_push": NEG_PUSH * factor}
                    config = base.replace(**changes, checkpoint_every=base.total_steps)
                    made.append(Training(_name(density, way, factor, seed), config))
    return made


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """How every run ended, drawn and counted."""
    seeds = seeds_of(runs)
    with measuring("measuring", len(runs), enabled=show) as display:
        found: _Found = {
            density: {
                way: {
                    factor: [
                        outcome(runs[_name(density, way, factor, seed)], density, factor, display) for seed in seeds
                    ]
                    for factor in factors
                }
                for way, factors in _FACTORS[settings.size].items()
            }
            for density in DENSITIES
        }
    ends = {name: _end(run) for name, run in runs.items()}
    _draw(folder / _FIGURE, found)
    first = next(iter(runs.values())).config
    several = len(_FACTORS[settings.size]["auto"]) > 1
    shown = figure(
        _FIGURE,
        f"JSD between {POINTS:,} samples and as many data points at the end, a point for each run; crosses failed. The "
        "lines join the means.",
    )
    how = (
        f"JSD and rec: {over_seeds(len(seeds))}. beta_neg, push and modes: at the end, equal "
        "values of beta_neg and push once. The push is what "
        "`--neg-push` is for this beta_neg and the KL of real samples in the last record. No weight has a push above "
        "that of the exponent 1, so an automatic one may stay below what was asked for."
    )
    return Report(
        f"Soft-IntroVAE on {listed(DENSITIES)} with {plural(len(seeds), 'seed')} each, {schedule(first)}, precision "
        f"{first.precision}: with beta_neg fixed at multiples of the published weight, and with "
        f"`--beta-neg auto` at {'multiples of ' if several else ''}{NEG_PUSH:g}, the default of `--neg-push`. Other "
        "weights are those of the presets.",
        [
            ("What counts as a failure", DEFINITIONS),
            ("How the runs ended", shown),
            ("Counts", "\n\n".join([_table(found, ends, seeds), how, _verdict(found)])),
        ],
        {
            density: {
                way: {f"{factor:g}": [vars(one) for one in group] for factor, group in of_way.items()}
                for way, of_way in ways.items()
            }
            for density, ways in found.items()
        }
        | {"ends": {name: vars(end) for name, end in ends.items()}},
        [_FIGURE],
    )


def _name(density: str, way: Way, factor: float, seed: int) -> str:
    return f"{density}-{way}{factor:g}-seed{seed}"


@dataclass(frozen=True)
class _End:
    """The balance in the last record of a run.

    Attributes:
        beta_neg: the weight.
        push: what `neg_push` is for this weight and the KL of real samples.
    """

    beta_neg: float
    push: float


def _end(run: Trained) -> _End:
    from sivae.training.recorder import read_records

    config = run.config
    records = [one for one in read_records(run.folder) if one.get("kl_fake") is not None]
    record = records[-1] if records else {}
    beta_neg = record.get("beta_neg", math.nan) if config.value("beta_neg") == "auto" else config.value("beta_neg")
    exponent = config.value("alpha") * config.value("scale") * beta_neg * record.get("kl_real", math.nan)
    return _End(beta_neg, beta_neg / config.value("beta_kl") * math.exp(-exponent))


def _table(found: _Found, ends: Mapping[str, _End], seeds: Sequence[int]) -> str:
    rows = []
    for density, ways in found.items():
        for way, of_way in ways.items():
            for factor, group in of_way.items():
                of_seeds = [ends[_name(density, way, factor, seed)] for seed in seeds]
                rows.append(
                    [
                        f"{density}, {'automatic' if way == 'auto' else 'fixed'}, {factor:g} times",
                        listed(dict.fromkeys(number(end.beta_neg, 2) for end in of_seeds)),
                        listed(dict.fromkeys(number(end.push, 2) for end in of_seeds)),
                        "{} of {}".format(*failed(group)),
                        how_they_failed(group),
                        mean_and_spread([one.last_jsd for one in group]),
                        mean_and_spread([one.rec for one in group]),
                        "–" if group[0].modes is None else listed(str(one.modes) for one in group),
                    ]
                )
    return table(["", "beta_neg", "push", "failed", "how", "JSD at the end (nats)", "rec / variance", "modes"], rows)


def _verdict(found: _Found) -> str:
    """How the automatic weight at its default ends, against the best fixed one of each density, in two sentences."""
    ours = [one for ways in found.values() for one in ways["auto"][1.0]]
    published = [one for ways in found.values() for one in ways["fixed"][1.0]]
    words = []
    for density, ways in found.items():
        jsd = {factor: [one.last_jsd for one in group] for factor, group in ways["fixed"].items()}
        best = min(jsd, key=lambda factor: mean(jsd[factor]) if math.isfinite(mean(jsd[factor])) else math.inf)
        limit = mean(jsd[best]) + spread(jsd[best])
        mine = mean(one.last_jsd for one in ways["auto"][1.0])
        if math.isfinite(limit):
            relation = f"no worse than {number(limit)}" if mine <= limit else f"worse than {number(limit)}"
        else:
            relation = f"against {number(mean(jsd[best]))}"
        words.append(f"{density} {number(mine)}, {relation} at {best:g} times the published weight")
    several = len(ours) > len(found)
    compared = "Its mean JSD against the best fixed weight's mean plus one standard deviation"
    if not several:
        compared = "Its JSD against that of the best fixed weight, with one seed, which does not show small differences"
    return (
        f"**The automatic weight at its default failed in {failed(ours)[0]} of {plural(len(ours), 'run')}, the "
        f"published one in {failed(published)[0]} of {len(published)}.** {compared}: {'; '.join(words)}."
    )


def _draw(path: Path, found: _Found) -> None:
    from sivae.figures.charts import legend, new_figure, panel, value_ticks, write_figure
    from sivae.figures.look import BLUE, MUTED, ORANGE

    drawing = new_figure(10.0, 7.0)
    colours: Mapping[Way, str] = {"fixed": BLUE, "auto": ORANGE}
    for index, (density, ways) in enumerate(found.items()):
        box = (0.08 + 0.48 * (index % 2), 0.54 - 0.42 * (index // 2), 0.4, 0.32)
        labels = ("factor (logarithmic)" if index > 1 else "", "JSD at the end (nats)" if index % 2 == 0 else "")
        axes = panel(drawing, box, title=density, x=labels[0], y=labels[1])
        for way, of_way in ways.items():
            factors = list(of_way)
            means = [mean(one.last_jsd for one in group) for group in of_way.values()]
            axes.plot(factors, means, color=colours[way], linewidth=1.3, label=_NAMES[way])
            for factor, group in of_way.items():
                for one in group:
                    mark = "x" if one.failures else "o"
                    axes.plot([factor], [one.last_jsd], linestyle="", marker=mark, markersize=6, color=colours[way])
        value_ticks(axes, sorted({factor for of_way in ways.values() for factor in of_way}))
        axes.axhline(math.log(2), color=MUTED, linewidth=0.8, linestyle="--")
        axes.set_ylim(0.0, 0.9)
        if index == 0:
            legend(axes, fontsize=8, loc="upper right")
    write_figure(
        path,
        drawing,
        "A fixed and an automatic beta_neg",
        "each point is one run; × diverged or collapsed; dashed: ln 2, where the distributions do not overlap",
    )
