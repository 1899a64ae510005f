"""The recommended settings of each experiment: the one place that holds them.

Imports no torch, so that the command line can list them at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sivae.errors import ConfigError
from sivae.training.config import DataConfig, ModelConfig, ObjectiveConfig, ObjectiveName, RunConfig
from sivae.training.growing import SMALLEST, GrowthConfig

DEFAULT_OBJECTIVE: ObjectiveName = "soft-intro"


@dataclass(frozen=True)
class Preset:
    """One experiment.

    Attributes:
        summary: what it trains, in words.
        source: "published" with Soft-IntroVAE, or "ours".
        data, model: their keys.
        beta_rec, beta_kl, beta_neg: weights of the objective; the last is soft-intro's.
        scale: soft-intro's; None: 1/(elements of one sample).
        run: keys of `RunConfig`.
        growth: keys of `GrowthConfig` where the model grows.
        intro_beta_rec: IntroVAE's weight of the reconstruction error, where it wants another one.
        beta_kl_class, beta_neg_class: weights of the class's share of the kl, where the model tells it apart.
        lord: keys of the run and of the objective "lord", where the model has it.
        note: what else is worth knowing.
    """

    summary: str
    source: Literal["published", "ours"]
    data: Mapping[str, Any]
    model: Mapping[str, Any]
    beta_rec: float
    beta_kl: float
    beta_neg: float
    scale: float | None = None
    run: Mapping[str, Any] = field(default_factory=dict)
    growth: Mapping[str, Any] = field(default_factory=dict)
    intro_beta_rec: float | None = None
    beta_kl_class: float | None = None
    beta_neg_class: float | None = None
    lord: Mapping[str, Any] | None = None
    note: str = ""

    def final_rate_factor(self) -> float:
        """What the learning rate is multiplied by at the data's resolution, where the model grows to it."""
        factors: tuple[float, ...] = self.growth["stage_rate_factors"]
        last = self.data["resolution"].bit_length() - SMALLEST.bit_length()
        return factors[min(last, len(factors) - 1)]


def _density(
    name: str, source: Literal["published", "ours"], beta_rec: float, beta_kl: float, beta_neg: float
) -> Preset:
    return Preset(
        "points in the plane",
        source,
        {"name": "density", "density": name},
        {"name": "mlp", "z_dim": 2, "hidden": 256, "layers": 4},
        beta_rec,
        beta_kl,
        beta_neg,
        scale=0.5,
        # Nobody published any. With Soft-IntroVAE's its posterior collapses: its objective has no scale of a half, and
        # nothing in the hinge pays for the reconstruction of a fake.
        intro_beta_rec=1.0,
        run={
            "steps": 30_000,
            "batch_size": 512,
            "warmup_fraction": 2_000 / 30_000,
            "milestones": (1 / 3, 1 / 2),
        },
    )


def _images(
    summary: str,
    source: Literal["published", "ours"],
    resolution: int,
    widths: tuple[int, ...],
    z_dim: int,
    batch_size: int,
    weights: tuple[float, float, float],
    *,
    channels: int = 3,
    flip: bool = False,
    norm: str = "batch",
    run: Mapping[str, Any] | None = None,
    note: str = "",
) -> Preset:
    """`weights` are beta_rec, beta_kl, beta_neg."""
    return Preset(
        summary,
        source,
        {**_of_path(channels, resolution=resolution), "flip": flip},
        {"name": "conv", "z_dim": z_dim, "widths": widths, "norm": norm, "conditional": False},
        *weights,
        run={"epochs": 250.0, "batch_size": batch_size, "checkpoint_every": 500, **(run or {})},
        note=note,
    )


_TO_32, _TO_28 = (64, 128, 256), (64, 128)
_TO_128, _TO_256 = (64, 128, 256, 512, 512), (64, 128, 256, 512, 512, 512)
_TO_1024 = (16, 32, 64, 128, 256, 512, 512, 512)
_FACES = (1.0, 0.5, 1024.0)
_GROUP_NOTE = "group norm, as the method's author advises users who meet garbage after loading"


def _mnist_like(summary: str) -> Preset:
    note = "the author later advises beta_neg of 128 or lower"
    return _images(summary, "published", 28, _TO_28, 32, 128, (1.0, 1.0, 256.0), channels=1, note=note)


def _faces_1024(summary: str) -> Preset:
    memory = {"accumulate": 2, "checkpoint_activations": True}
    return _images(
        summary, "ours", 1024, _TO_1024, 512, 8, _FACES, flip=True, norm="group", run=memory, note=_GROUP_NOTE
    )


def _styled(
    summary: str,
    source: Literal["published", "ours"],
    resolution: int,
    weights: tuple[float, float, float],
    *,
    epochs: float = 300.0,
    epochs_per_stage: float,
    rate_factors: tuple[float, ...] = (1.0,),
    beta_neg_factors: tuple[float, ...] = (4.0, 4.0, 4.0, 2.0, 1.0),
    start_channels: int = 64,
    max_channels: int = 512,
    z_dim: int = 512,
    mapping_layers: int = 8,
    run: Mapping[str, Any] | None = None,
    growth: Mapping[str, Any] | None = None,
    note: str = "",
) -> Preset:
    """`weights` are beta_rec, beta_kl, and beta_neg at the last stages."""
    return Preset(
        summary,
        source,
        {**_of_path(3, resolution=resolution), "flip": True},
        {
            "name": "style",
            "z_dim": z_dim,
            "start_channels": start_channels,
            "max_channels": max_channels,
            "mapping_layers": mapping_layers,
            "style_mixing": 0.9,
        },
        *weights,
        scale=5e-6,
        run={
            "epochs": epochs,
            "batch_size": 4,
            "learning_rate": 0.0015,
            "ema_half_life": 10_000.0,
            "checkpoint_every": 1_000,
            **(run or {}),
        },
        growth={
            "epochs_per_stage": epochs_per_stage,
            "warmup_epochs": 1.0,
            "stage_rate_factors": rate_factors,
            "stage_beta_neg_factors": beta_neg_factors,
            **(growth or {}),
        },
        note=note,
    )


# The content costs many times as much as the class, so that what both could say stays with the class. The encoder
# pushes fakes away with beta_neg * exp(...) and holds real images with beta_kl: with a beta_neg of 256 and a content of
# sixteen values it pushed 15 times as hard at the kl that a VAE ends with, and the codes ran away; 2048 makes the
# exponential small there.
_APART, _APART_CLASS = (1.0, 2.0, 2048.0), (0.02, 32.0)
_UNTRIED = "the weights are those of translation-shapes; no training at this size has been measured"


def _translation(
    summary: str,
    data: Mapping[str, Any],
    *,
    model: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    note: str = "",
) -> Preset:
    networks = {"content_dim": 128, "class_dim": 256, "width": 64, "hidden": 256, "supervision": "pairs"}
    return Preset(
        summary,
        "ours",
        data,
        {"name": "translation", **networks, **(model or {})},
        *_APART,
        beta_kl_class=_APART_CLASS[0],
        beta_neg_class=_APART_CLASS[1],
        # Most of the way a VAE: what the two codes say is settled there, and an iteration costs a third.
        run={"epochs": 200.0, "batch_size": 32, "checkpoint_every": 500, "warmup_fraction": 0.75, **(run or {})},
        # With LORD's noise of 1 the codes, which learn when their image comes, said nothing after 5,000 iterations.
        lord={"warmup_fraction": 0.5, "content_decay": 1e-4, "content_noise": 0.1},
        note=note,
    )


def _of_path(channels: int, *, resolution: int = 64) -> dict[str, Any]:
    """Keys of images that the user names."""
    return {
        "name": "images",
        "resolution": resolution,
        "channels": channels,
        "flip": False,
        "skip_damaged": False,
        "cache": "auto",
    }


_FFHQ_RATES = (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 4 / 3, 2.0, 2.0)  # .0015, .002 at 256, .003 at 512 and 1024
_SWAPPED = "beta_rec 0.05 for FFHQ and 0.1 for CelebA-HQ; the official configuration files swap the two"

PRESETS: dict[str, Preset] = {
    "8gaussians": _density("8gaussians", "published", 0.2, 0.3, 0.9),
    "2spirals": _density("2spirals", "published", 0.2, 0.5, 1.0),
    "checkerboard": _density("checkerboard", "published", 0.2, 0.1, 0.2),
    "rings": _density("rings", "published", 0.2, 0.2, 1.0),
    # Nobody published any, so it takes those of the rings, another density of extent 2 made of narrow, equally
    # likely pieces.
    "25gaussians": _density("25gaussians", "ours", 0.2, 0.2, 1.0),
    "cifar10": _images("CIFAR-10, 32x32", "published", 32, _TO_32, 128, 32, (1.0, 1.0, 256.0)),
    "svhn": _images("SVHN, 32x32", "published", 32, _TO_32, 128, 32, (1.0, 1.0, 256.0)),
    "mnist": _mnist_like("MNIST, 28x28"),
    "fashion-mnist": _mnist_like("Fashion-MNIST, 28x28"),
    "celebahq256-conv": _images(
        "CelebA-HQ, 256x256",
        "published",
        256,
        _TO_256,
        256,
        8,
        _FACES,
        flip=True,
        note="beta_kl 0.5 and beta_rec 1 as the README has them; a note in the official code swaps the two",
    ),
    "celebahq128-conv": _images(
        "CelebA-HQ, 128x128", "ours", 128, _TO_128, 256, 16, _FACES, flip=True, norm="group", note=_GROUP_NOTE
    ),
    "celebahq1024-conv": _faces_1024("CelebA-HQ, 1024x1024"),
    "ffhq256-conv": _images(
        "FFHQ, 256x256", "ours", 256, _TO_256, 256, 8, _FACES, flip=True, norm="group", note=_GROUP_NOTE
    ),
    "ffhq1024-conv": _faces_1024("FFHQ, 1024x1024"),
    "ffhq256": _styled(
        "FFHQ, growing to 256x256",
        "published",
        256,
        (0.05, 0.2, 512.0),
        epochs_per_stage=16.0,
        rate_factors=_FFHQ_RATES,
        note=_SWAPPED,
    ),
    "ffhq1024": _styled(
        "FFHQ, growing to 1024x1024",
        "published",
        1024,
        (0.05, 0.2, 512.0),
        epochs_per_stage=16.0,
        rate_factors=_FFHQ_RATES,
        start_channels=16,
        note="the schedule is published; that it is trained to the end at this size is not",
    ),
    "celebahq256": _styled(
        "CelebA-HQ, growing to 256x256",
        "published",
        256,
        (0.1, 0.2, 512.0),
        epochs_per_stage=30.0,
        note=_SWAPPED,
    ),
    "style32": _styled(
        "a small set, growing to 32x32 on a CPU",
        "ours",
        32,
        # An image of 32x32 has a fiftieth of the error of one of 256x256.
        (20.0, 0.2, 512.0),
        epochs=120.0,
        epochs_per_stage=20.0,
        start_channels=16,
        max_channels=64,
        z_dim=64,
        mapping_layers=4,
        run={"learning_rate": 0.004, "ema_half_life": 1_000.0, "checkpoint_every": 250, "batch_size": 16},
        growth={"warmup_epochs": 20.0, "stage_batches": (16,)},
    ),
    "translation-shapes": _translation(
        "rendered shapes, class and content apart, 32x32, built in",
        {"name": "shapes", "resolution": 32, "cache": "auto"},
        # No more of the content than a pose needs: spare values end with a kl of next to nothing, and still tell the
        # class to whoever looks closely.
        model={"content_dim": 4, "class_dim": 32, "width": 8, "hidden": 128},
        run={"epochs": 20.0, "batch_size": 16, "learning_rate": 1.5e-3, "milestones": (0.7,), "rate_factor": 0.25},
    ),
    "translation-cars3d": _translation("Cars3D, 64x64: car and view", _of_path(3), note=_UNTRIED),
    "translation-kth": _translation("KTH, 64x64: person and action", _of_path(1), note=_UNTRIED),
    "translation-faces": _translation("faces in a folder for each person, 64x64", _of_path(1), note=_UNTRIED),
    "digits": Preset(
        "digits, 8x8, built in",
        "ours",
        {"name": "digits", "flip": False, "cache": "auto"},
        {"name": "conv", "z_dim": 16, "widths": (64, 128), "norm": "group", "conditional": False},
        # An image of 64 pixels has a small rec; a larger beta_kl lets the posterior collapse onto the prior.
        1.0,
        0.1,
        16.0,
        run={"epochs": 150.0, "batch_size": 64},
    ),
}


def preset_config(
    preset: str, *, objective: str = DEFAULT_OBJECTIVE, growth: str | None = None, **changes: Any
) -> RunConfig:
    """The recommended configuration of an experiment, with changes.

    What the preset does not say is the objective's default, see :meth:`ObjectiveConfig.resolved`.

    Args:
        preset: one of :data:`PRESETS`.
        objective: "soft-intro", "intro", "vae" or "lord".
        growth: "grow" or "none"; None: as the preset says.
        changes: any keys of :class:`RunConfig` or, given flat, of its sections.

    Raises:
        ConfigError: the preset, the objective or a key is unknown, a value is wrong, or a key has no effect
            with the objective, the data or the model.
    """
    if preset not in PRESETS:
        close = difflib.get_close_matches(preset, PRESETS, n=1)
        hint = f"did you mean {close[0]}? There are" if close else "choose one of"
        raise ConfigError(f"there is no preset {preset!r}; {hint} {', '.join(PRESETS)}")
    chosen = PRESETS[preset]
    weights: dict[str, dict[str, Any]] = {
        "soft-intro": {
            "beta_neg": chosen.beta_neg,
            "scale": chosen.scale,
            "beta_kl_class": chosen.beta_kl_class,
            "beta_neg_class": chosen.beta_neg_class,
        },
        "intro": {},
        "vae": {"beta_kl_class": chosen.beta_kl_class},
        "lord": {},
    }
    if objective not in weights:
        raise ConfigError(f"objective = {objective!r}: expected one of {', '.join(weights)}")
    name = cast(ObjectiveName, objective)
    of_objective = {"beta_rec": chosen.beta_rec, "beta_kl": chosen.beta_kl, **weights[name]}
    if name == "intro" and chosen.intro_beta_rec is not None:
        of_objective["beta_rec"] = chosen.intro_beta_rec
    grows = _grows(chosen, growth)
    of_run = dict(chosen.run)
    if name == "lord":
        if chosen.lord is None:
            apart = ", ".join(key for key, other in PRESETS.items() if other.lord is not None)
            raise ConfigError(f"objective = 'lord': this preset's model has no codes of classes; those of {apart} have")
        of_run |= {key: value for key, value in chosen.lord.items() if key not in ObjectiveConfig.every_key()}
        of_objective = {key: value for key, value in chosen.lord.items() if key in ObjectiveConfig.every_key()}
    if grows and "batch_size" in changes:
        raise ConfigError("batch_size: a growing run has one for each resolution; give stage_batches, or growth none")
    if chosen.growth and not grows:
        # As at the last stage.
        epochs = changes.get("epochs", chosen.run["epochs"])
        of_run["warmup_fraction"] = min(1.0, chosen.growth["warmup_epochs"] / epochs) if epochs > 0 else 0.0
        of_run["learning_rate"] *= chosen.final_rate_factor()
    config = RunConfig(
        preset=preset,
        data=DataConfig(**chosen.data),
        model=ModelConfig(**chosen.model),
        objective=ObjectiveConfig(name=name, **of_objective),
        growth=GrowthConfig(name="grow", **chosen.growth) if grows else GrowthConfig(),
        **of_run,
    )
    return config.replace(**changes)


def _grows(preset: Preset, growth: str | None) -> bool:
    if growth not in (None, "grow", "none"):
        raise ConfigError(f"growth = {growth!r}: expected grow or none")
    if growth == "grow" and not preset.growth:
        growing = ", ".join(name for name, other in PRESETS.items() if other.growth)
        raise ConfigError(f"growth = 'grow': this preset's model does not grow; those of {growing} do")
    return bool(preset.growth) and growth != "none"
