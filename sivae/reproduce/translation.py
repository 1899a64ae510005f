"""Compare Soft-IntroVAE, a VAE and LORD at image translation, with and without pairs of images of one class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sivae.errors import ConfigError
from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import figure, mean, mean_and_spread, number, over_seeds, table
from sivae.words import listed, plural

if TYPE_CHECKING:
    from sivae.training.measured_images import MeasuredImages

NAME = "translation"
SUMMARY = "Soft-IntroVAE, VAE and LORD compared at combining the content of one image with the class of another"
NEEDS = "nothing: it renders shapes; or Cars3D (--data PATH), with a GPU"
TIME: Mapping[Size, str] = {
    "quick": "4 trainings of 2,000 iterations; on shapes an estimated 10 minutes on 2 idle CPU cores",
    "full": "12 trainings; on shapes about 10 minutes each on a CPU core",
}


class _Method(NamedTuple):
    title: str
    objective: str
    keys: Mapping[str, str]


METHODS: dict[str, _Method] = {
    "soft-intro-none": _Method("Soft-IntroVAE without labels", "soft-intro", {"supervision": "none"}),
    "soft-intro-pairs": _Method("Soft-IntroVAE with pairs", "soft-intro", {"supervision": "pairs"}),
    "vae-pairs": _Method("VAE with pairs", "vae", {"supervision": "pairs"}),
    "lord": _Method("LORD", "lord", {}),
}

_SHARE, _TIMES_CHANCE = 0.9, 2.0  # the aims of a translation, see _aims
_PROBES = (
    "class_from_content",
    "class_from_content_draws",
    "content_from_class",
    "class_from_class",
    "content_from_content",
)
_MEASURED_SEED = 0  # one for all: every model is measured on the same pairs and halves

Metrics = Mapping[str, float]


def trainings(settings: Settings) -> list[Training]:
    """Every method with every seed, seeds outermost: on shapes, or by translation-cars3d on the data given."""
    settings.allow("seeds", "steps", "data", "vgg", "lpips", experiment=NAME)
    if settings.lpips is not None and settings.vgg is None:
        raise ConfigError("--lpips needs VGG-16's weights beside its own; name them by --vgg")
    preset, values = "translation-shapes", dict[str, Any]()
    if settings.data is not None:
        preset, values = "translation-cars3d", {"path": settings.data}
    if settings.vgg is not None:
        values |= {"perceptual": settings.vgg}
    return [
        Training(
            f"{name}-seed{seed}",
            settings.configure(
                preset, objective=method.objective, seed=seed, quick={"steps": 2_000}, **values, **method.keys
            ),
        )
        for seed in settings.seed_range(quick=1, full=3)
        for name, method in METHODS.items()
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """The metrics of every run on the test images, and a grid of each method's first seed."""
    from sivae.training.measured_images import translation_metrics
    from sivae.training.tasks.translation import draw_translations

    config = next(iter(runs.values())).config
    test = _test(config)
    pairs = settings.pick(quick=300, full=1_000)
    lpips = None
    if settings.vgg is not None and settings.lpips is not None:
        lpips = Path(settings.vgg), Path(settings.lpips)
    untouched = _untouched(test, pairs)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    figures: dict[str, str] = {}
    for run in runs.values():
        name = run.name.rpartition("-seed")[0]
        if run.summary is None:
            continue
        model = run.load()
        found[name].append(translation_metrics(model, test, _MEASURED_SEED, count=pairs, lpips_files=lpips))
        if name not in figures:
            figures[name] = f"translation-{name}.png"
            draw_translations(folder / figures[name], model, test, _MEASURED_SEED)
    about = (
        f"{listed(method.title for method in METHODS.values())} on {test.images.name}, "
        f"{plural(len(seeds_of(runs)), 'seed')}: {schedule(config)}. The metrics use {len(test.images):,} images "
        f"(from the test part, if the data has one); at most {pairs:,} pairs of different class and content are "
        "recombined. With pairs, training knows which two images show one class; LORD knows the class of each; "
        "without labels it knows neither pairs nor classes."
    )
    pictures = [
        figure(
            file, f"{METHODS[name].title}: the content of the left column with the class of the top row; test images."
        )
        for name, file in figures.items()
    ]
    return Report(
        about,
        [
            ("Metrics", _table(found, untouched)),
            ("Recombined images", "\n\n".join(pictures) or "No training came to its end."),
        ],
        {
            "wanted": {"share_of_reconstruction_ssim": _SHARE, "times_chance": _TIMES_CHANCE},
            "class_image_ssim": untouched,
            "methods": found,
        },
        list(figures.values()),
    )


def _test(config: Any) -> MeasuredImages:
    """The images to measure on."""
    from sivae.machine import find_device
    from sivae.models import MODELS
    from sivae.training.measured_images import MeasuredImages

    images = config.data.open_parts(for_training=False).test
    value_range = MODELS[config.model.name].value_range
    return MeasuredImages(images, find_device(config.device), conditional=False, value_range=value_range)


def _untouched(test: MeasuredImages, pairs: int) -> float:
    """Mean SSIM of the class images themselves with the truths; NaN where there are none.

    A decoder that ignores the content keeps all of a poor reconstruction; a translation has to have more than this.
    """
    from sivae.evaluation.image_metrics import ssim
    from sivae.evaluation.translation import transfer_pairs
    from sivae.models.pixels import unit_range

    labels = test.images.labels
    if labels is None:
        return math.nan
    _, of_class, truth = transfer_pairs(labels, test.images.contents, pairs, _MEASURED_SEED)
    if len(truth) == 0:
        return math.nan
    shown, true = (unit_range(test.some(rows.tolist())[0], test.value_range) for rows in (of_class, truth))
    return float(ssim(shown, true).mean())


def _share(one: Metrics) -> float:
    """The share of the reconstruction's SSIM that a transfer keeps."""
    whole = one["reconstruction_ssim"]
    return one.get("transfer_ssim", math.nan) / whole if whole > 0 else math.nan


def _over_chance(one: Metrics, target: str, source: str) -> float:
    """The accuracy of a probe over that of always naming the most frequent."""
    return one.get(f"{target}_from_{source}", math.nan) / one.get(f"{target}_chance", math.nan)


def _aims(one: Metrics, untouched: float) -> bool:
    """Whether a model translates: it keeps what it reconstructs, and each code holds its own part alone."""
    return (
        _share(one) >= _SHARE
        and one["transfer_ssim"] > untouched
        and _over_chance(one, "class", "content") < _TIMES_CHANCE
        and all(_over_chance(one, kind, kind) >= _TIMES_CHANCE for kind in ("class", "content"))
    )


def _table(found: Mapping[str, Sequence[Metrics]], untouched: float) -> str:
    def values(name: str, key: str) -> list[float]:
        return [one.get(key, math.nan) for one in found[name]]

    chance = {
        kind: number(mean(value for name in found for value in values(name, f"{kind}_chance")))
        for kind in ("class", "content")
    }
    compared = ["mse", "ssim"] + ["lpips"] * any("transfer_lpips" in one for seeds in found.values() for one in seeds)
    rows = [
        [
            METHODS[name].title,
            *(mean_and_spread(values(name, f"transfer_{key}")) for key in compared),
            mean_and_spread([_share(one) for one in seeds]),
            *(mean_and_spread(values(name, key)) for key in _PROBES),
            f"{sum(_aims(one, untouched) for one in seeds)} of {len(seeds)}",
        ]
        for name, seeds in found.items()
    ]
    header = [
        *("", *(f"transfer {key.upper()}" for key in compared), "share of reconstruction SSIM"),
        *(f"class from content (chance {chance['class']})", "class from content, of draws"),
        f"content from class (chance {chance['content']})",
        *("class from class", "content from content", "translate"),
    ]
    return (
        f"{table(header, rows)}\n\nTransfer is compared with the true image of that class in that content, and "
        "reconstruction is of those true images; pixels in [0, 1]. The next five columns are accuracies of linear "
        "probes of posterior means (or of draws) on held-out test images: the first three are leaks and "
        f"should be at chance, the last two should be high. Cells: {over_seeds(max(map(len, found.values())))}. The "
        f"last column counts the seeds that translate: transfer keeps {_SHARE:g} of the reconstruction's SSIM and "
        f"exceeds that of unchanged class images ({number(untouched)}); the class from content is below "
        f"{_TIMES_CHANCE:g} times chance, and each code's own accuracy is not."
    )
