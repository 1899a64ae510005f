"""`sivae ood`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from sivae.cli.generation import Device, ImageModel, Model, Raw, check_at_least, check_seed, file, open_model
from sivae.cli.options import Folder, Number, Whole, one, one_of
from sivae.errors import ConfigError

if TYPE_CHECKING:
    from sivae.training.detection import Detector, NamedImages

_COUNT, _K, _SEED, _QUANTILE = 10_000, 5, 0, 0.95
_SCORES = ("kl", "elbo", "likelihood")
_OF_SETS = ("in_", "out", "in_split", "out_split", "count", "out_dir", "calibrate", "quantile", "skip_damaged")
_OF_FILES = ("threshold", "csv")
_OF_SCORES = ("by", "k", "sigma", "beta_rec", "beta_kl", "seed")
_Split = Annotated[str | None, one_of("train", "test")]
_HERE = "in the run's folder, or beside a model's)"


@dataclass
class Arguments:
    """Tell images like the training data from others, by how likely the model holds them to be.

    --in A --out B measures how well two sets are told apart, B being the positive class: AUROC, AUPR and FPR at 95 %
    TPR with bootstrap intervals, a histogram, and every score. --calibrate saves a threshold, at a quantile of the set
    A. --score FOLDER writes a score for each image file of a folder, and a verdict with --threshold.

    examples:
      sivae ood runs/digits-seed0 --out olivetti-faces.zip
      sivae ood runs/cifar10-seed0 --in cifar-10-python.tar.gz --out svhn/ --k 100
      sivae ood runs/cifar10-seed0 --out svhn/ --by kl
      sivae ood runs/cifar10-seed0 --calibrate threshold.json --quantile 0.99
      sivae ood runs/cifar10-seed0 --score pictures/ --threshold threshold.json
    """

    model: Model = None
    in_: Annotated[
        Path | None,
        one(Path, "PATH"),
        arg(
            name="in",
            help="Images like those of the training: any that sivae train reads, or digits.",
            help_behavior_hint="(default: the run's)",
        ),
    ] = None
    out: Annotated[
        Path | None, one(Path, "PATH"), arg(help="Images of another kind, likewise.", help_behavior_hint="")
    ] = None
    in_split: Annotated[
        _Split, arg(help="Which part of A.", help_behavior_hint="(default: test, or all where it has no parts)")
    ] = None
    out_split: Annotated[_Split, arg(help="Which part of B.", help_behavior_hint="(default: as for A)")] = None
    by: Annotated[
        str | None,
        one_of(*_SCORES),
        arg(
            help="The score that is drawn, calibrated and written. kl spares the decoder; else the table has all.",
            help_behavior_hint="(default: likelihood)",
        ),
    ] = None
    k: Annotated[
        Whole, arg(help="Samples of z for each image; 100 for a figure.", help_behavior_hint=f"(default: {_K})")
    ] = None
    sigma: Annotated[
        Number,
        arg(
            help="Standard deviation of p(x|z), in the model's units.",
            help_behavior_hint="(default: sqrt(beta_kl / (2 beta_rec)), of the training)",
        ),
    ] = None
    beta_rec: Annotated[Number, arg(help="In the place of the run's.", help_behavior_hint="(default: the run's)")] = (
        None
    )
    beta_kl: Annotated[Number, arg(help="In the place of the run's.", help_behavior_hint="(default: the run's)")] = None
    seed: Annotated[Whole, arg(help="Of the samples.", help_behavior_hint=f"(default: {_SEED})")] = None
    count: Annotated[
        Whole, arg(help="Images at most of each set, spread over it.", help_behavior_hint=f"(default: {_COUNT})")
    ] = None
    skip_damaged: Annotated[
        FlagCreatePairsOff[bool], arg(help="Leave out image files that cannot be decoded.", help_behavior_hint="")
    ] = False
    out_dir: Annotated[
        Folder, arg(help="Where ood.json, ood.png and ood.csv go.", help_behavior_hint=f"(default: ood/ {_HERE}")
    ] = None
    calibrate: Annotated[
        Path | None,
        file(".json"),
        arg(help="Write a threshold, from the set A.", help_behavior_hint=""),
    ] = None
    quantile: Annotated[
        Number,
        arg(help="Share of A's images at or below the threshold.", help_behavior_hint=f"(default: {_QUANTILE})"),
    ] = None
    score: Annotated[
        Path | None,
        one(Path, "FOLDER"),
        arg(help="Score the image files of a folder, zip or tar.", help_behavior_hint=""),
    ] = None
    threshold: Annotated[
        Path | None,
        file(".json"),
        arg(help="With --score: what --calibrate wrote; decides score and verdict.", help_behavior_hint=""),
    ] = None
    csv: Annotated[
        Path | None,
        file(".csv"),
        arg(help="With --score: the table.", help_behavior_hint=f"(default: ood-scores.csv {_HERE}"),
    ] = None
    raw_weights: Raw = False
    device: Device = None


def run(arguments: Arguments) -> None:
    """Score, measure, write, and print a table."""
    _check_combination(arguments)
    check_at_least("--count", _COUNT if arguments.count is None else arguments.count, 1)
    opened = open_model(arguments.model, raw=arguments.raw_weights, device=arguments.device, chosen=None)
    if arguments.score is not None:
        _score_files(arguments, opened)
    else:
        _compare(arguments, opened)


def _check_combination(arguments: Arguments) -> None:
    """Refuse options that have no effect together."""

    def given(names: tuple[str, ...]) -> list[str]:
        values = {name: getattr(arguments, name) for name in names}
        return [
            f"--{name.strip('_').replace('_', '-')}" for name, value in values.items() if value not in (None, False)
        ]

    if arguments.score is not None:
        if str(arguments.score) in _SCORES and not arguments.score.exists():
            raise ConfigError(f"--score names a folder of images; the kind of score is --by {arguments.score}")
        if lost := given(_OF_SETS):
            raise ConfigError(f"{lost[0]} is for two sets of images, and --score for a folder; leave one of them out")
        if arguments.threshold is not None and (lost := given(_OF_SCORES)):
            raise ConfigError(f"{lost[0]}: the file of --threshold says that already; leave it out")
        return
    if lost := given(_OF_FILES):
        raise ConfigError(f"{lost[0]} goes with --score FOLDER; leave it out")
    if arguments.out is None and arguments.calibrate is None:
        raise ConfigError(
            "say what to do: --out PATH names images of another kind, --calibrate FILE.json saves a threshold, "
            "--score FOLDER scores files"
        )
    if arguments.calibrate is None and arguments.quantile is not None:
        raise ConfigError("--quantile goes with --calibrate FILE.json; leave it out")
    if arguments.quantile is not None and not 0 < arguments.quantile <= 1:
        raise ConfigError(f"--quantile {arguments.quantile:g}: expected more than 0 and at most 1")
    if arguments.out is None and (lost := given(("out_split", "out_dir"))):
        raise ConfigError(f"{lost[0]} goes with --out PATH; leave it out")


def _notice(text: str) -> None:
    print(f"sivae: {text}", file=sys.stderr)


def _detector(arguments: Arguments, opened: ImageModel) -> Detector:
    from sivae.training.detection import Detector, density_of, run_of

    run = run_of(opened.source)
    weights = {"sigma": arguments.sigma, "beta_rec": arguments.beta_rec, "beta_kl": arguments.beta_kl}
    by: Any = arguments.by or "likelihood"
    return Detector(
        opened.model,
        density_of(None if run is None else run.objective, **weights, notice=_notice),
        by,
        check_at_least("--k", _K if arguments.k is None else arguments.k, 1),
        check_seed("--seed", _SEED if arguments.seed is None else arguments.seed),
    )


def _compare(arguments: Arguments, opened: ImageModel) -> None:
    from rich.console import Console

    from sivae import files
    from sivae.cli.tables import separation_table
    from sivae.evaluation.ood import describe
    from sivae.figures.charts import plot_scores
    from sivae.training.detection import calibrate, comparison, score_set, write_set_scores

    detector = _detector(arguments, opened)
    inside = _open(arguments, opened, "in")
    outside = None if arguments.out is None else _open(arguments, opened, "out")
    folder = arguments.out_dir or opened.beside("ood")
    # Before an hour of scoring, not after it.
    if outside is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if arguments.calibrate is not None:
        arguments.calibrate.parent.mkdir(parents=True, exist_ok=True)
    count = arguments.count or _COUNT
    scores = {"in": score_set(detector, inside.images, count, title=f"scoring {inside.name}")}
    console = Console(highlight=False, soft_wrap=True)
    threshold = None
    if arguments.calibrate is not None:
        quantile = _QUANTILE if arguments.quantile is None else arguments.quantile
        threshold = calibrate(detector, scores["in"], quantile, inside.name)
        threshold.write(arguments.calibrate)
    if outside is not None:
        scores["out"] = score_set(detector, outside.images, count, title=f"scoring {outside.name}")
        same = inside.name == outside.name
        names = (f"{inside.name} (in)", f"{outside.name} (out)") if same else (inside.name, outside.name)
        content = comparison(detector, names, *scores.values(), threshold=threshold, source=str(opened.source))
        files.write_json(folder / "ood.json", content)
        write_set_scores(folder / "ood.csv", scores)
        drawn = {name: one[detector.score] for name, one in zip(names, scores.values(), strict=True)}
        plot_scores(
            folder / "ood.png",
            {opened.source.name: drawn},
            describe(detector.score, detector.samples),
            f"{names[0]} against {names[1]}",
            threshold=None if threshold is None else threshold.threshold,
        )
        counts = [f"{name} ({len(values):,} images)" for name, values in drawn.items()]
        console.print(separation_table(f"in {counts[0]}, out {counts[1]}", content["metrics"]))
        for name in ("ood.json", "ood.csv", "ood.png"):
            console.print(str(folder / name), markup=False)
    if threshold is not None:
        found = f"; above it are {content['threshold']['found']:.1%} of {names[1]}" if outside is not None else ""
        console.print(
            f"{arguments.calibrate}: {threshold.score} {threshold.threshold:.6g}, the quantile {threshold.quantile:g} "
            f"of {threshold.images:,} images{found}",
            markup=False,
        )


def _open(arguments: Arguments, opened: ImageModel, which: str) -> NamedImages:
    from sivae.training.detection import open_set, run_of

    source: Any = arguments.in_ if which == "in" else arguments.out
    split: Any = arguments.in_split if which == "in" else arguments.out_split
    if source is None:
        run = run_of(opened.source)
        if run is None:
            raise ConfigError(f"{opened.source} is a model without a run; name images like its own by --in PATH")
        run.check_data_is_named()
        source = run.data
    return open_set(source, split=split, skip_damaged=arguments.skip_damaged, notice=_notice)


def _score_files(arguments: Arguments, opened: ImageModel) -> None:
    from sivae.evaluation.ood import Threshold
    from sivae.training.detection import detector_of
    from sivae.training.file_scores import score_files, write_file_scores

    assert arguments.score is not None
    threshold = None
    if arguments.threshold is None:
        detector = _detector(arguments, opened)
    else:
        threshold = Threshold.read(arguments.threshold)
        detector = detector_of(opened.model, threshold, arguments.threshold)
    out = arguments.csv or opened.beside("ood-scores.csv")
    rows = score_files(detector, arguments.score)
    write_file_scores(out, rows, None if threshold is None else threshold.threshold)
    damaged = [row for row in rows if row.score is None]
    if damaged:
        more = f", and {len(damaged) - 1:,} more like it" if len(damaged) > 1 else ""
        _notice(f"{damaged[0].problem}{more}; without a score in the table")
    found = ""
    if threshold is not None:
        count = sum(row.score is not None and row.score > threshold.threshold for row in rows)
        found = f", out of distribution {count:,}"
    print(f"{len(rows) - len(damaged):,} images scored by {detector.score}{found}")
    print(out)
