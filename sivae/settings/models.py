"""The settings of the networks: a record for each architecture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from sivae.bounds import AUTOENCODER_BLOCKS, MODEL_LAYERS, PRIOR_COMPONENTS
from sivae.errors import ConfigError, ModelFileError
from sivae.fields import AT_LEAST_1, COUNTS, POSITIVE, SHARE, Choice, Need, Range, setting, show
from sivae.words import plural

if TYPE_CHECKING:
    from sivae.models import VAEModel

Samples = Literal["points", "images", "clouds"]
Norm = Literal["batch", "group", "none"]
Supervision = Literal["none", "pairs"]
Prior = Literal["standard", "mixture", "vamp"]  # as sivae.models.priors has them

_LAYERS = Range(lambda value: 1 <= value <= MODEL_LAYERS, f"from 1 to {MODEL_LAYERS}")
_BLOCKS = Range(lambda value: 1 <= value <= AUTOENCODER_BLOCKS, f"from 1 to {AUTOENCODER_BLOCKS}")
_FACTORS = (1, 2, 4, 8, 16, 32, 64)
_FACTOR = Range(lambda value: value in _FACTORS, f"one of {', '.join(map(str, _FACTORS))}")


@dataclass(frozen=True, kw_only=True)
class Model(Choice):
    """An architecture.

    Class attributes:
        SAMPLES: what it is for.
        GROWS: whether it can grow with the images.
        HAS_STAGES: whether its activations can be kept stage by stage (`checkpoint_activations`).
        MAKES_LOGITS: whether a sigmoid may follow its last layer, for the error "bce".
        TELLS_CLASS: whether its latents are a class and a content.
        HAS_CODES: whether it can have codes of images and classes, for LORD.
        THREADS: CPU threads of a training where the user gives none; None: torch's choice, all cores.
        LEARNS_PRIOR: whether the prior can be a learned one.
    """

    LABEL: ClassVar[str] = "model"
    SAMPLES: ClassVar[Samples] = "images"
    GROWS: ClassVar[bool] = False
    HAS_STAGES: ClassVar[bool] = False
    MAKES_LOGITS: ClassVar[bool] = False
    TELLS_CLASS: ClassVar[bool] = False
    HAS_CODES: ClassVar[bool] = False
    THREADS: ClassVar[int | None] = None
    LEARNS_PRIOR: ClassVar[bool] = True

    prior_std: float = setting(
        1.0, help="Standard deviation of the latent prior, in units of the weights.", within=POSITIVE, since=1.0
    )
    prior: Prior = setting(
        "standard",
        help="The prior of the latents: standard, N(0, 1); mixture, a learned mixture of Gaussians; vamp, the mixture "
        "of the posteriors of learned pseudo-inputs, for the objective vae (docs/priors.md).",
        need=Need(
            lambda config: config.model.LEARNS_PRIOR,
            "the model {config.model.name!r} has the standard prior alone, and presets with the model mlp, conv, "
            "pointnet or autoencoder can have another",
            strict=True,
        ),
        since="standard",
    )
    prior_components: int = setting(
        10,
        help="Number of Gaussians, or of pseudo-inputs, of a learned prior.",
        within=Range(lambda value: 1 <= value <= PRIOR_COMPONENTS, f"from 1 to {PRIOR_COMPONENTS:,}"),
        need=Need(lambda config: config.model.prior != "standard", "the standard prior is one Gaussian"),
        since=10,
    )

    @property
    def is_conditional(self) -> bool:
        """Whether encoder and decoder get the class of an image."""
        return False

    @property
    def wants_pairs(self) -> bool:
        """Whether it learns from pairs of images of one class."""
        return False

    def check(self, config: Any) -> None:
        """Refuse a run that the networks cannot train in.

        Args:
            config: the run's settings, a :class:`sivae.settings.run.RunConfig`.

        Raises:
            ConfigError: they cannot.
        """

    def check_processes(self, count: int, device: str) -> None:
        """Refuse a number of processes that the networks cannot train in.

        Raises:
            ConfigError: they cannot.
        """

    def settings_of_start(self, path: str) -> dict[str, Any]:
        """Find the settings of the networks that a run starts from, where a file says them in other words.

        Args:
            path: the run's `init_from`.

        Returns:
            The settings by name; empty where the folder has none.

        Raises:
            ConfigError: the folder's networks are none of this architecture.
        """
        return {}

    def build(self, **sample: Any) -> VAEModel:
        """The networks, initialised from the global generator.

        Args:
            sample: what the data decides: `data_dim` of points in the plane; `points` of clouds; `image_size` and
                `channels` of images, `condition_dim` of a conditional model, and what else the architecture takes.
        """
        from sivae.models import build_model

        return build_model(self.NAME, **{key: getattr(self, key) for key in self.key_names()}, **sample)


def check_batch_norm(norm: Norm, processes: int, device: str) -> None:
    """Refuse batch norm in several processes on CPUs.

    Raises:
        ConfigError: the norm is "batch" there.
    """
    if norm == "batch" and processes > 1 and device == "cpu":
        raise ConfigError(
            "norm = 'batch': several processes share its statistics only on GPUs; choose norm group or none"
        )


@dataclass(frozen=True, kw_only=True)
class MLP(Model):
    """Fully connected networks for points in the plane."""

    NAME: ClassVar[str] = "mlp"
    SAMPLES: ClassVar[Samples] = "points"
    # Its products take less time than waking a second thread where another process keeps that core busy.
    THREADS: ClassVar[int | None] = 1

    z_dim: int = setting(help="Latent dimensions.", within=AT_LEAST_1)
    hidden: int = setting(help="Width of the linear layers.", within=AT_LEAST_1)
    layers: int = setting(help="Number of inner layers.", within=_LAYERS)


@dataclass(frozen=True, kw_only=True)
class Conv(Model):
    """The residual convolutional networks of IntroVAE and Soft-IntroVAE."""

    NAME: ClassVar[str] = "conv"
    HAS_STAGES: ClassVar[bool] = True
    MAKES_LOGITS: ClassVar[bool] = True

    z_dim: int = setting(help="Latent dimensions.", within=AT_LEAST_1)
    widths: tuple[int, ...] = setting(
        help="Channels of each stage, from the image inwards; each stage halves the resolution.", within=COUNTS
    )
    norm: Norm = setting("batch", help="Normalisation: batch as published, group, or none.")
    conditional: bool = setting(False, help="Give the networks the class of an image, where the data has classes.")

    @property
    def is_conditional(self) -> bool:
        """See :attr:`Model.is_conditional`."""
        return self.conditional

    def check(self, config: Any) -> None:
        """See :meth:`Model.check`; batch norm needs more than one value of each channel."""
        if self.conditional and self.prior == "vamp":
            raise ConfigError(
                "prior = 'vamp': the model is conditional, and pseudo-inputs have no class; choose mixture"
            )
        side = config.data.side >> len(self.widths)
        rows = config.batch_size // config.accumulate
        if self.norm == "batch" and rows == 1 and side == 1:
            raise ConfigError(
                f"norm = 'batch': with batch_size = {config.batch_size} and accumulate = {config.accumulate} one image "
                "passes at a time, and its innermost maps have one pixel, so its variance is 0; "
                "choose a larger batch_size, fewer parts, or norm group"
            )

    def check_processes(self, count: int, device: str) -> None:
        """See :meth:`Model.check_processes`."""
        check_batch_norm(self.norm, count, device)

    def build(self, **sample: Any) -> VAEModel:
        """See :meth:`Model.build`."""
        from sivae.models import build_model

        keys = ("z_dim", "widths", "norm", "prior_std", "prior", "prior_components")
        return build_model(self.NAME, **{key: getattr(self, key) for key in keys}, **sample)


@dataclass(frozen=True, kw_only=True)
class Style(Model):
    """The style-based networks, which can grow with the images."""

    NAME: ClassVar[str] = "style"
    LEARNS_PRIOR: ClassVar[bool] = False  # it mixes the styles of samples of N(0, 1)
    GROWS: ClassVar[bool] = True
    HAS_STAGES: ClassVar[bool] = True

    z_dim: int = setting(help="Latent dimensions.", within=AT_LEAST_1)
    start_channels: int = setting(
        help="Channels of the outermost blocks; each further block has twice as many.", within=AT_LEAST_1
    )
    max_channels: int = setting(help="Largest number of channels of a block.", within=AT_LEAST_1)
    mapping_layers: int = setting(help="Layers from a latent to its style.", within=_LAYERS)
    style_mixing: float = setting(
        0.9,
        help="Share of the training passes over prior samples that mix two styles.",
        within=SHARE,
        need=Need(
            lambda config: config.objective.SHARES_PASSES,
            "the objective {config.objective.name!r} decodes no prior samples",
        ),
    )

    def build(self, **sample: Any) -> VAEModel:
        """See :meth:`Model.build`."""
        from sivae.models import StyleVAE

        keys = ("z_dim", "start_channels", "max_channels", "mapping_layers", "prior_std")
        model = StyleVAE(**sample, **{key: getattr(self, key) for key in keys})
        model.style_mixing = self.style_mixing
        return model


@dataclass(frozen=True, kw_only=True)
class Translation(Model):
    """Two encoders, one for the class of an image and one for its content, and one decoder."""

    NAME: ClassVar[str] = "translation"
    LEARNS_PRIOR: ClassVar[bool] = False  # the kl of the class and of the content have weights of their own
    TELLS_CLASS: ClassVar[bool] = True
    HAS_CODES: ClassVar[bool] = True

    content_dim: int = setting(help="Latent dimensions of the content.", within=AT_LEAST_1)
    class_dim: int = setting(help="Latent dimensions of the class.", within=AT_LEAST_1)
    width: int = setting(
        help="Channels at the images' resolution; inner layers have up to four times as many.", within=AT_LEAST_1
    )
    hidden: int = setting(help="Width of the linear layers.", within=AT_LEAST_1)
    supervision: Supervision = setting(
        help="pairs: a batch consists of pairs of images of one class, and each image is decoded with the class code "
        "of the other. none: the networks learn without labels. The objective lord knows every label and uses no "
        "pairs.",
        need=Need(
            lambda config: config.objective.TAKES_PAIRS, "the objective {config.objective.name!r} knows every label"
        ),
    )

    @property
    def wants_pairs(self) -> bool:
        """See :attr:`Model.wants_pairs`."""
        return self.supervision == "pairs"

    def build(self, *, exchanges: bool = False, **sample: Any) -> VAEModel:
        """See :meth:`Model.build`.

        Args:
            exchanges: whether a training step decodes each image with its partner's class.
            sample: as for other models.
        """
        from sivae.models import TranslationVAE

        keys = ("content_dim", "class_dim", "width", "hidden", "prior_std")
        model = TranslationVAE(**{key: getattr(self, key) for key in keys}, **sample)
        model.exchanges = exchanges
        return model


@dataclass(frozen=True, kw_only=True)
class PointNet(Model):
    """The networks for clouds of points: a PointNet, and fully connected layers."""

    NAME: ClassVar[str] = "pointnet"
    SAMPLES: ClassVar[Samples] = "clouds"

    z_dim: int = setting(help="Latent dimensions.", within=AT_LEAST_1)
    widths: tuple[int, ...] = setting(
        help="Features of a point after each layer of the encoder; the last are maximized over the points.",
        within=COUNTS,
    )
    hidden: int = setting(help="Width of the encoder's layer after the maximum.", within=AT_LEAST_1)
    decoder_widths: tuple[int, ...] = setting(help="Widths of the decoder's inner layers.", within=COUNTS)
    norm: Norm = setting("batch", help="Normalisation of the encoder: batch as published, group, or none.")
    prior_std: float = setting(
        0.2, help="Standard deviation of the latent prior, in units of the weights.", within=POSITIVE
    )

    def check_processes(self, count: int, device: str) -> None:
        """See :meth:`Model.check_processes`."""
        check_batch_norm(self.norm, count, device)


@dataclass(frozen=True, kw_only=True)
class Autoencoder(Model):
    """The networks of diffusers' AutoencoderKL, whose latents are maps."""

    NAME: ClassVar[str] = "autoencoder"
    HAS_STAGES: ClassVar[bool] = True

    latent_channels: int = setting(help="Channels of a latent.", within=AT_LEAST_1)
    downsample: int = setting(
        8, help=f"Side of the images, divided by that of a latent: {_FACTOR.words}.", within=_FACTOR
    )
    widths: tuple[int, ...] = setting(
        help="Channels at each resolution, from the images' inwards; the last number is that of all further ones.",
        within=COUNTS,
    )
    layers: int = setting(
        2, help="Residual blocks at each resolution of the encoder; the decoder has one more.", within=_BLOCKS
    )
    groups: int = setting(32, help="Groups of each norm; they divide all widths.", within=AT_LEAST_1)
    attention: bool = setting(True, help="Attention between all places at the smallest resolution.")
    attention_stages: tuple[int, ...] = setting(
        (),
        help="Resolutions with attention after each block: 0 is the images', 1 half of it, and so on.",
        within=Range(lambda value: all(one >= 0 for one in value), "numbers from 0"),
    )
    quant_convs: bool = setting(
        True, help="End the encoder, and begin the decoder, by a 1x1 convolution, as the first published models do."
    )

    def check(self, config: Any) -> None:
        """See :meth:`Model.check`."""
        resolutions = self.downsample.bit_length()
        if len(self.widths) > resolutions:
            raise ConfigError(
                f"widths = {show(list(self.widths))}: downsample = {self.downsample} makes "
                f"{plural(resolutions, 'resolution')}, expected as many numbers at most; leave out the last, or choose "
                f"downsample {2 ** (len(self.widths) - 1)}"
            )

    def settings_of_start(self, path: str) -> dict[str, Any]:
        """See :meth:`Model.settings_of_start`; folders of diffusers have them."""
        from sivae.models import diffusers_folder

        folder = Path(path)
        if not diffusers_folder.is_folder(folder):
            return {}
        try:
            found = diffusers_folder.read_hyperparameters(folder)
        except ModelFileError as error:
            raise ConfigError(f"init_from: {error}") from None
        settings = {key: found[key] for key in self.key_names() if key in found}
        return settings | {"downsample": 1 << (len(found["widths"]) - 1)}

    def build(self, **sample: Any) -> VAEModel:
        """See :meth:`Model.build`."""
        from sivae.models import build_model

        settings = {key: getattr(self, key) for key in self.key_names() if key != "downsample"}
        further = self.downsample.bit_length() - len(self.widths)
        settings["widths"] = (*self.widths, *self.widths[-1:] * further)
        return build_model(self.NAME, **settings, **sample)


MODEL_KINDS: dict[str, type[Model]] = {
    kind.NAME: kind for kind in (MLP, Conv, Style, Translation, PointNet, Autoencoder)
}
