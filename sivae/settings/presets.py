"""The presets: the recommended settings of each experiment, a row each."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sivae.errors import ConfigError
from sivae.objectives import OBJECTIVES, SoftIntroObjective
from sivae.settings.data import CloudData, Data, DensityData, DigitsData, ImageData, ShapesData
from sivae.settings.growth import SMALLEST, FixedSize, Growing
from sivae.settings.models import MLP, Autoencoder, Conv, Norm, PointNet, Style, Translation
from sivae.settings.run import RunConfig, check_one_length

Source = Literal["published", "ours"]
DEFAULT_OBJECTIVE = SoftIntroObjective.NAME
_CARRIED = ("beta_rec", "beta_kl", "beta_kl_class")  # other objectives take these weights from the default one


@dataclass(frozen=True)
class Preset:
    """One experiment.

    Attributes:
        summary: what it trains, in words.
        source: "published" with Soft-IntroVAE, or "ours".
        config: the settings.
        with_objective: other settings of the run and the objective, by the objective's name.
        note: what else is worth knowing.
    """

    summary: str
    source: Source
    config: RunConfig
    with_objective: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    note: str = ""

    def facts(self) -> dict[str, Any]:
        """The row in types of JSON."""
        settings = json.loads(self.config.to_json())
        return {
            "summary": self.summary,
            "source": self.source,
            **{key: value for key, value in settings.items() if key not in ("format", "preset")},
            "with_objective": {name: dict(changes) for name, changes in self.with_objective.items()},
            "note": self.note,
        }


def _density(
    name: str,
    source: Source,
    beta_rec: float,
    beta_kl: float,
    beta_neg: float | Literal["auto"],
    *,
    preset: str | None = None,
    summary: str = "points in the plane",
    **run: Any,
) -> Preset:
    return Preset(
        summary,
        source,
        RunConfig(
            preset=preset or name,
            data=DensityData(density=name),
            model=MLP(z_dim=2, hidden=256, layers=4),
            objective=SoftIntroObjective(beta_rec=beta_rec, beta_kl=beta_kl, beta_neg=beta_neg, scale=0.5),
            **{
                "steps": 30_000,
                "batch_size": 512,
                "warmup_fraction": 2_000 / 30_000,
                "milestones": (1 / 3, 1 / 2),
                **run,
            },
        ),
        # Nobody published any. With Soft-IntroVAE's beta_rec its posterior collapses: its objective has no scale of a
        # half, and nothing in the hinge pays for the reconstruction of a fake.
        with_objective={"intro": {"beta_rec": 1.0}},
    )


def _images(
    name: str,
    summary: str,
    source: Source,
    resolution: int,
    widths: tuple[int, ...],
    objective: SoftIntroObjective,
    *,
    z_dim: int,
    batch_size: int,
    channels: Literal[1, 3] = 3,
    path: str | None = None,
    flip: bool = False,
    norm: Norm = "batch",
    note: str = "",
    **run: Any,
) -> Preset:
    return Preset(
        summary,
        source,
        RunConfig(
            preset=name,
            data=ImageData(path=path, resolution=resolution, channels=channels, flip=flip),
            model=Conv(z_dim=z_dim, widths=widths, norm=norm),
            objective=objective,
            batch_size=batch_size,
            **{"epochs": 250.0, "checkpoint_every": 500, **run},
        ),
        note=note,
    )


_TO_32, _TO_28 = (64, 128, 256), (64, 128)
_TO_128, _TO_256 = (64, 128, 256, 512, 512), (64, 128, 256, 512, 512, 512)
_TO_1024 = (16, 32, 64, 128, 256, 512, 512, 512)
_SMALL = SoftIntroObjective(beta_rec=1.0, beta_kl=1.0, beta_neg=256.0)
_FACES = SoftIntroObjective(beta_rec=1.0, beta_kl=0.5, beta_neg=1024.0)
_GROUP_NOTE = "group norm, as the method's author advises users who meet garbage after loading"


def _mnist_like(name: str, summary: str) -> Preset:
    note = "the author later advises beta_neg of 128 or lower"
    return _images(name, summary, "published", 28, _TO_28, _SMALL, z_dim=32, batch_size=128, channels=1, note=note)


def _conv_faces(name: str, summary: str, resolution: int, widths: tuple[int, ...], batch_size: int) -> Preset:
    large = resolution == 1024
    memory: dict[str, Any] = {"accumulate": 2, "checkpoint_activations": True} if large else {}
    return _images(
        name,
        summary,
        "ours",
        resolution,
        widths,
        _FACES,
        z_dim=512 if large else 256,
        batch_size=batch_size,
        flip=True,
        norm="group",
        note=_GROUP_NOTE,
        precision="auto",
        **memory,
    )


def _styled(
    name: str,
    summary: str,
    source: Source,
    resolution: int,
    growth: Growing,
    *,
    beta_rec: float,
    start_channels: int = 64,
    max_channels: int = 512,
    z_dim: int = 512,
    mapping_layers: int = 8,
    note: str = "",
    **run: Any,
) -> Preset:
    return Preset(
        summary,
        source,
        RunConfig(
            preset=name,
            data=ImageData(resolution=resolution, channels=3, flip=True),
            model=Style(
                z_dim=z_dim, start_channels=start_channels, max_channels=max_channels, mapping_layers=mapping_layers
            ),
            objective=SoftIntroObjective(beta_rec=beta_rec, beta_kl=0.2, beta_neg=512.0, scale=5e-6),
            growth=growth,
            **{
                "epochs": 300.0,
                "batch_size": 4,
                "learning_rate": 0.0015,
                "ema_half_life": 10_000.0,
                "checkpoint_every": 1_000,
                **run,
            },
        ),
        note=note,
    )


_NEG_FACTORS = (4.0, 4.0, 4.0, 2.0, 1.0)  # of the beta_neg of the last stages
_FFHQ_GROWTH = Growing(
    epochs_per_stage=16.0,
    warmup_epochs=1.0,
    stage_rate_factors=(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4 / 3, 2.0, 2.0),  # .0015, .002 at 256, .003 at 512 and 1024
    stage_beta_neg_factors=_NEG_FACTORS,
)
_CELEBA_GROWTH = Growing(epochs_per_stage=30.0, warmup_epochs=1.0, stage_beta_neg_factors=_NEG_FACTORS)
_SMALL_GROWTH = Growing(
    epochs_per_stage=20.0, warmup_epochs=20.0, stage_batches=(16,), stage_beta_neg_factors=_NEG_FACTORS
)
_SWAPPED = "beta_rec 0.05 for FFHQ and 0.1 for CelebA-HQ; the official configuration files swap the two"

# The content costs many times as much as the class, so that what both could hold stays with the class. The encoder
# pushes fakes away with beta_neg * exp(...) and holds real images with beta_kl: with a beta_neg of 256 and a content of
# sixteen values it pushed 15 times as hard at the kl that a VAE ends with, and the codes ran away; 2048 makes the
# exponential small there.
_APART = SoftIntroObjective(beta_rec=1.0, beta_kl=2.0, beta_neg=2048.0, beta_kl_class=0.02, beta_neg_class=32.0)
_UNTRIED = "the weights are those of translation-shapes; no training at this size has been measured"


def _translation(name: str, summary: str, data: Data, model: Translation, *, note: str = "", **run: Any) -> Preset:
    return Preset(
        summary,
        "ours",
        RunConfig(
            preset=name,
            data=data,
            model=model,
            objective=_APART,
            # Most of the way a VAE: it settles the two codes there, and an iteration costs a third.
            **{"epochs": 200.0, "batch_size": 32, "checkpoint_every": 500, "warmup_fraction": 0.75, **run},
        ),
        # With LORD's noise of 1 the codes, which learn only from their own image, held nothing after 5,000 iterations.
        with_objective={
            "lord": {"warmup_fraction": 0.5, "content_decay": 1e-4, "content_noise": 0.1, "precision": "fp32"}
        },
        note=note,
    )


def _large_translation(name: str, summary: str, channels: Literal[1, 3]) -> Preset:
    data = ImageData(resolution=64, channels=channels, flip=False)
    model = Translation(content_dim=128, class_dim=256, width=64, hidden=256, supervision="pairs")
    return _translation(name, summary, data, model, note=_UNTRIED)


_UNMEASURED = "the networks are the published ones; no training at this size has been measured"


def _autoencoder(
    name: str, summary: str, resolution: int, model: Autoencoder, *, note: str = _UNMEASURED, **run: Any
) -> Preset:
    return Preset(
        summary,
        "ours",
        RunConfig(
            preset=name,
            data=ImageData(resolution=resolution, channels=3, flip=True),
            model=model,
            objective=SoftIntroObjective(beta_rec=1.0, beta_kl=0.1, beta_neg="auto"),
            precision="auto",
            **{"checkpoint_every": 500, **run},
        ),
        with_objective={"vae": {"beta_kl": 1e-6}},  # as the published autoencoders for latent diffusion
        note=note,
    )


def _large_autoencoder(name: str, summary: str, *, latent_channels: int, downsample: int) -> Preset:
    return _autoencoder(
        name,
        f"images for latent diffusion, {summary}",
        256,
        Autoencoder(latent_channels=latent_channels, downsample=downsample, widths=(128, 256, 512)),
        epochs=10.0,
        batch_size=8,
        learning_rate=1e-4,
        ema_half_life=10_000.0,
    )


_POINTS_NOTE = (
    "beta_rec 1, beta_kl 0.2 and beta_neg 20 as the README has them; its configuration file has 20, 1 and 256"
)


def _shapenet(name: str, kind: str) -> Preset:
    return Preset(
        f"ShapeNet's {name}, 2,048 points",
        "published",
        RunConfig(
            preset=f"points-{kind}",
            data=CloudData(points=2048, classes=(kind,), normalize="none"),
            model=PointNet(z_dim=128, widths=(64, 128, 256, 256, 512), hidden=256, decoder_widths=(64, 128, 512, 1024)),
            objective=SoftIntroObjective(kind="chamfer", beta_rec=1.0, beta_kl=0.2, beta_neg=20.0),
            epochs=2_000.0,
            batch_size=32,
            learning_rate=5e-4,
            milestones=(350 / 2_000, 450 / 2_000, 550 / 2_000),
            rate_factor=0.5,
            checkpoint_every=500,
        ),
        note=_POINTS_NOTE,
    )


_ROWS = (
    _density("8gaussians", "published", 0.2, 0.3, 0.9),
    _density("2spirals", "published", 0.2, 0.5, 1.0),
    _density("checkerboard", "published", 0.2, 0.1, 0.2),
    _density("rings", "published", 0.2, 0.2, 1.0),
    # Nobody published any, so it takes those of the rings, another density of extent 2 made of narrow, equally
    # likely pieces.
    _density("25gaussians", "ours", 0.2, 0.2, 1.0),
    _density(
        "8gaussians",
        "ours",
        0.2,
        0.3,
        "auto",
        preset="8gaussians-quick",
        summary="points in the plane, in two minutes",
        steps=2_400,
        batch_size=256,
        warmup_fraction=0.04,
        learning_rate=5e-4,
        milestones=(0.75, 0.9),
        rate_factor=0.2,
        precision="auto",
    ),
    _images("cifar10", "CIFAR-10, 32x32", "published", 32, _TO_32, _SMALL, z_dim=128, batch_size=32),
    _images("svhn", "SVHN, 32x32", "published", 32, _TO_32, _SMALL, z_dim=128, batch_size=32),
    _mnist_like("mnist", "MNIST, 28x28"),
    _mnist_like("fashion-mnist", "Fashion-MNIST, 28x28"),
    _images(
        "mnist-small",
        "5,000 digits of MNIST, 28x28, built in",
        "ours",
        28,
        (32, 64),
        SoftIntroObjective(beta_rec=1.0, beta_kl=1.0, beta_neg="auto"),
        z_dim=32,
        batch_size=64,
        channels=1,
        path="mnist-5k",
        note="it took 29 minutes on one core of an Intel Xeon with AMX, and its samples have a KID of 0.014 "
        "(EfficientNet-Lite0, 500 digits); those of a VAE have 0.135",
        epochs=80.0,
        learning_rate=5e-4,
        milestones=(0.7, 0.9),
        rate_factor=0.3,
        precision="auto",
    ),
    _images(
        "celebahq256-conv",
        "CelebA-HQ, 256x256",
        "published",
        256,
        _TO_256,
        _FACES,
        z_dim=256,
        batch_size=8,
        flip=True,
        note="beta_kl 0.5 and beta_rec 1 as the README has them; a note in the official code swaps the two",
    ),
    _conv_faces("celebahq128-conv", "CelebA-HQ, 128x128", 128, _TO_128, 16),
    _conv_faces("celebahq1024-conv", "CelebA-HQ, 1024x1024", 1024, _TO_1024, 8),
    _conv_faces("ffhq256-conv", "FFHQ, 256x256", 256, _TO_256, 8),
    _conv_faces("ffhq1024-conv", "FFHQ, 1024x1024", 1024, _TO_1024, 8),
    _styled("ffhq256", "FFHQ, growing to 256x256", "published", 256, _FFHQ_GROWTH, beta_rec=0.05, note=_SWAPPED),
    _styled(
        "ffhq1024",
        "FFHQ, growing to 1024x1024",
        "published",
        1024,
        _FFHQ_GROWTH,
        beta_rec=0.05,
        start_channels=16,
        note="the schedule is published; that it is trained to the end at this size is not",
    ),
    _styled(
        "celebahq256", "CelebA-HQ, growing to 256x256", "published", 256, _CELEBA_GROWTH, beta_rec=0.1, note=_SWAPPED
    ),
    _styled(
        "style32",
        "a small set, growing to 32x32 on a CPU",
        "ours",
        32,
        _SMALL_GROWTH,
        beta_rec=20.0,  # an image of 32x32 has a fiftieth of the error of one of 256x256
        start_channels=16,
        max_channels=64,
        z_dim=64,
        mapping_layers=4,
        epochs=120.0,
        batch_size=16,
        learning_rate=0.004,
        ema_half_life=1_000.0,
        checkpoint_every=250,
    ),
    _translation(
        "translation-shapes",
        "rendered shapes, class and content apart, 32x32, built in",
        ShapesData(resolution=32),
        # No more of the content than a pose needs: spare values end with a kl of nearly nothing, and still hold the
        # class for a probe that looks closely.
        Translation(content_dim=4, class_dim=32, width=8, hidden=128, supervision="pairs"),
        epochs=20.0,
        batch_size=16,
        learning_rate=1.5e-3,
        milestones=(0.7,),
        rate_factor=0.25,
        precision="auto",
    ),
    _large_translation("translation-cars3d", "Cars3D, 64x64: car and view", 3),
    _large_translation("translation-kth", "KTH, 64x64: person and action", 1),
    _large_translation("translation-faces", "faces in a folder for each person, 64x64", 1),
    _autoencoder(
        "autoencoder-small",
        "a small set, 32x32 on a CPU: latents of 4 x 8 x 8",
        32,
        Autoencoder(latent_channels=4, downsample=4, widths=(16, 32, 64), layers=1, groups=4),
        epochs=100.0,
        batch_size=32,
        learning_rate=5e-4,
        milestones=(0.8,),
        rate_factor=0.2,
        note="300 iterations on digits were stable; no training of the whole length has been measured",
    ),
    _large_autoencoder("autoencoder-f4", "256x256: latents of 3 x 64 x 64", latent_channels=3, downsample=4),
    _large_autoencoder("autoencoder-f8", "256x256: latents of 4 x 32 x 32", latent_channels=4, downsample=8),
    Preset(
        "point clouds of chairs, tables, planes and lamps, built in",
        "ours",
        RunConfig(
            preset="points-shapes",
            data=CloudData(path="shapes", points=512),
            model=PointNet(z_dim=32, widths=(32, 64, 128, 256), hidden=128, decoder_widths=(128, 256, 512)),
            objective=SoftIntroObjective(kind="chamfer", beta_rec=1.0, beta_kl=0.05, beta_neg="auto"),
            steps=6_000,
            batch_size=32,
            learning_rate=1e-3,
            milestones=(0.6, 0.8, 0.9),
            rate_factor=0.5,
            precision="auto",
        ),
        note="the settings were chosen by short trainings, in which the samples of a VAE were better; none of the "
        "whole length has been measured",
    ),
    *(_shapenet(f"{kind}s", kind) for kind in ("chair", "airplane", "car", "table")),
    Preset(
        "digits, 8x8, built in",
        "ours",
        RunConfig(
            preset="digits",
            data=DigitsData(flip=False),
            model=Conv(z_dim=16, widths=(32, 64), norm="group"),
            # An image of 64 pixels has a small rec; a larger beta_kl lets the posterior collapse onto the prior.
            objective=SoftIntroObjective(beta_rec=1.0, beta_kl=0.1, beta_neg=16.0),
            epochs=150.0,
            batch_size=64,
            learning_rate=5e-4,
            milestones=(0.8,),
            rate_factor=0.2,
            precision="auto",
        ),
    ),
)
PRESETS: dict[str, Preset] = {row.config.preset: row for row in _ROWS}


def preset_config(
    preset: str, *, objective: str = DEFAULT_OBJECTIVE, growth: str | None = None, **changes: Any
) -> RunConfig:
    """The recommended settings of an experiment, with changes.

    Args:
        preset: one of :data:`PRESETS`.
        objective: a key of :data:`sivae.objectives.OBJECTIVES`.
        growth: "grow" or "none"; None: as the preset has it.
        changes: any settings of :class:`RunConfig` or, given flat, of its parts. With an `init_from` of diffusers, the
            settings of the networks are that folder's, unless they are among the changes.

    Raises:
        ConfigError: the preset, the objective or a key is unknown, a value is wrong, a key has no effect with the
            objective, the data or the model, or the folder `init_from` is damaged.
    """
    if preset not in PRESETS:
        close = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {close[0]}? There are" if close else "choose one of"
        raise ConfigError(f"there is no preset {preset!r}; {hint} {', '.join(PRESETS)}")
    row = PRESETS[preset]
    config = _with_objective(row, objective)
    if growth not in (None, "grow", "none"):
        raise ConfigError(f"growth = {growth!r}: expected grow or none")
    if growth == "grow" and not config.growth.grows:
        growing = ", ".join(name for name, other in PRESETS.items() if other.config.growth.grows)
        raise ConfigError(f"growth = 'grow': this preset's model does not grow; those of {growing} do")
    if growth == "none" and isinstance(config.growth, Growing):
        config = _at_full_size(config, config.growth, changes)
    if config.growth.grows and "batch_size" in changes:
        raise ConfigError("batch_size: a growing run has one for each resolution; give stage_batches, or growth none")
    check_one_length(changes, grows=config.growth.grows)
    start = changes.get("init_from")
    known = config.model.settings_of_start(start) if isinstance(start, str) else {}
    return config.replace(**{**known, **changes})


def _with_objective(row: Preset, name: str) -> RunConfig:
    config = row.config
    if name not in OBJECTIVES:
        raise ConfigError(f"objective = {name!r}: expected one of {', '.join(OBJECTIVES)}")
    kind = OBJECTIVES[name]
    if isinstance(config.objective, kind):
        return config
    if kind.USES_CODES and not config.model.HAS_CODES:
        apart = ", ".join(key for key, other in PRESETS.items() if other.config.model.HAS_CODES)
        raise ConfigError(f"objective = {name!r}: this preset's model has no codes of classes; those of {apart} have")
    weights = {key: getattr(config.objective, key) for key in _CARRIED if key in kind.key_names()}
    if config.data.SAMPLES == "clouds":
        weights["kind"] = config.objective.kind
    others = row.with_objective.get(name, {})
    weights |= {key: value for key, value in others.items() if key in kind.key_names()}
    run = {key: value for key, value in others.items() if key not in kind.key_names()}
    return config.replace(objective=kind(**weights), **run)


def _at_full_size(config: RunConfig, growth: Growing, changes: Mapping[str, Any]) -> RunConfig:
    """The settings of the last stage, from the start; that stage follows from the changes where these name it."""
    epochs = changes.get("epochs") or config.epochs
    last = (changes.get("resolution") or config.data.side).bit_length() - SMALLEST.bit_length()
    factor = growth.stage_rate_factors[min(last, len(growth.stage_rate_factors) - 1)]
    return config.replace(
        growth=FixedSize(),
        warmup_fraction=min(1.0, growth.warmup_epochs / epochs) if epochs and epochs > 0 else 0.0,
        learning_rate=config.learning_rate * factor,
    )
