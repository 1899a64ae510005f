"""Image translation: how well class and content come apart with and without pairs, by Soft-IntroVAE, a VAE and LORD."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sivae.errors import ConfigError
from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training
from sivae.reproduce.markdown import counted, figure, listed, mean, mean_and_spread, number, table
from sivae.training.config import RunConfig

if TYPE_CHECKING:
    import torch

    from sivae.models.translation import TranslationVAE
    from sivae.training.images import MeasuredImages

NAME = "translation"
SUMMARY = "Soft-IntroVAE, VAE and LORD at giving the content of one image the class of another"
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


_QUICK_STEPS = 2_000
_SHARE, _TIMES_CHANCE = 0.9, 2.0  # what is wanted of a translation
_PROBES = (
    "class_from_content",
    "class_from_content_draws",
    "content_from_class",
    "class_from_class",
    "content_from_content",
)
_MEASURED_SEED = 0  # one for all: every model is measured on the same pairs and halves


def trainings(settings: Settings) -> list[Training]:
    """Every method with every seed, seeds outermost: on shapes, or by translation-cars3d on the data given."""
    settings.refuse("against", "run", experiment=NAME, networks=True)
    if settings.lpips is not None and settings.vgg is None:
        raise ConfigError("--lpips wants VGG-16's weights beside its own; name them by --vgg")
    preset, values = "translation-shapes", dict[str, Any]()
    if settings.data is not None:
        preset, values = "translation-cars3d", {"path": settings.data}
    if settings.vgg is not None:
        values |= {"perceptual": settings.vgg}
    if settings.size == "quick":
        values |= {"steps": _QUICK_STEPS}
    return [
        Training(
            f"{name}-seed{seed}",
            settings.configure(preset, objective=method.objective, seed=seed, **values, **method.keys),
        )
        for seed in settings.seed_range(quick=1, full=3)
        for name, method in METHODS.items()
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path) -> Report:
    """The metrics of every run on the test images, and a grid of each method's first seed."""
    from sivae.training.devices import find_device
    from sivae.training.translating import draw_translations, translation_metrics

    first = next(iter(runs.values())).config
    test = _test(first, find_device(first.device))
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
        model = _model(run)
        found[name].append(translation_metrics(model, test, _MEASURED_SEED, count=pairs, lpips_files=lpips))
        if name not in figures:
            figures[name] = f"translation-{name}.png"
            draw_translations(folder / figures[name], model, test, _MEASURED_SEED)
    seeds = len({run.config.seed for run in runs.values()})
    about = (
        f"{listed([method.title for method in METHODS.values()])} on {test.images.name}, {seeds} "
        f"seed{'' if seeds == 1 else 's'}: {first.total_steps:,} iterations of batch {first.batch_size}. Measured on "
        f"{len(test.images):,} images, of the test part where the data has one, of whose pairs of different class and "
        f"content at most {pairs:,} are recombined. With pairs, training knows which two images show one class; LORD "
        "knows the class of each; without labels it knows neither."
    )
    diverged = [run.name for run in runs.values() if run.summary is None]
    pictures = [
        figure(
            file, f"{METHODS[name].title}: the content of the left column with the class of the top row; test images."
        )
        for name, file in figures.items()
    ]
    return Report(
        about,
        [
            ("How well contents are exchanged, and what the codes tell", _table(found, untouched)),
            ("What we see", _findings(found, untouched, diverged)),
            ("Recombined images", "\n\n".join(pictures) or "No training came to its end."),
        ],
        {
            "wanted": {"share_of_reconstruction_ssim": _SHARE, "times_chance": _TIMES_CHANCE},
            "class_image_ssim": untouched,
            "methods": found,
        },
        list(figures.values()),
    )


def _model(run: Trained) -> TranslationVAE:
    from sivae import from_pretrained
    from sivae.models.translation import TranslationVAE
    from sivae.training.devices import find_device

    model = from_pretrained(run.folder).to(find_device(run.config.device))
    assert isinstance(model, TranslationVAE)
    return model


def _test(config: RunConfig, device: torch.device) -> MeasuredImages:
    """The images to measure on."""
    from sivae.models import MODELS
    from sivae.training.images import MeasuredImages, open_parts

    images = open_parts(config.data, for_training=False)[1]
    return MeasuredImages(images, device, conditional=False, value_range=MODELS[config.model.name].value_range)


def _untouched(test: MeasuredImages, pairs: int) -> float:
    """Mean SSIM of the class images themselves with the truths; NaN where there are none.

    A decoder that sees no content keeps all of a poor reconstruction, and this tells that from a translation.
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


def _share(one: Mapping[str, float]) -> float:
    """Of the reconstruction's SSIM that a transfer keeps."""
    whole = one["reconstruction_ssim"]
    return one.get("transfer_ssim", math.nan) / whole if whole > 0 else math.nan


def _times_chance(one: Mapping[str, float]) -> float:
    return one.get("class_from_content", math.nan) / one.get("class_chance", math.nan)


def _table(found: Mapping[str, Sequence[Mapping[str, float]]], untouched: float) -> str:
    def values(name: str, key: str) -> list[float]:
        return [one.get(key, math.nan) for one in found[name]]

    chance = {
        kind: number(mean(value for name in found for value in values(name, f"{kind}_chance")))
        for kind in ("class", "content")
    }
    with_lpips = any("transfer_lpips" in one for seeds in found.values() for one in seeds)
    rows = [
        [
            METHODS[name].title,
            mean_and_spread(values(name, "transfer_mse")),
            mean_and_spread(values(name, "transfer_ssim")),
            *([mean_and_spread(values(name, "transfer_lpips"))] if with_lpips else []),
            mean_and_spread([_share(one) for one in found[name]]),
            *(mean_and_spread(values(name, key)) for key in _PROBES),
        ]
        for name in found
    ]
    header = [
        *("", "transfer MSE", "transfer SSIM", *(["transfer LPIPS"] if with_lpips else [])),
        "share of reconstruction SSIM",
        *(f"class from content (chance {chance['class']})", "class from content, of draws"),
        f"content from class (chance {chance['content']})",
        *("class from class", "content from content"),
    ]
    seeds = max((len(values) for values in found.values()), default=0)
    how = "mean ± standard deviation over seeds" if seeds > 1 else "one seed"
    return (
        f"{table(header, rows)}\n\nTransfer is compared with the true image of that class in that content, and "
        "reconstruction is of those true images; pixels in [0, 1]. The last five columns are accuracies of linear "
        "probes of posterior means, and in one column of draws, on held-out test images: the first three are leaks, "
        f"and chance is their goal; the last two should be high. {how[0].upper()}{how[1:]}. Class images left as they "
        f"are have a transfer SSIM of {number(untouched)}."
    )


def _findings(found: Mapping[str, Sequence[Mapping[str, float]]], untouched: float, diverged: Sequence[str]) -> str:
    """Sentences that say no more than the numbers do."""
    lines = [f"- {_verdict(METHODS[name].title, seeds, untouched)}" for name, seeds in found.items()]
    ssim = {name: mean(one.get("transfer_ssim", math.nan) for one in seeds) for name, seeds in found.items()}
    order = sorted((name for name in ssim if math.isfinite(ssim[name])), key=lambda name: -ssim[name])
    if len(order) > 1:
        text = ", ".join(f"{METHODS[name].title} {number(ssim[name])}" for name in order)
        single = all(len(seeds) <= 1 for seeds in found.values())
        chance = " With one seed each, another seed may change the order." if single else ""
        lines.append(f"- By transfer SSIM, best first: {text}.{chance}")
    if diverged:
        lines.append(f"- Training diverged, and was given up: {listed(diverged)}.")
    return "\n".join(lines)


def _verdict(title: str, seeds: Sequence[Mapping[str, float]], untouched: float) -> str:
    share, times = (mean(map(of, seeds)) for of in (_share, _times_chance))
    if not (math.isfinite(share) and math.isfinite(times)):
        return f"{title}: there is nothing to judge by."
    met = [share >= _SHARE, times < _TIMES_CHANCE]
    says = {2: "meets both aims", 1: f"meets the {'first' if met[0] else 'second'} aim alone", 0: "meets neither aim"}
    transfer, whole = (mean(one[f"{kind}_ssim"] for one in seeds) for kind in ("transfer", "reconstruction"))
    text = (
        f"**{title} {says[sum(met)]}**: transfer SSIM {number(transfer)} is {number(share)} of reconstruction SSIM "
        f"{number(whole)} (at least {_SHARE:g} is wanted), and class accuracy from content is {number(times)} times "
        f"chance (below {_TIMES_CHANCE:g} is wanted)"
    )
    if len(seeds) > 1:
        both = sum(_share(one) >= _SHARE and _times_chance(one) < _TIMES_CHANCE for one in seeds)
        text += f"; both in {counted(both, len(seeds), 'seed')}"
    # Nothing leaks from a code that holds nothing, and where a decoder sees no code, nothing is lost by exchanging it.
    empty = [
        kind
        for kind in ("class", "content")
        if not mean(one.get(f"{kind}_from_{kind}", math.nan) for one in seeds)
        >= _TIMES_CHANCE * mean(one.get(f"{kind}_chance", math.nan) for one in seeds)
    ]
    doubts = []
    if empty:
        codes = f"{listed(empty)} code{'' if len(empty) == 1 else 's'}"
        doubts.append(f"its {codes} hold{'s' if len(empty) == 1 else ''} next to nothing")
    if transfer <= untouched:
        doubts.append(f"the class images left as they are have {number(untouched)}")
    if doubts and any(met):
        text += f". That says little, as {listed(doubts)}"
    return f"{text}."
