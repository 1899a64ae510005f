"""The objectives: VAE, IntroVAE, Soft-IntroVAE and LORD, as functions of the per-sample rec and kl.

Notation of "Soft-IntroVAE" (Daniel & Tamar, CVPR 2021): rec is the summed reconstruction error of a sample, kl its
divergence from the prior in nats, and a fake f is a decoded prior sample or a reconstruction. `rec_fakes` and
`kl_fakes` are [F, B], one row per kind of fake.

An objective is a record of settings with the formulas and the step that belong to them. This module does not import
torch, so that the command line can list the settings quickly.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Self, get_args

from sivae.errors import ConfigError
from sivae.fields import NOT_NEGATIVE, POSITIVE, Choice, Need, setting, show

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.method.kl_average import KLAverage


# Of sivae.ops.reconstruction_error; the distance of clouds, sivae.ops.chamfer_distance; and mse over twice the variance
# of the decoder, which the step learns.
ErrorKind = Literal["mse", "l1", "bce", "bce_with_logits", "chamfer", "gaussian"]
BCE: ErrorKind = "bce"
CHAMFER: ErrorKind = "chamfer"
GAUSSIAN: ErrorKind = "gaussian"
RUN_KINDS: tuple[ErrorKind, ...] = ("mse", "l1", GAUSSIAN, BCE)
Semantics = Literal["official", "paper"]
Fake = Literal["prior", "reconstruction"]
Augmentation = Literal["color", "translation", "cutout"]  # see sivae.method.augmentation
FAKES: tuple[Fake, ...] = get_args(Fake)
SHORT: dict[Fake, str] = {"reconstruction": "rec", "prior": "fake"}  # in the names of losses and of noise

NEG_PUSH = 0.6
GAMMA_R, BOOTSTRAP_GAMMA_R = 1e-8, 1.0  # the authors' defaults without and with a target decoder
NEGLIGIBLE = 2.0**-24  # relative to another weight, this is below float32's resolution
FAR = 5.0  # a KL this many times another is far above it
ENDLESS_EPOCH = 1_000  # iterations that stand for an epoch of endless data
SATURATED = 1e-6  # an exp-ELBO below this gives the encoder a negligible gradient

OF_IMAGES = Need(lambda config: config.data.SAMPLES == "images", "the samples are points, not images", strict=True)
OF_CLASSES = Need(
    lambda config: config.model.TELLS_CLASS,
    "the model {config.model.name!r} does not separate the class from the rest",
    strict=True,
)


class Latents(NamedTuple):
    """The arguments of an objective's `loss_of`, in addition to rec and kl.

    Attributes:
        z: draws from the posteriors, [B, *latent_shape].
        mu, logvar: parameters of the posteriors, in the shape of z.
        data_size: number of training samples; None if the data is endless.
    """

    z: Tensor
    mu: Tensor
    logvar: Tensor
    data_size: int | None


class Symptom(NamedTuple):
    """A cause of a divergence in words, and the setting to change, with the direction."""

    cause: str
    remedy: str


Usual = Callable[[str], float]
Step = Callable[..., dict[str, "Tensor"]]  # a batch -> detached losses, see sivae.method.base.BaseStep


@dataclass(frozen=True, kw_only=True)
class Objective(Choice):
    """The base class of objectives: the loss that a training minimizes, with its settings.

    Class attributes:
        TAKES_PAIRS: whether a batch may consist of pairs of one class (`supervision` of the model "translation").
        USES_CODES: whether it trains codes of images and classes; then the model must have them.
        SHARES_PASSES: whether the two updates of its step can share forward passes.
        WARMS_UP: whether a plain VAE may be trained before it.
    """

    LABEL: ClassVar[str] = "objective"
    DEFAULT_KIND: ClassVar[ErrorKind] = "mse"
    TAKES_PAIRS: ClassVar[bool] = True
    USES_CODES: ClassVar[bool] = False
    SHARES_PASSES: ClassVar[bool] = False
    WARMS_UP: ClassVar[bool] = True

    kind: ErrorKind | None = setting(
        None,
        help="The reconstruction error. gaussian: mse over twice the decoder's variance, which is learned. bce, of the "
        "model conv: the cross entropy of values in [0, 1]; the decoder then ends in a sigmoid. chamfer: the distance "
        "of point clouds.",
    )
    perceptual: str | None = setting(
        None,
        help="File of VGG-16's weights (vgg16-397923af.pth). The reconstruction error is then perceptual, and --kind "
        "cannot be given.",
        need=OF_IMAGES,
        unset="none",
        metavar="FILE",
        since=None,
    )
    lpips: str | None = setting(
        None,
        help="File of LPIPS' own weights (weights/v0.1/vgg.pth of the package lpips), beside --perceptual. The error "
        "is then L1 and LPIPS, for images from 16x16 on.",
        need=OF_IMAGES,
        unset="none",
        metavar="FILE",
        since=None,
    )
    structural: float = setting(
        0.0,
        help="Weight of 1 - MS-SSIM in the reconstruction error, relative to the mean error of a value (--kind mse or "
        "l1).",
        within=NOT_NEGATIVE,
        need=OF_IMAGES,
        since=0.0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lpips is not None and self.perceptual is None:
            raise ConfigError(
                "lpips: its weights are for VGG-16's activations; give the file of these as perceptual too"
            )
        if self.perceptual is None and self.kind is None:
            object.__setattr__(self, "kind", self.DEFAULT_KIND)
        if self.perceptual is not None and self.kind is not None:
            raise ConfigError(f"kind = {self.kind!r}: perceptual is given too; leave one of the two out")
        if self.structural and self.kind not in ("mse", "l1"):
            other = "perceptual is given too" if self.kind is None else f"the error is {self.kind}, expected mse or l1"
            raise ConfigError(f"structural = {self.structural:g}: {other}; leave one of the two out")

    def changed(self, **changes: Any) -> Self:
        """Return a copy with other values. A perceptual error replaces the kind, unless both are given."""
        if changes.get("perceptual") is not None:
            changes.setdefault("kind", None)
        return super().changed(**changes)

    @property
    def follows_kl(self) -> bool:
        """Whether a weight follows the running mean of the real samples' kl."""
        return False

    @property
    def target_every(self) -> float | None:
        """Epochs between two copies into a target decoder, which decodes re-encoded fakes; None: there is none."""
        return None

    @property
    def class_kl_share(self) -> float:
        """Weight of the class's part of the kl, relative to the content's part."""
        return 1.0

    def elbo_weights(self) -> tuple[float, float]:
        """Return beta_rec and beta_kl.

        Raises:
            ConfigError: the objective is not an ELBO.
        """
        raise ConfigError(
            f"a run with the objective {self.name!r} has no beta_rec and beta_kl; give both, or sigma instead"
        )

    def score(self, record: Mapping[str, Any]) -> float | None:
        """Compute the number that ranks checkpoints, lower is better; None if the record lacks its losses.

        Args:
            record: batch means of an iteration, as in `metrics.jsonl`.
        """
        return None

    def for_warm_up(self) -> Objective:
        """Return the objective of the warm-up."""
        return self

    def symptoms(self, usual: Usual) -> list[Symptom]:
        """Find causes of a divergence that are specific to the objective.

        Args:
            usual: returns the recent median of a loss by its name in `metrics.jsonl`; NaN if it is unknown.
        """
        return []

    def strongest_push(self, beta_neg: float) -> float | None:
        """Return the push that an automatic `beta_neg` of a record has, if no weight reaches `neg_push`; else None."""
        return None

    def check(self, config: Any) -> None:
        """Refuse a run that the objective does not fit.

        Args:
            config: the run's settings, a :class:`sivae.settings.run.RunConfig`.

        Raises:
            ConfigError: the run does not fit.
        """
        self.check_kind(self.kind, config)
        if self.lpips is not None and (config.growth.grows or config.data.side < 16):
            raise ConfigError("lpips: it compares images from 16x16 on; leave it out, or train larger images")

    @staticmethod
    def kinds_for(config: Any) -> tuple[ErrorKind, ...]:
        """Return the kinds of the reconstruction error that a run can have."""
        if config.data.SAMPLES == "clouds":
            return (CHAMFER,)
        return tuple(kind for kind in RUN_KINDS if kind != BCE or config.model.MAKES_LOGITS)

    def check_kind(self, kind: Any, config: Any) -> None:
        """Refuse a kind of the reconstruction error that a run cannot have.

        Args:
            kind: what was given, of any type; None: the default, or a perceptual error.
            config: the run's settings.

        Raises:
            ConfigError: it is not one of :meth:`kinds_for`.
        """
        kinds = self.kinds_for(config)
        if kind is not None and kind not in kinds:
            why = f"; the model {config.model.name!r} has no sigmoid after its last layer" if kind == BCE else ""
            raise ConfigError(f"kind = {show(kind)}: expected one of {', '.join(kinds)}{why}")

    def make_step(self, *pair: Any, warm_up: bool = False, neg_factor: float = 1.0, **options: Any) -> Step:
        """Make the training step.

        Args:
            pair: model, optimizer of the encoder, optimizer of the decoder.
            warm_up: whether the step is for the run's warm-up.
            neg_factor: factor of beta_neg, if the objective has it.
            options: the keyword arguments of :class:`sivae.method.base.BaseStep`.
        """
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class ElboObjective(Objective):
    """An objective with the negative ELBO of real samples, beta_rec rec + beta_kl kl."""

    beta_rec: float = setting(1.0, help="Weight of the reconstruction error.", within=NOT_NEGATIVE, changeable=True)
    beta_kl: float = setting(
        1.0, help="Weight of the KL divergence of real samples.", within=NOT_NEGATIVE, changeable=True
    )

    def elbo_weights(self) -> tuple[float, float]:
        """See :meth:`Objective.elbo_weights`."""
        return self.beta_rec, self.beta_kl

    def check(self, config: Any) -> None:
        """See :meth:`Objective.check`."""
        super().check(config)
        if self.beta_rec == self.beta_kl == 0:
            raise ConfigError(
                "beta_rec = 0 and beta_kl = 0: nothing would be learned from real samples, expected one above 0; give "
                "another --beta-rec or --beta-kl"
            )

    def score(self, record: Mapping[str, Any]) -> float | None:
        """Compute the negative ELBO of real samples with the objective's weights."""
        rec, kl = record.get("rec"), record.get("kl_real")
        return None if rec is None or kl is None else self.beta_rec * rec + self.beta_kl * kl

    def for_warm_up(self) -> VAEObjective:
        """Return a plain VAE with the same weights."""
        return VAEObjective(beta_rec=self.beta_rec, beta_kl=self.beta_kl, kind=self.kind, perceptual=self.perceptual)

    def symptoms(self, usual: Usual) -> list[Symptom]:
        """See :meth:`Objective.symptoms`."""
        kl_real, kl_fake = usual("kl_real"), usual("kl_fake")
        beside = "rec" if math.isnan(kl_fake) else "kl_fake"
        if not far_above(kl_real, FAR, usual(beside)):
            return []
        against = f"(kl_real {kl_real:.4g} against {usual(beside):.4g})"
        return [Symptom(f"the KL of real samples is far above {beside} {against}", "raise --beta-kl, to double")]

    def automatic_beta_neg(self, kl_real: KLAverage | None, kl_fakes: Tensor, scale: float) -> Tensor | None:
        """Compute the current beta_neg, a scalar on the device of `kl_fakes`; None if it is no automatic one.

        Args:
            kl_real: running mean of the real samples' kl; None where :attr:`follows_kl` is false.
            kl_fakes: kl of the fakes.
            scale: the constant s.
        """
        return None

    def scaled(self, neg_factor: float) -> ElboObjective:
        """Return the objective with beta_neg multiplied by a factor, if it has one."""
        return self

    def step_class(self) -> Callable[..., Step]:
        """Return the class of the step after the warm-up."""
        raise NotImplementedError

    def make_step(self, *pair: Any, warm_up: bool = False, neg_factor: float = 1.0, **options: Any) -> Step:
        """See :meth:`Objective.make_step`."""
        if warm_up:
            return self.for_warm_up().make_step(*pair, **options)
        return self.step_class()(*pair, self.scaled(neg_factor), **options)


@dataclass(frozen=True, kw_only=True)
class _ClassWeight(ElboObjective):
    """An ELBO with an optional separate weight for the class's part of the kl."""

    beta_kl_class: float | None = setting(
        None,
        help="Weight of the class's part of the KL divergence; --beta-kl then is the weight of the content's part.",
        within=NOT_NEGATIVE,
        need=OF_CLASSES,
        unset="--beta-kl",
        since=None,
        changeable=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_class_weight("beta_kl_class", "beta_kl")

    def _check_class_weight(self, of_class: str, of_content: str) -> None:
        if getattr(self, of_class) is not None and getattr(self, of_content) == 0:
            raise ConfigError(
                f"{of_content} = 0: {of_class} is applied relative to it, expected more than 0; choose a small value"
            )

    @property
    def class_kl_share(self) -> float:
        """See :attr:`Objective.class_kl_share`."""
        return _share(self.beta_kl_class, self.beta_kl)

    def score(self, record: Mapping[str, Any]) -> float | None:
        """See :meth:`ElboObjective.score`."""
        score = super().score(record)
        if score is None or self.beta_kl_class is None:
            return score
        return score + (self.beta_kl_class - self.beta_kl) * float(record.get("kl_real_class", 0.0))

    def for_warm_up(self) -> VAEObjective:
        """See :meth:`Objective.for_warm_up`."""
        return super().for_warm_up().changed(beta_kl_class=self.beta_kl_class)


@dataclass(frozen=True, kw_only=True)
class VAEObjective(_ClassWeight):
    """The negative ELBO, beta_rec rec + beta_kl kl, averaged over the batch.

    Args:
        beta_rec, beta_kl: weights, at least 0.
        beta_kl_class: weight of the class's part of the kl, for models that separate the class from the content;
            beta_kl is then the content's weight. None: beta_kl.
        kind: the reconstruction error, see `sivae.ops.reconstruction_error`. "gaussian" is the squared error over
            2 sigma^2, where sigma^2 is the running mean of the squared error of a value: the variance of the
            decoder that makes the data most likely (sigma-VAE, Rybkin et al., ICML 2021). The record's rec is then
            -log p(x|z) in nats, and it has decoder_std, sigma.
        perceptual: file of VGG-16's weights, for a perceptual error instead of `kind`.

    Raises:
        ConfigError: a value is out of range.
    """

    NAME: ClassVar[str] = "vae"
    WARMS_UP: ClassVar[bool] = False

    def loss(self, rec: Tensor, kl: Tensor) -> Tensor:
        """Compute the loss, a scalar, from rec and kl [B]."""
        return self.beta_rec * rec.mean() + self.beta_kl * kl.mean()

    def loss_of(self, rec: Tensor, kl: Tensor, latents: Latents) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss, a scalar, and further values for the record, detached scalars by name.

        Args:
            rec, kl: [B].
            latents: the posteriors that kl was computed from, and draws from them.
        """
        return self.loss(rec, kl), {}

    def step_class(self) -> Callable[..., Step]:
        """See :meth:`ElboObjective.step_class`."""
        from sivae.method.vae import VAEStep

        return VAEStep


@dataclass(frozen=True, kw_only=True)
class IntroObjective(ElboObjective):
    """IntroVAE's hinge (Huang et al., NeurIPS 2018, Eqs. 11 and 12), on each sample before the batch mean.

    encoder: beta_kl kl(real) + alpha sum_f [margin - kl(f)]+ + beta_rec rec
    decoder: alpha sum_f kl(f) + beta_rec rec

    Args:
        beta_rec, beta_kl: weights of the real sample's terms.
        margin: m, the kl in nats up to which a fake is pushed away. The default is for 2D data with two latent values,
            where it was the best of the tested values (docs/experiments.md); for images it grows with the latent
            (IntroVAE used 90 to 110 for 512 values).
        alpha: weight of the fakes, above 0.
        fakes: the kinds of fakes that are used: "prior", "reconstruction", or both.
        kind, perceptual: the reconstruction error, as for :class:`VAEObjective`.

    Raises:
        ConfigError: a value is out of range.
    """

    NAME: ClassVar[str] = "intro"
    SHARES_PASSES: ClassVar[bool] = True
    class_neg_share: ClassVar[float] = 1.0
    semantics: ClassVar[Semantics] = "official"
    needs_fake_rec: ClassVar[bool] = False
    decoder_fake_kl_matters: ClassVar[bool] = True
    decoder_fake_rec_matters: ClassVar[bool] = False

    fakes: tuple[Fake, ...] = setting(FAKES, help="The samples that count as fakes: one kind or both.")
    alpha: float = setting(0.25, help="Weight of the adversarial terms.", within=POSITIVE, changeable=True)
    margin: float = setting(
        5.0,
        help="Smallest KL divergence, in nats, that the encoder should give a fake.",
        within=NOT_NEGATIVE,
        changeable=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_fakes(self.fakes)

    def scale_for(self, elements: int) -> float:
        """Return the constant that multiplies every ELBO: 1."""
        return 1.0

    def encoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> tuple[Tensor, None]:
        """Compute the fakes' part of the encoder's loss, a scalar."""
        return self.alpha * (self.margin - kl_fakes).relu().mean(1).sum(), None

    def decoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> Tensor:
        """Compute the fakes' part of the decoder's loss, a scalar."""
        return self.alpha * kl_fakes.mean(1).sum()

    def symptoms(self, usual: Usual) -> list[Symptom]:
        """See :meth:`Objective.symptoms`."""
        return [*_running_away(usual, "lower --margin, or --alpha"), *super().symptoms(usual)]

    def step_class(self) -> Callable[..., Step]:
        """See :meth:`ElboObjective.step_class`."""
        from sivae.method.soft_intro import IntroStep

        return IntroStep


class _Default(float):
    """A number that was not given, so that a copy of the record may have another one."""


@dataclass(frozen=True, kw_only=True)
class SoftIntroObjective(_ClassWeight):
    """Soft-IntroVAE (Daniel & Tamar 2021, Algorithm 1), written as losses to minimize.

    encoder: s (beta_rec rec + beta_kl kl) + mean_f (1/alpha) exp(-alpha s (beta_rec rec(f) + beta_neg kl(f)))
    decoder: s beta_rec rec + gamma s mean_f (beta_kl kl(f) + gamma_r beta_rec rec(f))

    Args:
        beta_rec, beta_kl: weights of the reconstruction error and of the kl.
        beta_neg: weight of the fakes' kl in the encoder's exponential. "auto": the step sets it in each iteration by
            neg_push and the running mean of kl(real) over the iterations before.
        neg_push: for beta_neg "auto". The encoder's loss rises with the kl of a real sample by s beta_kl, and falls
            with the kl of a fake by s beta_neg exp(-alpha s beta_neg kl), where its rec is 0. neg_push is the second
            slope over the first for a fake that has the mean kl of real samples.
        beta_kl_class, beta_neg_class: weights of the class's part of the kl, for models that separate the class from
            the content; beta_kl and beta_neg are then the content's weights. None: the same.
        gamma_r: weight of the fakes' reconstruction error in the decoder's loss. None: 1e-8, or 1 with `bootstrap`; a
            copy with another `bootstrap` then gets its default, while a number that was given, or read from a file,
            stays. The term is not computed if the weight is at most 2^-24, which float32 does not resolve.
        gamma: weight of the fakes in the decoder's loss. With gamma_r = 1 it is the paper's gamma: the optimum
            minimizes KL(p_data || p_d) + gamma H(p_d).
        alpha: sharpness of the exponential.
        scale: the constant s; None is 1 / (elements of one sample).
        semantics: "official", as the authors' program, or "paper", as Algorithm 1. They differ in two gradients.
            In the encoder's rec(f) of a reconstruction, official lets a gradient through the target x_f; paper does
            not. In the decoder's gamma_r term, official detaches x_f and z and trains the outer decode x_ff; paper
            detaches x_ff and trains x_f.
        bootstrap: a target decoder, a frozen copy of the decoder, computes x_ff in both updates, as in the authors'
            bootstrap program; a run copies the decoder anew every `bootstrap` epochs. In the decoder's gamma_r term
            nothing is detached then, so it trains x_f on both sides of the error, and `semantics` decides only about
            the encoder's rec(f). None: the decoder itself computes x_ff.
        fakes: the kinds of fakes that are used: ("prior",) in Algorithm 1, both kinds in the authors' program.
        kind, perceptual: the reconstruction error, as for :class:`VAEObjective`.

    Raises:
        ConfigError: a value is out of range.
    """

    NAME: ClassVar[str] = "soft-intro"
    SHARES_PASSES: ClassVar[bool] = True

    beta_neg: float | Literal["auto"] = setting(
        256.0,
        help="Weight of the KL divergence of fakes in the encoder's update. auto: it follows the KL divergence of real "
        f"samples, as --neg-push says (by default {NEG_PUSH:g}).",
        within=NOT_NEGATIVE,
        changeable=True,
    )
    neg_push: float = setting(
        NEG_PUSH,
        help="With --beta-neg auto: how hard the encoder pushes away a fake that has the KL divergence of real "
        "samples, relative to how hard it pulls real samples to the prior.",
        within=POSITIVE,
        need=Need(lambda config: config.objective.follows_kl, "it has an effect only with beta_neg auto"),
        since=NEG_PUSH,
        changeable=True,
    )
    beta_neg_class: float | None = setting(
        None,
        help="Weight of the class's part of the KL divergence of fakes; --beta-neg then is the weight of the "
        "content's part.",
        within=NOT_NEGATIVE,
        need=OF_CLASSES,
        unset="--beta-neg",
        since=None,
        changeable=True,
    )
    gamma_r: float | None = setting(
        None,
        help="Weight of the fakes' reconstruction error in the decoder's update; with "
        f"--target-decoder-every it is {BOOTSTRAP_GAMMA_R:g} unless given.",
        within=NOT_NEGATIVE,
        changeable=True,
    )
    gamma: float = setting(
        1.0, help="Weight of the fakes in the decoder's update.", within=NOT_NEGATIVE, since=1.0, changeable=True
    )
    alpha: float = setting(2.0, help="Sharpness of the exponential.", within=POSITIVE, changeable=True)
    scale: float | None = setting(
        None,
        help="The constant that multiplies every ELBO.",
        within=POSITIVE,
        unset="1 / (values of one sample)",
        changeable=True,
    )
    semantics: Semantics = setting(
        "official", help="Use the gradients of the published code (official) or of the paper's Algorithm 1 (paper)."
    )
    bootstrap: float | None = setting(
        None,
        help="Have a frozen copy of the decoder, the target decoder, decode the re-encoded fakes, and copy the decoder "
        f"anew every so many epochs. With a density, which has no epochs, 1 means {ENDLESS_EPOCH:,} iterations.",
        within=POSITIVE,
        option="target-decoder-every",
        metavar="EPOCHS",
        unset="no target decoder",
        since=None,
    )
    fakes: tuple[Fake, ...] = setting(FAKES, help="The samples that count as fakes: one kind or both.")

    def __post_init__(self) -> None:
        default = self.gamma_r is None or isinstance(self.gamma_r, _Default)  # a copy gets the default as a value
        super().__post_init__()
        _check_fakes(self.fakes)
        if default:
            object.__setattr__(self, "gamma_r", _Default(GAMMA_R if self.bootstrap is None else BOOTSTRAP_GAMMA_R))
        if self.follows_kl and self.beta_neg_class is not None:
            raise ConfigError(
                f"beta_neg = 'auto': beta_neg_class = {self.beta_neg_class:g} is applied relative to it, expected a "
                "number; give beta_neg one"
            )
        self._check_class_weight("beta_neg_class", "beta_neg")
        if self.follows_kl and self.beta_kl == 0:
            raise ConfigError("beta_kl = 0: an automatic beta_neg is relative to it; choose more, or a fixed beta_neg")

    @property
    def target_every(self) -> float | None:
        """See :attr:`Objective.target_every`."""
        return self.bootstrap

    @property
    def follows_kl(self) -> bool:
        """See :attr:`Objective.follows_kl`."""
        return self.beta_neg == "auto"

    def automatic_beta_neg(self, kl_real: KLAverage | None, kl_fakes: Tensor, scale: float) -> Tensor | None:
        """See :meth:`ElboObjective.automatic_beta_neg`. Before the first iteration it is beta_kl."""
        if kl_real is None or not self.follows_kl:
            return None
        import torch

        unit = self.alpha * scale * kl_real.mean(kl_fakes)  # exponents for each unit of beta_neg
        exponent = _larger_exponent(self.neg_push * self.beta_kl * unit)
        return torch.where(unit.isnan(), self.beta_kl, exponent / unit)

    def strongest_push(self, beta_neg: float) -> float | None:
        """See :meth:`Objective.strongest_push`."""
        push = beta_neg / (math.e * self.beta_kl) if self.follows_kl else math.inf
        return push if push < self.neg_push * (1.0 - NEGLIGIBLE) else None

    @property
    def needs_fake_rec(self) -> bool:
        """Whether the encoder's loss depends on the fakes' reconstruction error."""
        return self.beta_rec > 0.0

    @property
    def decoder_fake_rec_matters(self) -> bool:
        """Whether the fakes' reconstruction error changes the decoder's loss in float32."""
        assert self.gamma_r is not None
        return self.gamma_r > NEGLIGIBLE and self.beta_rec > 0.0 and self.gamma > 0.0

    @property
    def decoder_fake_kl_matters(self) -> bool:
        """Whether the decoder's loss depends on the fakes' kl."""
        return self.beta_kl > 0.0 and self.gamma > 0.0

    @property
    def class_neg_share(self) -> float:
        """Weight of the class's part of the kl in the encoder's exponential, relative to the content's part."""
        return 1.0 if self.beta_neg == "auto" else _share(self.beta_neg_class, self.beta_neg)

    def scale_for(self, elements: int) -> float:
        """Return the constant s for samples of this number of elements."""
        return 1.0 / elements if self.scale is None else self.scale

    def encoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Compute the fakes' part of the encoder's loss, and the mean exp-ELBO of each kind of fake, [F].

        With an automatic beta_neg, `kl_fakes` has its weight already.
        """
        from sivae import ops

        rec = kl_fakes.new_zeros(kl_fakes.shape) if rec_fakes is None else rec_fakes  # None if beta_rec is 0
        exp_elbo = ops.exp_elbo(
            rec.flatten(),
            kl_fakes.flatten(),
            scale=scale,
            beta_rec=self.beta_rec,
            beta_kl=1.0 if self.beta_neg == "auto" else self.beta_neg,
            alpha=self.alpha,
            reduction="none",
        )
        per_kind = exp_elbo.view_as(kl_fakes).mean(1)  # [F]
        return per_kind.mean(), per_kind

    def decoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> Tensor:
        """Compute the fakes' part of the decoder's loss, a scalar."""
        loss = scale * self.beta_kl * kl_fakes.mean()
        if rec_fakes is not None:
            assert self.gamma_r is not None
            loss = loss + scale * self.gamma_r * self.beta_rec * rec_fakes.mean()
        return loss if self.gamma == 1.0 else self.gamma * loss

    def check(self, config: Any) -> None:
        """See :meth:`Objective.check`."""
        super().check(config)
        if self.follows_kl and config.model.TELLS_CLASS:
            raise ConfigError(
                f"beta_neg = 'auto': the model {config.model.name!r} has a kl of the class and one of the content, "
                "which need weights of their own; give a number"
            )

    def symptoms(self, usual: Usual) -> list[Symptom]:
        """See :meth:`Objective.symptoms`."""
        exp_elbo = usual("exp_elbo_fake")
        if exp_elbo < SATURATED:
            cause = f"the exp-ELBO of fakes is saturated at 0 (lately {exp_elbo:.2g}), so the encoder learns nothing"
            remedy = "lower --beta-neg, to a quarter"
            if self.follows_kl:
                remedy = "give --beta-neg a number, a quarter of that in the records"
            own = [Symptom(f"{cause} from them", remedy)]
        else:
            change = "lower --neg-push, to half" if self.follows_kl else "raise --beta-neg, to double"
            own = _running_away(usual, f"{change}: the exponential then stops pushing fakes sooner")
        return [*own, *super().symptoms(usual)]

    def scaled(self, neg_factor: float) -> SoftIntroObjective:
        """See :meth:`ElboObjective.scaled`. An automatic weight needs no factor."""
        if self.beta_neg == "auto":
            return self
        of_class = self.beta_neg_class
        return dataclasses.replace(
            self,
            beta_neg=self.beta_neg * neg_factor,
            beta_neg_class=None if of_class is None else of_class * neg_factor,
        )

    def step_class(self) -> Callable[..., Step]:
        """See :meth:`ElboObjective.step_class`."""
        from sivae.method.soft_intro import SoftIntroStep

        return SoftIntroStep


@dataclass(frozen=True, kw_only=True)
class LordObjective(Objective):
    """LORD (Gabbay & Hoshen, ICLR 2020): disentanglement in two stages, from images with known classes.

    codes: s rec(x, D(c + sigma eps, y)) + content_decay |c|^2, over a code c of each image and y of each class
    encoders: s rec(x, D(E_c(x), E_y(x))) + code_weight (mean (E_c(x) - c)^2 + mean (E_y(x) - y)^2)

    Args:
        content_noise: sigma, which limits the information in a content code.
        content_decay: weight of the content codes' squared length.
        code_weight: weight of the encoders' distance from the codes of the first stage.
        scale: the constant s; None is 1 / (elements of one sample), which makes the error a mean, as in LORD.
        kind, perceptual: the reconstruction error, as for :class:`VAEObjective`. LORD's own error is perceptual.

    Raises:
        ConfigError: a value is out of range.
    """

    NAME: ClassVar[str] = "lord"
    DEFAULT_KIND: ClassVar[ErrorKind] = "l1"
    TAKES_PAIRS: ClassVar[bool] = False
    USES_CODES: ClassVar[bool] = True

    content_noise: float = setting(1.0, help="Noise on the content codes.", within=NOT_NEGATIVE, changeable=True)
    content_decay: float = setting(
        1e-3, help="Weight of the content codes' squared length.", within=NOT_NEGATIVE, changeable=True
    )
    code_weight: float = setting(
        10.0, help="Weight of the encoders' distance from the codes.", within=NOT_NEGATIVE, changeable=True
    )
    scale: float | None = setting(
        None,
        help="The constant that multiplies the reconstruction error.",
        within=POSITIVE,
        unset="1 / (values of one sample)",
        changeable=True,
    )

    def scale_for(self, elements: int) -> float:
        """Return the constant s for samples of this number of elements."""
        return 1.0 / elements if self.scale is None else self.scale

    def check(self, config: Any) -> None:
        """See :meth:`Objective.check`; the warm-up is LORD's first stage."""
        super().check(config)
        if not config.model.HAS_CODES:
            raise ConfigError(
                f"objective = 'lord': the model {config.model.name!r} has no codes of classes; choose another objective"
            )
        if config.freeze == "encoder":
            raise ConfigError(
                "freeze = 'encoder': LORD's first stage does not use the encoders, and its second stage is there to "
                "train them; leave it out"
            )
        share, steps = config.warmup_fraction, config.steps
        both = 0 < share < 1 if steps is None else 0 < round(share * steps) < steps
        if not both:
            raise ConfigError(
                f"warmup_fraction = {share}: it is the share of LORD's first stage, and both of its stages have to "
                "train; choose one between 0 and 1"
            )

    def make_step(self, *pair: Any, warm_up: bool = False, neg_factor: float = 1.0, **options: Any) -> Step:
        """See :meth:`Objective.make_step`."""
        from sivae.method.lord import LordStep

        return LordStep(*pair, self, stage="codes" if warm_up else "encoders", **options)


def _larger_exponent(product: Tensor) -> Tensor:
    """Solve u exp(-u) = product for u >= 1, a scalar; 1 where the product is above exp(-1), the largest that there is.

    This is -W(-product) with the lower branch of Lambert's W. The first value is within a few percent (Chatzigeorgiou,
    "Bounds on the Lambert function", 2013), and Newton's method doubles the correct digits.
    """
    beyond = (-1.0 - product.log()).clamp_min(0.0)
    u = 1.0 + (2.0 * beyond).sqrt() + (2.0 / 3.0) * beyond
    for _ in range(3):
        u = u - (u - u.log() - 1.0 - beyond) * u / (u - 1.0).clamp_min(1e-3)
    return u.clamp_min(1.0)


def far_above(value: float, factor: float, usual: float) -> bool:
    """Tell whether a value is more than `factor` times a usual one; False if one of them is NaN.

    An error in nats, -log p, may be usually 0 or less. It has no multiples then, and only infinity is far above it.
    """
    return value > factor * usual if usual > 0 else value == math.inf and not math.isnan(usual)


def _running_away(usual: Usual, remedy: str) -> list[Symptom]:
    kl_real, kl_fake = usual("kl_real"), usual("kl_fake")
    if not far_above(kl_fake, FAR, kl_real):
        return []
    return [Symptom(f"the KL of fakes runs away (kl_fake {kl_fake:.4g} against kl_real {kl_real:.4g})", remedy)]


def _share(of_class: float | None, of_content: float) -> float:
    return 1.0 if of_class is None else of_class / of_content


def _check_fakes(fakes: tuple[Fake, ...]) -> None:
    if not fakes or len(set(fakes)) != len(fakes):
        raise ConfigError(f"fakes = {show(list(fakes))}: name prior, reconstruction, or both, each once")
