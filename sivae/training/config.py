"""What a run is made of, as one frozen record that goes to `config.json` and comes back the same.

Imports no torch, so that the command line can use it before the heavy imports.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sivae.errors import ConfigError
from sivae.training import fields
from sivae.training.fields import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SEED, SHARE, SHARES, Range, Section
from sivae.training.growing import GrowthConfig, Stage

if TYPE_CHECKING:
    from sivae.objectives import Objective

ObjectiveName = Literal["soft-intro", "intro", "vae", "lord"]
Phase = Literal["warm-up", "soft-intro", "intro", "vae", "lord"]
ErrorKind = Literal["mse", "l1"]  # the two that fit an output of any range; the networks end without a sigmoid
Fake = Literal["prior", "reconstruction"]
Semantics = Literal["official", "paper"]
DataName = Literal["density", "digits", "shapes", "images"]
ModelName = Literal["mlp", "conv", "style", "translation"]
Supervision = Literal["none", "pairs"]
Norm = Literal["batch", "group", "none"]
Cache = Literal["auto", "device", "host", "none"]
Precision = Literal["fp32", "tf32", "bf16"]
MemoryFormat = Literal["channels-last", "contiguous"]
Automatic = Literal["auto", "on", "off"]
Passes = Literal["shared", "fresh"]

FORMAT = 3  # of config.json; raised when an old reader would misread a new file


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Section):
    """The objective and its weights. None stands for the objective's own default, which :meth:`resolved` fills in.

    Attributes:
        name: "soft-intro", "intro" (IntroVAE's hinge), "vae" or "lord" (LORD, for the model "translation").
        beta_rec: weight of the reconstruction error.
        beta_kl: weight of the KL divergence of real samples.
        kind: the reconstruction error, summed over a sample's elements.
        fakes: what counts as a fake: decoded prior samples, reconstructions of real samples, or both
            (soft-intro, intro).
        alpha: soft-intro: the sharpness of the exponential; intro: the weight of the adversarial terms.
        beta_neg: weight of the KL divergence of fakes in the encoder's update (soft-intro).
        gamma_r: weight of the fakes' reconstruction error in the decoder's update (soft-intro).
        gamma: weight of the fakes in the decoder's update (soft-intro).
        scale: the constant `s` that multiplies every ELBO; None: 1/(elements of one sample), which stays None
            (soft-intro).
        semantics: "official" or "paper": whose gradients, where the published code and the paper's Algorithm
            1 differ (soft-intro).
        margin: KL divergence, in nats, that the encoder gives every fake at least (intro).
        beta_kl_class, beta_neg_class: the weights of the class's share of the KL divergence, where the model tells it
            apart; None: as of the content, `beta_kl` and `beta_neg` (soft-intro, vae).
        perceptual: file of VGG-16's weights, with which the reconstruction error is perceptual
            (:class:`sivae.models.perceptual.PerceptualDistance`); None: `kind` alone.
        content_noise, content_decay, code_weight: see :class:`sivae.objectives.LordObjective` (lord).

    Raises:
        ConfigError: a value is of the wrong type or out of range, or of no effect.
    """

    LABEL: ClassVar[str] = "objective"
    KEYS: ClassVar[dict[str, tuple[str, ...]]] = {
        "soft-intro": (
            *("beta_rec", "beta_kl", "kind", "fakes", "alpha", "beta_neg", "gamma_r", "gamma", "scale", "semantics"),
            *("beta_kl_class", "beta_neg_class", "perceptual"),
        ),
        "intro": ("beta_rec", "beta_kl", "kind", "fakes", "alpha", "margin", "perceptual"),
        "vae": ("beta_rec", "beta_kl", "beta_kl_class", "kind", "perceptual"),
        "lord": ("content_noise", "content_decay", "code_weight", "scale", "kind", "perceptual"),
    }
    RANGES: ClassVar[dict[str, Range]] = {
        **dict.fromkeys(("beta_rec", "beta_kl", "beta_neg", "gamma_r", "gamma", "margin"), NOT_NEGATIVE),
        **dict.fromkeys(("beta_kl_class", "beta_neg_class"), NOT_NEGATIVE),
        **dict.fromkeys(("content_noise", "content_decay", "code_weight"), NOT_NEGATIVE),
        **dict.fromkeys(("alpha", "scale"), POSITIVE),
    }

    name: ObjectiveName
    beta_rec: float | None = None
    beta_kl: float | None = None
    kind: ErrorKind | None = None
    fakes: tuple[Fake, ...] | None = None
    alpha: float | None = None
    beta_neg: float | None = None
    gamma_r: float | None = None
    gamma: float | None = None
    scale: float | None = None
    semantics: Semantics | None = None
    margin: float | None = None
    beta_kl_class: float | None = None
    beta_neg_class: float | None = None
    perceptual: str | None = None
    content_noise: float | None = None
    content_decay: float | None = None
    code_weight: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fakes is not None and (not self.fakes or len(set(self.fakes)) != len(self.fakes)):
            raise ConfigError(
                f"fakes = {fields.show(list(self.fakes))}: name prior, reconstruction, or both, each once"
            )

        for key in ("beta_rec", "beta_kl"):
            if self.name != "lord" and getattr(self, key) is None:
                raise ConfigError(f"{key} is missing; the objective {self.name!r} wants a number")
        for of_class, of_content in (("beta_kl_class", "beta_kl"), ("beta_neg_class", "beta_neg")):
            if getattr(self, of_class) is not None and getattr(self, of_content) == 0:
                raise ConfigError(
                    f"{of_content} = 0: {of_class} is counted against it where both are given; make it small instead"
                )
        if self.perceptual is not None and self.kind is not None:
            raise ConfigError(f"kind = {self.kind!r}: the perceptual error takes its place; leave one of the two out")

    def build(self) -> Objective:
        """The objective itself."""
        from sivae import objectives

        classes: dict[str, Any] = {
            "vae": objectives.VAEObjective,
            "intro": objectives.IntroObjective,
            "soft-intro": objectives.SoftIntroObjective,
            "lord": objectives.LordObjective,
        }
        given = {key: value for key, value in self.given().items() if key != "perceptual"}
        built: Objective = classes[self.name](**given)
        return built

    def elbo_weights(self) -> tuple[float, float]:
        """beta_rec and beta_kl.

        Raises:
            ConfigError: the objective is no ELBO.
        """
        if self.beta_rec is None or self.beta_kl is None:
            raise ConfigError(
                f"a run with the objective {self.name!r} has no beta_rec and beta_kl; give both, or sigma instead"
            )
        return self.beta_rec, self.beta_kl

    @classmethod
    def from_dict(cls, values: Any) -> ObjectiveConfig:
        if isinstance(values, dict):
            # What they were before they were settings.
            since: dict[str, Any] = {"gamma": 1.0, "beta_kl_class": None, "beta_neg_class": None, "perceptual": None}
            used = cls.KEYS.get(str(values.get("name")), ())
            values = {key: value for key, value in since.items() if key in used} | values
        return super().from_dict(values)

    def resolved(self) -> ObjectiveConfig:
        """A copy with the objective's defaults in the place of None."""
        built = self.build()
        keys = [key for key in self.keys_of(self.name) if hasattr(built, key)]
        if self.perceptual is not None:
            keys.remove("kind")
        return dataclasses.replace(self, **{key: getattr(built, key) for key in keys})


@dataclass(frozen=True, kw_only=True)
class DataConfig(Section):
    """What is learned.

    Attributes:
        name: "density" (points in the plane), "digits" (scikit-learn's 1,797 digits of 8x8), "shapes" (rendered, with
            class and content) or "images" (a path).
        density: a key of ``sivae.data.DENSITIES``.
        path: what `sivae.data.images.open_images` reads: a prepared set, a folder or archive of images, a release of
            CIFAR, MNIST, SVHN, Cars3D or KTH.
        resolution: side of the images; others are resized.
        channels: 1 (grey) or 3 (colour); images are converted.
        flip: mirror half of the images at random.
        skip_damaged: leave out image files that cannot be decoded, and say how many; else they are an error.
        cache: where the decoded images live: on the training device, in the host's memory, or on disk.
    """

    LABEL: ClassVar[str] = "data"
    KEYS: ClassVar[dict[str, tuple[str, ...]]] = {
        "density": ("density",),
        "digits": ("flip", "cache"),
        "shapes": ("resolution", "cache"),
        "images": ("path", "resolution", "channels", "flip", "skip_damaged", "cache"),
    }
    RANGES: ClassVar[dict[str, Range]] = {"resolution": AT_LEAST_1}

    name: DataName
    density: str | None = None
    path: str | None = None
    resolution: int | None = None
    channels: Literal[1, 3] | None = None
    flip: bool | None = None
    skip_damaged: bool | None = None
    cache: Cache | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Section):
    """The networks.

    Attributes:
        name: "mlp" (for points), "conv", "style" or "translation" (for images).
        z_dim: latent dimensions.
        hidden: width of the linear layers (mlp, translation).
        layers: number of the inner layers (mlp).
        widths: channels from the image inwards, halving the resolution at each (conv).
        norm: "batch" as published, "group" or "none" (conv).
        conditional: give encoder and decoder the class of an image, where the data has classes (conv).
        start_channels: width of the outermost blocks, each further one twice as wide (style).
        max_channels: but no wider than this (style).
        mapping_layers: layers from a latent to its style (style).
        style_mixing: share of the training passes over prior samples that mix two styles (style).
        content_dim, class_dim: latent dimensions of the two (translation).
        width: channels at the images' resolution; inner layers have up to four times as many (translation).
        supervision: "none"; or "pairs": a batch consists of pairs of images of one class, each of which is decoded with
            the other's class code. LORD, which knows the class of every image, does without (translation).
    """

    LABEL: ClassVar[str] = "model"
    KEYS: ClassVar[dict[str, tuple[str, ...]]] = {
        "mlp": ("z_dim", "hidden", "layers"),
        "conv": ("z_dim", "widths", "norm", "conditional"),
        "style": ("z_dim", "start_channels", "max_channels", "mapping_layers", "style_mixing"),
        "translation": ("content_dim", "class_dim", "width", "hidden", "supervision"),
    }
    RANGES: ClassVar[dict[str, Range]] = {
        **dict.fromkeys(("z_dim", "hidden", "layers"), AT_LEAST_1),
        **dict.fromkeys(("start_channels", "max_channels", "mapping_layers"), AT_LEAST_1),
        **dict.fromkeys(("content_dim", "class_dim", "width"), AT_LEAST_1),
        "style_mixing": SHARE,
        "widths": (lambda value: len(value) > 0 and all(one >= 1 for one in value), "one or more, each 1 or more"),
    }

    name: ModelName
    z_dim: int | None = None  # of every other model than "translation"
    hidden: int | None = None
    layers: int | None = None
    widths: tuple[int, ...] | None = None
    norm: Norm | None = None
    conditional: bool | None = None
    start_channels: int | None = None
    max_channels: int | None = None
    mapping_layers: int | None = None
    style_mixing: float | None = None
    content_dim: int | None = None
    class_dim: int | None = None
    width: int | None = None
    supervision: Supervision | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != "translation" and self.z_dim is None:
            raise ConfigError(f"z_dim is missing; the model {self.name!r} wants a whole number")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes, and how often it writes.

    Attributes:
        preset: the preset that it was made from; a name for people.
        data: what is learned.
        model: the networks.
        objective: what is minimised.
        steps: training iterations, the warm-up's included. None: as many as `epochs` makes. Where the model grows, the
            schedule that the epochs make is drawn out or compressed to them.
        epochs: passes over the images; None where `steps` is given and nothing grows.
        growth: whether the model grows with the images, and when (style).
        batch_size: samples per iteration, of all processes together; where the model grows, at the last stage.
        learning_rate: Adam's rate for encoder and decoder, before the first milestone.
        warmup_fraction: share of the steps that train a plain VAE before the objective takes over; of LORD's, its first
            stage.
        milestones: shares of the steps after which the rate is multiplied by `rate_factor`, ascending.
        rate_factor: see `milestones`.
        ema_half_life: images after which a weight's share in the averaged copy has halved; None: no averaged copy.
        precision: "fp32"; "tf32" (float32 with the products rounded on NVIDIA GPUs); "bf16" (the networks in
            bfloat16, weights and losses in float32).
        memory_format: how images lie in memory.
        compile: compile the networks with torch.compile.
        cuda_graph: run iterations as one CUDA graph; "auto": on a GPU, for small images.
        decoder_passes: "shared": the decoder's update reuses the encoder's forward passes; "fresh": it draws other
            noise and encodes the images again, with the updated encoder, as the authors' style-based program does.
        accumulate: parts that a batch is cut into, so that only one is in memory at a time.
        checkpoint_activations: keep only each stage's input and compute the rest again in the backward pass.
        seed: decides the initial weights, the data, the noise and the metrics' samples.
        device: "auto" (a GPU when there is one), "cpu", "cuda", "cuda:1" …
        ops: backend of the fused ops; None: the fastest that is there.
        threads: CPU threads; None: torch's own choice.
        log_every: iterations between two records of the losses. Updates are checked as often.
        checkpoint_every: iterations between two checkpoints.
        keep_checkpoints: how many of the last checkpoints stay, beside the best.
        sample_every: iterations between two pictures of samples; None: a tenth of the steps.

    Raises:
        ConfigError: a value is of the wrong type or out of range.
    """

    preset: str
    data: DataConfig
    model: ModelConfig
    objective: ObjectiveConfig
    growth: GrowthConfig = field(default_factory=GrowthConfig)
    steps: int | None = None
    epochs: float | None = None
    batch_size: int = 512
    learning_rate: float = 2e-4
    warmup_fraction: float = 0.0
    milestones: tuple[float, ...] = ()
    rate_factor: float = 0.1
    ema_half_life: float | None = None
    precision: Precision = "fp32"
    memory_format: MemoryFormat = "channels-last"
    compile: bool = False
    cuda_graph: Automatic = "auto"
    decoder_passes: Passes = "shared"
    accumulate: int = 1
    checkpoint_activations: bool = False
    seed: int = 0
    device: str = "auto"
    ops: str | None = None
    threads: int | None = None
    log_every: int = 25
    checkpoint_every: int = 1_000
    keep_checkpoints: int = 2
    sample_every: int | None = None

    def __post_init__(self) -> None:
        fields.conform(self, _RANGES)
        if list(self.milestones) != sorted(self.milestones):
            raise ConfigError(f"milestones = {fields.show(list(self.milestones))}: give them in ascending order")
        if not self.growth.grows and self.batch_size % self.accumulate:
            raise ConfigError(
                f"accumulate = {self.accumulate}: it must divide the batch_size, {self.batch_size}; "
                "choose one that does"
            )
        of_points = self.data.name == "density"
        if of_points != (self.model.name == "mlp"):
            raise ConfigError(f"model = {self.model.name!r}: it does not fit the data {self.data.name!r}")
        if of_points and self.epochs is not None:
            raise ConfigError(f"epochs = {self.epochs}: points of a density have none; give steps")
        if self.checkpoint_activations and self.model.name not in ("conv", "style"):
            raise ConfigError(
                f"checkpoint_activations: the networks of the model {self.model.name!r} have no stages; leave it out"
            )
        if of_points and self.objective.perceptual is not None:
            raise ConfigError("perceptual: points have no looks; leave it out")
        if self.model.name != "translation":
            for key in ("beta_kl_class", "beta_neg_class"):
                if getattr(self.objective, key) is not None:
                    raise ConfigError(
                        f"{key}: the model {self.model.name!r} does not tell the class apart; leave it out"
                    )
        if self.objective.name == "lord" and self.model.name != "translation":
            raise ConfigError(
                f"objective = 'lord': the model {self.model.name!r} has no codes of classes; leave it out"
            )
        if self.objective.name == "lord":
            steps = self.steps
            both = 0 < self.warmup_fraction < 1 if steps is None else 0 < round(self.warmup_fraction * steps) < steps
            if not both:
                raise ConfigError(
                    f"warmup_fraction = {self.warmup_fraction}: it is the share of LORD's first stage, and both of its "
                    "stages have to train; choose one between 0 and 1"
                )
        if self.paired and self.batch_size % (2 * self.accumulate):
            raise ConfigError(
                f"batch_size = {self.batch_size}: pairs want an even number in each of {self.accumulate} parts"
            )
        if self.growth.grows and self.model.name != "style":
            raise ConfigError(f"growth = 'grow': the model {self.model.name!r} does not grow; leave it out")
        if self.growth.grows and self.epochs is None:
            raise ConfigError("epochs: how long a growing run takes to grow is counted in them; give them")
        if self.growth.grows and self.warmup_fraction:
            raise ConfigError(
                f"warmup_fraction = {self.warmup_fraction}: where the model grows, warmup_epochs says it; leave it out"
            )
        if self.steps is None and self.epochs is None:
            raise ConfigError("steps: say how long to train, by steps or by epochs")

    def check_data_is_named(self) -> None:
        """Refuse a run on images that does not say which.

        Raises:
            ConfigError: so it is.
        """
        if self.data.name == "images" and self.data.path is None:
            raise ConfigError(
                f"the preset {self.preset} needs images; name them by --data PATH: a folder or archive of images, "
                "a release of CIFAR, MNIST, SVHN, Cars3D or KTH, or what sivae prepare made"
            )

    @property
    def paired(self) -> bool:
        """Whether batches consist of pairs of one class."""
        return self.model.supervision == "pairs" and self.objective.name != "lord"

    @property
    def total_steps(self) -> int:
        """Training iterations.

        Raises:
            ConfigError: only epochs are known yet.
        """
        if self.steps is None:
            raise ConfigError("steps: how many iterations the epochs make is known once the data is open")
        return self.steps

    @property
    def warmup_steps(self) -> int:
        """Iterations that train a plain VAE first."""
        if self.growth.grows:
            return self.growth.warmup_steps
        return round(self.warmup_fraction * self.total_steps)

    def phase_at(self, step: int) -> Phase:
        """What iteration `step`, counted from 1, trains: a plain VAE to warm up (LORD's codes), or the objective."""
        return "warm-up" if step <= self.warmup_steps else self.objective.name

    def learning_rate_at(self, step: int) -> float:
        """Adam's rate in iteration `step`, counted from 1."""
        passed = sum(step > round(milestone * self.total_steps) for milestone in self.milestones)
        stage = self.stage_at(step)
        of_stage = 1.0 if stage is None else stage.rate_factor
        return self.learning_rate * of_stage * self.rate_factor**passed

    def stage_at(self, step: int) -> Stage | None:
        """The stage of growth in iteration `step`, counted from 1; None where the model does not grow."""
        return self.growth.stage_at(step) if self.growth.grows else None

    def samples_after(self, steps: int) -> int:
        """Samples seen in the first `steps` iterations, by all processes together."""
        return self.growth.images_after(steps) if self.growth.grows else steps * self.batch_size

    def to_json(self) -> str:
        """Indented JSON with every key."""
        content: dict[str, Any] = {"format": FORMAT}
        for one in dataclasses.fields(self):
            value = getattr(self, one.name)
            content[one.name] = value.to_dict() if isinstance(value, Section) else fields.plain(value)
        return json.dumps(content, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """The inverse of :meth:`to_json`.

        Raises:
            ConfigError: it is not JSON or of another format, a key is unknown or missing, a value is wrong.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"not JSON ({error}); restore the file as the run wrote it") from None
        if not isinstance(values, dict):
            raise ConfigError("not a JSON object; restore the file as the run wrote it")
        if values.get("format") != FORMAT:
            raise ConfigError(
                f"format = {fields.show(values.get('format'))}: this version reads format {FORMAT}; "
                "use the version of sivae that wrote the run"
            )
        values.pop("format")
        fields.check_keys(values, [one.name for one in dataclasses.fields(cls)], "")
        return cls(**{**values, **{key: kind.from_dict(values[key]) for key, kind in SECTIONS.items()}})

    @classmethod
    def read(cls, path: Path) -> RunConfig:
        """Read a `config.json`.

        Raises:
            ConfigError: as for :meth:`from_json`, with the file's name.
            OSError: the file cannot be read.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None

    def replace(self, **changes: Any) -> RunConfig:
        """A copy with other values. The sections' keys are given flat, beside the run's own.

        Steps take the place of epochs, and epochs that of steps.

        Raises:
            ConfigError: a key is unknown, or a value is wrong.
        """
        own = {key: value for key, value in changes.items() if key in RUN_KEYS}
        for key in changes:
            if key not in RUN_KEYS and not any(key in kind.every_key() for kind in SECTIONS.values()):
                every = (*RUN_KEYS, *(key for kind in SECTIONS.values() for key in kind.every_key()))
                raise ConfigError(fields.unknown(key, every))
        for label, kind in SECTIONS.items():
            inside = {key: value for key, value in changes.items() if key in kind.every_key()}
            if inside:
                own[label] = dataclasses.replace(own.get(label, getattr(self, label)), **inside)
        if "epochs" in own and "steps" not in own:
            own["steps"] = None
        grows = own.get("growth", self.growth).grows  # then steps compress the epochs' schedule
        if "steps" in own and own["steps"] is not None and "epochs" not in own and not grows:
            own["epochs"] = None
        return dataclasses.replace(self, **own)


SECTIONS: dict[str, type[Section]] = {
    kind.LABEL: kind for kind in (DataConfig, ModelConfig, ObjectiveConfig, GrowthConfig)
}
RUN_KEYS = tuple(one.name for one in dataclasses.fields(RunConfig))

_RANGES: dict[str, Range] = {
    **dict.fromkeys(("steps", "batch_size", "accumulate", "threads", "keep_checkpoints"), AT_LEAST_1),
    **dict.fromkeys(("log_every", "checkpoint_every", "sample_every"), AT_LEAST_1),
    **dict.fromkeys(("epochs", "learning_rate", "rate_factor", "ema_half_life"), POSITIVE),
    "warmup_fraction": SHARE,
    "milestones": SHARES,
    "seed": SEED,
}
