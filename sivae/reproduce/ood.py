"""Out-of-distribution detection: how well VAE and Soft-IntroVAE tell the images of their training from others."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training
from sivae.reproduce.markdown import counted, figure, listed, mean, mean_and_spread, number, table
from sivae.reproduce.methods import METHODS

if TYPE_CHECKING:
    import numpy as np

    from sivae.training.detection import NamedImages, Scores

NAME = "ood"
SUMMARY = "VAE against Soft-IntroVAE at telling images of another kind by their likelihood"
NEEDS = "nothing: it trains on digits; or CIFAR-10 (--data PATH) and, as published, SVHN (--against PATH), with a GPU"
TIME: Mapping[Size, str] = {
    "quick": "digits: 2 trainings of 400 iterations, 3 minutes each on a CPU core; --data: 2 of 300 iterations of 32",
    "full": "digits: 2 trainings of half an hour on a CPU core; --data: 2 of 250 epochs, hours on a GPU",
}

_COMPARED = ("vae", "soft-intro")  # the two whose histograms the slides show
_QUICK_STEPS = {"digits": 400, "cifar10": 300}
_NOISE_IMAGES, _PATCH = 300, 32


def trainings(settings: Settings) -> list[Training]:
    """Both methods with every seed: on digits, or by the preset cifar10 on the images given."""
    settings.refuse("run", experiment=NAME)
    preset, values = "digits", dict[str, Any]()
    if settings.data is not None:
        preset, values = "cifar10", {"path": settings.data}
    if settings.size == "quick":
        values |= {"steps": _QUICK_STEPS[preset]}
    return [
        Training(f"{method}-seed{seed}", settings.configure(preset, objective=method, seed=seed, **values))
        for seed in settings.seed_range(quick=1, full=1)
        for method in _COMPARED
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path) -> Report:
    """Scores of the test images and of each other set, their separation, and the histograms of the first seed."""
    from sivae.evaluation.ood import SCORES, describe, separation
    from sivae.figures.charts import plot_scores
    from sivae.training.detection import open_set

    samples, count, resamples = settings.pick(quick=(5, 300, 200), full=(100, 10_000, 1_000))
    seeds = sorted({run.config.seed for run in runs.values()})
    first = runs[f"{_COMPARED[0]}-seed{seeds[0]}"].config
    inside = open_set(first.data)
    others = _others(settings, first.data.resolution or 8)
    scores = {
        run.name: {one.name: _scores(run, one, samples, count) for one in (inside, *others)}
        for run in runs.values()
        if run.summary is not None
    }
    numbers: dict[str, Any] = {"in": inside.name, "samples": samples, "sets": {}}
    rows, sections, figures = [], [], []
    for other in others:
        found: dict[str, Any] = {}
        for method in _COMPARED:
            names = [f"{method}-seed{seed}" for seed in seeds if f"{method}-seed{seed}" in scores]
            found[method] = {
                score: [
                    {
                        metric: interval._asdict()
                        for metric, interval in separation(
                            scores[name][inside.name][score], scores[name][other.name][score], resamples=resamples
                        ).items()
                    }
                    for name in names
                ]
                for score in SCORES
            }
            rows.append([f"{other.name}, {METHODS[method]}", *_cells(found[method])])
        numbers["sets"][other.name] = found
        drawn = {
            METHODS[method]: {one.name: scores[name][one.name]["likelihood"] for one in (inside, other)}
            for method in _COMPARED
            if (name := f"{method}-seed{seeds[0]}") in scores
        }
        if drawn:
            file = f"scores-{re.sub(r'[^a-z0-9]+', '-', other.name.lower()).strip('-') or 'other'}.png"
            plot_scores(folder / file, drawn, describe("likelihood", samples), f"{inside.name} against {other.name}")
            figures.append(file)
            sections.append(
                figure(
                    file,
                    f"Negative importance-weighted log-likelihood of test images of {inside.name} and of {other.name}, "
                    f"under both models; seed {seeds[0]}, K = {samples}.",
                )
            )
    counts = listed([f"{len(one['kl']):,} of {name}" for name, one in next(iter(scores.values()), {}).items()])
    density = first.objective
    about = (
        f"{listed([METHODS[method] for method in _COMPARED])} on {inside.name}, {len(seeds)} seed"
        f"{'' if len(seeds) == 1 else 's'}: {first.total_steps:,} iterations of batch {first.batch_size}, beta_rec "
        f"{density.beta_rec:g} and beta_kl {density.beta_kl:g} for both. Scored are images of {inside.name}, of its "
        f"test part where it has one, and of {listed([one.name for one in others])}, at most {count:,} of each, cut "
        f"and scaled to the model's size and channels: {counts or 'none'}. The log-likelihood is the "
        f"importance-weighted bound of {samples} samples; p(x|z) is a Gaussian of variance beta_kl / (2 beta_rec), "
        "so that the bound of one sample is what a VAE's training maximises."
    )
    measured = table(["out of distribution", "AUROC", "AUPR", "FPR at 95 % TPR", "AUROC by ELBO", "AUROC by KL"], rows)
    how = "value and 95 % bootstrap interval over the images" if len(seeds) == 1 else _over(len(seeds))
    words = (
        f"{measured}\n\nImages out of distribution are the positive class. The first three columns are by the "
        f"log-likelihood; higher is better but for FPR; {how}. 0.5 is what guessing gives for AUROC, and below it the "
        "images of the other kind are held to be *more* likely than those of the training's."
    )
    return Report(
        about,
        [
            ("Histograms", "\n\n".join(sections) or "No training came to its end."),
            ("How well the sets are told apart", words),
            ("What we see", _findings(numbers["sets"], runs)),
            (
                "What there is to compare with",
                "The published experiment trains on CIFAR-10, takes SVHN for what is out of distribution, and sets the "
                "histograms of both models side by side as above. Its numbers are not at hand, so none here is held "
                "against one of them.",
            ),
        ],
        numbers,
        figures,
    )


def _others(settings: Settings, side: int) -> list[NamedImages]:
    """The set that was named, and what needs no download."""
    import numpy as np

    from sivae.data.images import PackedImages
    from sivae.training.detection import DIGITS, NamedImages, open_set

    named = [] if settings.against is None else [open_set(settings.against)]
    if settings.data is not None:
        named.append(open_set(DIGITS))
    noise = np.random.default_rng(0).integers(0, 256, (_NOISE_IMAGES, side, side, 3), dtype=np.uint8)
    return [
        *named,
        NamedImages("photographs", PackedImages(_patches(), name="photographs")),
        NamedImages("noise", PackedImages(noise, name="noise")),
    ]


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
    from sivae import from_pretrained
    from sivae.training.detection import Detector, density_of, score_set
    from sivae.training.devices import find_device

    model = from_pretrained(run.folder).to(find_device(run.config.device))
    detector = Detector(model, density_of(run.config.objective), samples=samples)
    return score_set(detector, images.images, count, title=f"scoring {images.name} by {run.name}")


def _cells(found: Mapping[str, Sequence[Mapping[str, Mapping[str, float]]]]) -> list[str]:
    """AUROC, AUPR and FPR by likelihood, AUROC by the two others."""
    wanted = [
        ("likelihood", "auroc"),
        ("likelihood", "aupr"),
        ("likelihood", "fpr95"),
        ("elbo", "auroc"),
        ("kl", "auroc"),
    ]
    cells = []
    for score, metric in wanted:
        given = [one[metric] for one in found[score]]
        if len(given) == 1:
            cells.append(f"{given[0]['value']:.3f} ({given[0]['low']:.3f}–{given[0]['high']:.3f})")
        else:
            cells.append(mean_and_spread([one["value"] for one in given]))
    return cells


def _over(seeds: int) -> str:
    return f"mean ± standard deviation over {seeds} seeds"


def _findings(sets: Mapping[str, Any], runs: Mapping[str, Trained]) -> str:
    """Sentences that say no more than the numbers do."""
    lines = []
    for name, found in sets.items():
        values = {
            method: [one["auroc"]["value"] for one in found[method]["likelihood"]]
            for method in _COMPARED
            if found[method]["likelihood"]
        }
        if len(values) < len(_COMPARED):
            lines.append(f"- {name}: a training diverged, so there is nothing to compare.")
            continue
        best, worst = sorted(values, key=lambda method: -mean(values[method]))
        text = (
            f"- {name}: by likelihood {METHODS[best]} reaches an AUROC of {number(mean(values[best]))}, "
            f"{METHODS[worst]} {number(mean(values[worst]))}"
        )
        if _touch(found[best]["likelihood"], found[worst]["likelihood"]):
            text += "; their intervals overlap, so no order is certain"
        elif len(values[best]) == 1:
            text += "; the intervals over images are apart, and another seed may change the order"
        below = [METHODS[method] for method in _COMPARED if mean(values[method]) < 0.5]
        if below:
            text += f". {listed(below)} hold{'s' if len(below) == 1 else ''} {name} to be the more likely images"
        lines.append(f"{text}.")
    for method in _COMPARED:
        better = [
            name
            for name, found in sets.items()
            if found[method]["kl"]
            and mean(one["auroc"]["value"] for one in found[method]["kl"])
            > mean(one["auroc"]["value"] for one in found[method]["likelihood"])
        ]
        lines.append(
            f"- With {METHODS[method]} the KL alone, which needs no decoder, is better than the likelihood on "
            f"{counted(len(better), len(sets), 'set')}{': ' + listed(better) if better else ''}."
        )
    diverged = [run.name for run in runs.values() if run.summary is None]
    if diverged:
        lines.append(f"- Training diverged, and was given up: {listed(diverged)}.")
    return "\n".join(lines)


def _touch(ours: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the bootstrap intervals of the seeds overlap."""
    return min(one["auroc"]["low"] for one in ours) <= max(one["auroc"]["high"] for one in theirs)
