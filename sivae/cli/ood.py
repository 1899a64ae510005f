"""`sivae ood`: detect images unlike the training data, by their likelihood."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from sivae.cli import clouds
from sivae.cli.generation import (
    IN_FOLDER,
    CloudModel,
    ImageModel,
    add_model,
    add_weights_and_device,
    open_any_model,
    refuse,
)
from sivae.cli.parsing import Parser, add_crop, at_least, data_path, file, number, seed
from sivae.cli.printing import notice, print_comparison
from sivae.errors import ConfigError
from sivae.words import plural

if TYPE_CHECKING:
    from sivae.detection.detector import Detector
    from sivae.detection.sets import NamedImages
    from sivae.evaluation.ood import Score

_COUNT, _K, _QUANTILE = 10_000, 5, 0.95
_SCORES = ("kl", "elbo", "likelihood")
_OF_SETS = ("in_", "against", "in_split", "against_split", "count", "out", "calibrate", "quantile", "skip_damaged")
_OF_SCORES = ("by", "k", "sigma", "beta_rec", "beta_kl", "seed", "crop")


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Detect images unlike the training data, by their likelihood under the model.

        --in A --against B measures how well two sets are separated, where B is the positive class: AUROC, AUPR and FPR
        at 95 % TPR with bootstrap intervals, a histogram, and every score. --calibrate saves a threshold, which is a
        quantile of the scores of A. --score FOLDER writes a score for each image file of a folder, and with
        --threshold a verdict. Of the clouds of a model of point clouds, --against compares two sets.
        """,
        [
            "sivae ood runs/digits-seed0 --against olivetti-faces.zip",
            "sivae ood runs/cifar10-seed0 --in cifar-10-python.tar.gz --against svhn/ --k 100",
            "sivae ood runs/cifar10-seed0 --against svhn/ --by kl",
            "sivae ood runs/cifar10-seed0 --calibrate threshold.json --quantile 0.99",
            "sivae ood runs/cifar10-seed0 --score pictures/ --threshold threshold.json",
            "sivae ood runs/points-chair-seed0 --against shapes:lamp",
        ],
    )
    add_model(parser)
    sets = parser.add_argument_group("compare two sets of images")
    sets.add_argument(
        "--in",
        dest="in_",
        type=data_path,
        metavar="PATH",
        help="Set A, images like the training data: any that sivae train --data reads. (default: the run's data)",
    )
    sets.add_argument(
        "--against",
        type=data_path,
        metavar="PATH",
        help="Set B, images of another kind: any that sivae train --data reads, such as digits.",
    )
    split = ("train", "test")
    sets.add_argument("--in-split", choices=split, help="Part of A. (default: test, or all images if it has no parts)")
    sets.add_argument("--against-split", "--out-split", choices=split, help="Part of B. (default: as for A)")
    sets.add_argument(
        "--count", type=at_least(1), metavar="N", help=f"Largest number of images of each set. (default: {_COUNT:,})"
    )
    sets.add_argument("--skip-damaged", action="store_true", help="Leave out image files that cannot be decoded.")
    sets.add_argument(
        "--out",
        "--out-dir",
        type=Path,
        metavar="DIR",
        help=f"Folder of ood.json, ood.png and ood.csv. (default: ood/ {IN_FOLDER})",
    )
    sets.add_argument(
        "--calibrate", type=file(".json"), metavar="FILE.json", help="Write a threshold, from the scores of A."
    )
    sets.add_argument(
        "--quantile",
        type=number,
        metavar="X",
        help=f"Share of A's images at or below the threshold. (default: {_QUANTILE})",
    )
    files = parser.add_argument_group("score image files")
    files.add_argument("--score", type=Path, metavar="FOLDER", help="Score the image files of a folder, zip or tar.")
    files.add_argument(
        "--threshold",
        type=file(".json"),
        metavar="FILE.json",
        help="A file that --calibrate wrote; it sets the kind of score and the limit for the verdict.",
    )
    files.add_argument(
        "--csv",
        type=file(".csv"),
        metavar="FILE.csv",
        help=f"File of the table. (default: ood-scores.csv {IN_FOLDER})",
    )
    scores = parser.add_argument_group("the score")
    scores.add_argument(
        "--by",
        choices=_SCORES,
        help="Score to draw, calibrate and write; with kl, which needs no decoder, only that one is computed. "
        "(default: likelihood)",
    )
    scores.add_argument(
        "--k",
        type=at_least(1),
        metavar="N",
        help=f"Samples of z for each image; use 100 for a number to report. (default: {_K})",
    )
    scores.add_argument(
        "--sigma",
        type=number,
        metavar="X",
        help="Standard deviation of p(x|z), in the model's units. (default: what the run learned, else "
        "sqrt(beta_kl / (2 beta_rec)) of the run)",
    )
    for name in ("rec", "kl"):
        scores.add_argument(
            f"--beta-{name}", type=number, metavar="X", help=f"Weight beta_{name} of p(x|z). (default: the run's)"
        )
    scores.add_argument("--seed", type=seed, metavar="N", help="Seed of the samples. (default: 0)")
    add_crop(parser)
    add_weights_and_device(parser)


def run(given: argparse.Namespace) -> None:
    """Score, measure, write, and print a table."""
    _check_combination(given)
    opened = open_any_model(given)
    if isinstance(opened, CloudModel):
        clouds.ood(given, opened)
        return
    _check_out(given, opened)
    if given.score is not None:
        _score_files(given, opened)
    else:
        _compare(given, opened)


def _check_combination(given: argparse.Namespace) -> None:
    """Refuse options that have no effect together."""
    if given.score is not None:
        if str(given.score) in _SCORES and not given.score.exists():
            raise ConfigError(f"--score names a folder of images; the kind of score is --by {given.score}")
        refuse(given, _OF_SETS, "is for two sets of images, and --score for a folder; leave one of them out")
        if given.threshold is not None:
            refuse(given, _OF_SCORES, "is given by the file of --threshold; leave it out")
        return
    refuse(given, ["threshold", "csv"], "goes with --score FOLDER; leave it out")
    if given.out is not None and given.against is None:
        raise ConfigError(f"--out {given.out} is where to write; name the images of another kind by --against PATH")
    if given.against is None and given.calibrate is None:
        raise ConfigError(
            "name what to do: --against PATH compares with images of another kind, --calibrate FILE.json saves a "
            "threshold, --score FOLDER scores files"
        )
    if given.calibrate is None:
        refuse(given, ["quantile"], "goes with --calibrate FILE.json; leave it out")
    if given.quantile is not None and not 0 < given.quantile <= 1:
        raise ConfigError(f"--quantile {given.quantile:g}: expected more than 0 and at most 1")
    if given.against is None:
        refuse(given, ["against_split"], "goes with --against PATH; leave it out, or give that too")


def _check_out(given: argparse.Namespace, opened: ImageModel) -> None:
    """Refuse to write into a set of images, which the picture would change."""
    from sivae.training.folder import run_of

    if given.out is None:
        return
    run = run_of(opened.source)
    of_run = None if run is None or "path" not in run.data.key_names() else run.value("path")
    for place in (given.in_, given.against, of_run):
        if place is not None and given.out.resolve().is_relative_to(Path(place).resolve()):
            raise ConfigError(
                f"--out {given.out} is in the images of {place}, and the figure would become one of them; choose "
                "another folder"
            )


def _detector(given: argparse.Namespace, opened: ImageModel) -> Detector:
    from sivae.detection.detector import Detector, density_of
    from sivae.method.objectives import GAUSSIAN
    from sivae.training.folder import learned_deviation, run_of

    run = run_of(opened.source)
    score: Score = given.by or "likelihood"
    learned = None
    if run is not None and run.objective.kind == GAUSSIAN and given.sigma is None:
        learned = learned_deviation(opened.source, notice)
    weights = {"sigma": given.sigma, "beta_rec": given.beta_rec, "beta_kl": given.beta_kl}
    objective = None if run is None else run.objective
    density = density_of(objective, **weights, learned=learned, score=score, notice=notice)
    return Detector(opened.model, density, score, given.k or _K, given.seed or 0, opened.crop)


def _compare(given: argparse.Namespace, opened: ImageModel) -> None:
    from sivae.detection.comparison import distinct_names, write_comparison
    from sivae.detection.sets import score_set
    from sivae.detection.thresholds import calibrate

    detector = _detector(given, opened)
    inside = _open(given, opened, "in")
    outside = None if given.against is None else _open(given, opened, "out")
    folder = given.out or opened.beside("ood")
    # A folder that cannot be made fails here, not after an hour of scoring.
    if outside is not None:
        folder.mkdir(parents=True, exist_ok=True)
    if given.calibrate is not None:
        given.calibrate.parent.mkdir(parents=True, exist_ok=True)
    count = given.count or _COUNT
    scores = {"in": score_set(detector, inside.images, count, title=f"scoring {inside.name}", notice=notice)}
    threshold = None
    if given.calibrate is not None:
        threshold = calibrate(detector, scores["in"], given.quantile or _QUANTILE, inside.name)
        threshold.write(given.calibrate)
    if outside is not None:
        scores["out"] = score_set(detector, outside.images, count, title=f"scoring {outside.name}", notice=notice)
        names = distinct_names(inside.name, outside.name)
        content = write_comparison(folder, detector, names, scores, threshold=threshold, source=opened.source)
        print_comparison(content, folder)
    if threshold is not None:
        found = f"; above it are {content['threshold']['found']:.1%} of {names[1]}" if outside is not None else ""
        print(
            f"{given.calibrate}: {threshold.score} {threshold.threshold:.6g}, the quantile {threshold.quantile:g} "
            f"of {plural(threshold.images, 'image')}{found}"
        )


def _open(given: argparse.Namespace, opened: ImageModel, which: str) -> NamedImages:
    from sivae.detection.sets import open_set
    from sivae.training.folder import run_of

    source, split = (given.in_, given.in_split) if which == "in" else (given.against, given.against_split)
    if source is None:
        run = run_of(opened.source)
        if run is None:
            raise ConfigError(f"{opened.source} is a model without a run; name images like its own by --in PATH")
        run.data.check_is_named(run.preset)
        source = run.data
    return open_set(source, split=split, skip_damaged=given.skip_damaged, notice=notice)


def _score_files(given: argparse.Namespace, opened: ImageModel) -> None:
    from sivae.detection.file_scores import score_files, write_file_scores
    from sivae.detection.thresholds import detector_of
    from sivae.evaluation.ood import Threshold

    threshold = None
    if given.threshold is None:
        detector = _detector(given, opened)
    else:
        threshold = Threshold.read(given.threshold)
        detector = detector_of(opened.model, threshold, given.threshold)
    out = given.csv or opened.beside("ood-scores.csv")
    rows = score_files(detector, given.score, notice=notice)
    write_file_scores(out, rows, None if threshold is None else threshold.threshold)
    damaged = [row for row in rows if row.score is None and row.is_image]
    if damaged:
        more = f", and {len(damaged) - 1:,} more like it" if len(damaged) > 1 else ""
        notice(f"{damaged[0].problem}{more}; without a score in the table")
    found = ""
    if threshold is not None:
        count = sum(row.score is not None and row.score > threshold.threshold for row in rows)
        found = f", out of distribution {count:,}"
    scored = sum(row.score is not None for row in rows)
    print(f"{plural(scored, 'image')} scored by {detector.score}{found}")
    print(out)
