"""Compare VAE and Soft-IntroVAE at out-of-distribution detection: images of the training's kind against others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sivae.reproduce.experiment import METHODS, Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import figure, mean, mean_and_spread, over_seeds, table
from sivae.words import listed, plural

if TYPE_CHECKING:
    import numpy as np

    from sivae.detection.detector import Scores
    from sivae.detection.sets import NamedImages

    Found = Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]  # score -> for each seed metric -> interval

NAME = "ood"
SUMMARY = "VAE and Soft-IntroVAE compared at detecting images of another kind by their likelihood"
NEEDS = "nothing: it trains on digits; or CIFAR-10 (--data PATH) and, as published, SVHN (--against PATH), with a GPU"
TIME: Mapping[Size, str] = {
    "quick": "digits: 2 trainings of 400 iterations, a minute on a CPU core; --data: 2 of 300 iterations of 32",
    "full": "digits: 2 trainings of 7 minutes on a CPU core; --data: 2 of 250 epochs, hours on a GPU",
}

_COMPARED = ("vae", "soft-intro")  # the two whose histograms the slides show
_NOISE_IMAGES, _PATCH = 300, 32
# Score and metric of each column.
_COLUMNS = {
    "AUROC": ("likelihood", "auroc"),
    "AUPR": ("likelihood", "aupr"),
    "FPR at 95 % TPR": ("likelihood", "fpr95"),
    "AUROC by ELBO": ("elbo", "auroc"),
    "AUROC by KL": ("kl", "auroc"),
}


def trainings(settings: Settings) -> list[Training]:
    """Both methods with every seed: on digits, or by the preset cifar10 on the images given."""
    settings.allow("seeds", "steps", "data", "against", experiment=NAME)
    return [
        Training(f"{method}-seed{seed}", settings.configure_images(objective=method, seed=seed))
        for seed in settings.seed_range(quick=1, full=1)
        for method in _COMPARED
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """Scores of the test images and of each other set, their separation, and the histograms of the first seed."""
    from sivae.detection.sets import open_set
    from sivae.evaluation.ood import SCORES, describe, separation
    from sivae.figures.charts import plot_scores

    samples, count, resamples = settings.pick(quick=(5, 300, 200), full=(100, 10_000, 1_000))
    seeds = seeds_of(runs)
    config = next(iter(runs.values())).config
    inside = open_set(config.data)
    others = _others(settings, config.data.side)
    scores = {
        run.name: {one.name: _scores(run, one, samples, count) for one in (inside, *others)}
        for run in runs.values()
        if run.summary is not None
    }

    def separations(method: str, other: str) -> Found:
        names = [name for seed in seeds if (name := f"{method}-seed{seed}") in scores]
        sets = [(scores[name][inside.name], scores[name][other]) for name in names]
        return {
            score: [
                {metric: one._asdict() for metric, one in separation(a[score], b[score], resamples=resamples).items()}
                for a, b in sets
            ]
            for score in SCORES
        }

    found = {one.name: {method: separations(method, one.name) for method in _COMPARED} for one in others}
    figures: dict[str, str] = {}
    for other in others:
        drawn = {
            METHODS[method]: {one.name: scores[name][one.name]["likelihood"] for one in (inside, other)}
            for method in _COMPARED
            if (name := f"{method}-seed{seeds[0]}") in scores
        }
        if drawn:
            file = f"scores-{re.sub(r'[^a-z0-9]+', '-', other.name.lower()).strip('-') or 'other'}.png"
            plot_scores(folder / file, drawn, describe("likelihood", samples), f"{inside.name} against {other.name}")
            figures[file] = (
                f"Negative importance-weighted log-likelihood of test images of {inside.name} and of {other.name}, "
                f"under both models; seed {seeds[0]}, K = {samples}."
            )
    beta_rec, beta_kl = config.objective.elbo_weights()
    counts = listed(f"{len(one['kl']):,} of {name}" for name, one in next(iter(scores.values()), {}).items())
    about = (
        f"{listed(METHODS[method] for method in _COMPARED)} on {inside.name}, {plural(len(seeds), 'seed')}: "
        f"{schedule(config)}, beta_rec {beta_rec:g} and beta_kl {beta_kl:g}. "
        f"At most {count:,} images of each set (its test part, if it has one) are scored, cropped and resized to the "
        f"model's size and channels: {counts or 'none'}. The log-likelihood is the importance-weighted bound of "
        f"{samples} samples; p(x|z) is a Gaussian of variance beta_kl / (2 beta_rec), so that the bound of one sample "
        "is what a VAE's training maximises."
    )
    cells = "value and 95 % bootstrap interval over the images" if len(seeds) == 1 else over_seeds(len(seeds))
    how = (
        "Images out of distribution are the positive class. The first three columns are by the log-likelihood; higher "
        f"is better but for FPR; {cells}. Guessing has an AUROC of 0.5; below that, the other images have the higher "
        "likelihood. Bold: the better AUROC of a set, where the intervals are apart."
    )
    rows = [row for name, methods in found.items() for row in _rows(name, methods)]
    histograms = [figure(file, caption) for file, caption in figures.items()]
    return Report(
        about,
        [
            ("Histograms", "\n\n".join(histograms) or "No training came to its end."),
            ("Separation", f"{table(['out of distribution', *_COLUMNS], rows)}\n\n{how}"),
        ],
        {"in": inside.name, "samples": samples, "sets": found},
        list(figures),
    )


def _others(settings: Settings, side: int) -> list[NamedImages]:
    """The set that was named, and others that need no download."""
    import numpy as np

    from sivae.data.images import PackedImages
    from sivae.detection.sets import NamedImages, open_set

    named = [] if settings.against is None else [open_set(settings.against)]
    if settings.data is not None:
        named.append(open_set("digits"))
    noise = np.random.default_rng(0).integers(0, 256, (_NOISE_IMAGES, side, side, 3), dtype=np.uint8)
    made = {"photographs": _patches(), "noise": noise}
    return [*named, *(NamedImages(name, PackedImages(pixels, name=name)) for name, pixels in made.items())]


def _patches() -> np.ndarray:
    """The two photographs that scikit-learn ships, cut into squares side by side: uint8 [N, side, side, 3]."""
    import numpy as np
    from sklearn.datasets import load_sample_images

    patches = []
    for image in load_sample_images().images:
        rows, columns = (size // _PATCH for size in image.shape[:2])
        cut = image[: rows * _PATCH, : columns * _PATCH].reshape(rows, _PATCH, columns, _PATCH, 3)
        patches.append(cut.swapaxes(1, 2).reshape(-1, _PATCH, _PATCH, 3))
    return np.concatenate(patches)


def _scores(run: Trained, images: NamedImages, samples: int, count: int) -> Scores:
    from sivae.detection.detector import Detector, density_of
    from sivae.detection.sets import score_set

    detector = Detector(run.load(), density_of(run.config.objective), samples=samples)
    return score_set(detector, images.images, count, title=f"scoring {images.name} by {run.name}")


def _rows(name: str, methods: Mapping[str, Found]) -> list[list[str]]:
    """A row of the table for each method."""
    auroc = {method: [one["auroc"] for one in found["likelihood"]] for method, found in methods.items()}
    best, other = sorted(auroc, key=lambda method: -mean(one["value"] for one in auroc[method]))
    apart = min((one["low"] for one in auroc[best]), default=0.0) > max(
        (one["high"] for one in auroc[other]), default=1.0
    )
    rows = []
    for method, found in methods.items():
        cells = [_cell([one[metric] for one in found[score]]) for score, metric in _COLUMNS.values()]
        if apart and method == best:
            cells[0] = f"**{cells[0]}**"
        rows.append([f"{name}, {METHODS[method]}", *cells])
    return rows


def _cell(seeds: Sequence[Mapping[str, float]]) -> str:
    if len(seeds) == 1:
        return "{value:.3f} ({low:.3f}–{high:.3f})".format(**seeds[0])
    return mean_and_spread([one["value"] for one in seeds])
