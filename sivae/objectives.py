"""What is minimised: VAE, IntroVAE and Soft-IntroVAE as functions of the per-sample rec and kl.

Notation of "Soft-IntroVAE" (Daniel & Tamar, CVPR 2021): rec is the summed reconstruction error of a sample, kl its
divergence from the prior in nats, a fake f is a decoded prior sample or a reconstruction, decoded from outside the
data. `rec_fakes` and `kl_fakes` are [F, B], one row per kind of fake.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from sivae import ops
from sivae.ops.library import KINDS

Semantics = Literal["official", "paper"]
Fake = Literal["prior", "reconstruction"]
FAKES: tuple[Fake, ...] = get_args(Fake)

NEGLIGIBLE = 2.0**-24  # a weight this small beside another is below float32's resolution


@dataclass(frozen=True, kw_only=True)
class VAEObjective:
    """The negative ELBO, beta_rec rec + beta_kl kl, averaged over the batch.

    Args:
        beta_rec, beta_kl: weights, at least 0.
        beta_kl_class: the weight of the class's share of the kl, for models that tell it apart; beta_kl is then the
            content's. None: beta_kl.
        kind: the reconstruction error, see `sivae.ops.reconstruction_error`.
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    beta_kl_class: float | None = None
    kind: str = "mse"

    def __post_init__(self) -> None:
        _check_weights(self, "beta_rec", "beta_kl")
        _check_class_weight(self, "beta_kl_class", "beta_kl")
        _check_kind(self)

    @property
    def class_kl_share(self) -> float:
        """What a nat of the class counts for one of the content."""
        return _share(self.beta_kl_class, self.beta_kl)

    def loss(self, rec: Tensor, kl: Tensor) -> Tensor:
        """rec, kl [B] -> scalar."""
        return self.beta_rec * rec.mean() + self.beta_kl * kl.mean()


@dataclass(frozen=True, kw_only=True)
class IntroObjective:
    """IntroVAE's hinge (Huang et al., NeurIPS 2018, Eqs. 11 and 12), on each sample before the batch mean.

    encoder: beta_kl kl(real) + alpha sum_f [margin - kl(f)]+ + beta_rec rec
    decoder: alpha sum_f kl(f) + beta_rec rec

    Args:
        beta_rec, beta_kl: weights of the real sample's terms.
        margin: m, the kl in nats up to which a fake is pushed away. The default is for 2D data with a latent of 2,
            where it did best of those tried (docs/experiments.md); for images it grows with the latent (IntroVAE used
            90 to 110 for 512).
        alpha: weight of the fakes, above 0.
        fakes: which fakes enter, out of "prior" and "reconstruction".
        kind: the reconstruction error, see `sivae.ops.reconstruction_error`.
    """

    class_kl_share = class_neg_share = 1.0
    beta_rec: float = 1.0
    beta_kl: float = 1.0
    margin: float = 5.0
    alpha: float = 0.25
    fakes: tuple[Fake, ...] = FAKES
    kind: str = "mse"

    semantics = "official"
    needs_fake_rec = False
    decoder_fake_kl_matters = True
    decoder_fake_rec_matters = False

    def __post_init__(self) -> None:
        _check_weights(self, "beta_rec", "beta_kl", "margin")
        _check_positive(self, "alpha", self.alpha)
        _check_kind(self)
        _check_fakes(self)

    def scale_for(self, elements: int) -> float:
        return 1.0

    def encoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> tuple[Tensor, None]:
        return self.alpha * (self.margin - kl_fakes).relu().mean(1).sum(), None

    def decoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> Tensor:
        return self.alpha * kl_fakes.mean(1).sum()


@dataclass(frozen=True, kw_only=True)
class SoftIntroObjective:
    """Soft-IntroVAE (Daniel & Tamar 2021, Algorithm 1), written as losses to minimise.

    encoder: s (beta_rec rec + beta_kl kl) + mean_f (1/alpha) exp(-alpha s (beta_rec rec(f) + beta_neg kl(f)))
    decoder: s beta_rec rec + gamma s mean_f (beta_kl kl(f) + gamma_r beta_rec rec(f))

    Args:
        beta_rec, beta_kl: weights of the reconstruction error and of the kl.
        beta_neg: weight of the fakes' kl in the encoder's exponential.
        beta_kl_class, beta_neg_class: the weights of the class's share of the kl, for models that tell it apart;
            beta_kl and beta_neg are then the content's. None: the same.
        gamma_r: weight of the fakes' reconstruction error in the decoder's loss. Terms below 2^-24 of the term beside
            them (the default is) are not computed.
        gamma: weight of the fakes in the decoder's loss. With gamma_r 1 it is the paper's, by which the optimum
            minimises KL(p_data || p_d) + gamma H(p_d).
        alpha: sharpness of the exponential.
        scale: the constant s; None is 1 / (elements of one sample).
        semantics: "official", as the authors' program, or "paper", as Algorithm 1. They differ in two gradients.
            In the encoder's rec(f) of a reconstruction, official lets a gradient through the target x_f; paper does
            not. In the decoder's gamma_r term, official detaches x_f and z and trains the outer decode x_ff; paper
            detaches x_ff and trains x_f.
        fakes: which fakes enter; Algorithm 1 has ("prior",), the authors' program both.
        kind: the reconstruction error, see `sivae.ops.reconstruction_error`.
    """

    beta_rec: float = 1.0
    beta_kl: float = 1.0
    beta_neg: float = 256.0
    beta_kl_class: float | None = None
    beta_neg_class: float | None = None
    gamma_r: float = 1e-8
    gamma: float = 1.0
    alpha: float = 2.0
    scale: float | None = None
    semantics: Semantics = "official"
    fakes: tuple[Fake, ...] = FAKES
    kind: str = "mse"

    def __post_init__(self) -> None:
        _check_weights(self, "beta_rec", "beta_kl", "beta_neg", "gamma_r", "gamma")
        _check_class_weight(self, "beta_kl_class", "beta_kl")
        _check_class_weight(self, "beta_neg_class", "beta_neg")
        _check_positive(self, "alpha", self.alpha)
        if self.scale is not None:
            _check_positive(self, "scale", self.scale)
        if self.semantics not in get_args(Semantics):
            raise ValueError(f"SoftIntroObjective: semantics is {self.semantics!r}, expected 'official' or 'paper'")
        _check_kind(self)
        _check_fakes(self)

    @property
    def needs_fake_rec(self) -> bool:
        return self.beta_rec > 0.0

    @property
    def decoder_fake_rec_matters(self) -> bool:
        return self.gamma_r > NEGLIGIBLE and self.beta_rec > 0.0 and self.gamma > 0.0

    @property
    def decoder_fake_kl_matters(self) -> bool:
        return self.beta_kl > 0.0 and self.gamma > 0.0

    @property
    def class_kl_share(self) -> float:
        """What a nat of the class counts for one of the content."""
        return _share(self.beta_kl_class, self.beta_kl)

    @property
    def class_neg_share(self) -> float:
        """Likewise, in the encoder's exponential."""
        return _share(self.beta_neg_class, self.beta_neg)

    def scale_for(self, elements: int) -> float:
        """s for samples of that many elements."""
        return 1.0 / elements if self.scale is None else self.scale

    def encoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """The fakes' share of the encoder's loss, and the mean exp-ELBO of each kind of fake, [F]."""
        rec = torch.zeros_like(kl_fakes) if rec_fakes is None else rec_fakes  # absent where beta_rec is 0
        exp_elbo = ops.exp_elbo(
            rec.flatten(),
            kl_fakes.flatten(),
            scale=scale,
            beta_rec=self.beta_rec,
            beta_kl=self.beta_neg,
            alpha=self.alpha,
            reduction="none",
        )
        per_kind = exp_elbo.view_as(kl_fakes).mean(1)  # [F]
        return per_kind.mean(), per_kind

    def decoder_fake_loss(self, rec_fakes: Tensor | None, kl_fakes: Tensor, scale: float) -> Tensor:
        """The fakes' share of the decoder's loss."""
        loss = scale * self.beta_kl * kl_fakes.mean()
        if rec_fakes is not None:
            loss = loss + scale * self.gamma_r * self.beta_rec * rec_fakes.mean()
        return loss if self.gamma == 1.0 else self.gamma * loss


@dataclass(frozen=True, kw_only=True)
class LordObjective:
    """LORD (Gabbay & Hoshen, ICLR 2020): disentanglement with the class of every image known, in two stages.

    codes: s rec(x, D(c + sigma eps, y)) + content_decay |c|^2, over a code c of each image and y of each class
    encoders: s rec(x, D(E_c(x), E_y(x))) + code_weight (mean (E_c(x) - c)^2 + mean (E_y(x) - y)^2)

    Args:
        content_noise: sigma, which limits what a content code can say.
        content_decay: weight of the content codes' squared length.
        code_weight: weight of the encoders' distance from the codes of the first stage.
        scale: the constant s; None is 1 / (elements of one sample), which makes the error a mean as LORD's.
        kind: the reconstruction error, see `sivae.ops.reconstruction_error`. LORD's own is perceptual.
    """

    content_noise: float = 1.0
    content_decay: float = 1e-3
    code_weight: float = 10.0
    scale: float | None = None
    kind: str = "l1"

    def __post_init__(self) -> None:
        _check_weights(self, "content_noise", "content_decay", "code_weight")
        if self.scale is not None:
            _check_positive(self, "scale", self.scale)
        _check_kind(self)

    def scale_for(self, elements: int) -> float:
        """s for samples of that many elements."""
        return 1.0 / elements if self.scale is None else self.scale


Objective = VAEObjective | IntroObjective | SoftIntroObjective | LordObjective


def _check_weights(objective: object, *names: str) -> None:
    for name in names:
        value = getattr(objective, name)
        if not (math.isfinite(value) and value >= 0.0):
            raise ValueError(f"{type(objective).__name__}: {name} is {value}, expected a finite number of at least 0")


def _share(of_class: float | None, of_content: float) -> float:
    return 1.0 if of_class is None else of_class / of_content


def _check_class_weight(objective: object, name: str, of_content: str) -> None:
    if getattr(objective, name) is None:
        return
    _check_weights(objective, name)
    if getattr(objective, of_content) == 0.0:
        raise ValueError(f"{type(objective).__name__}: {name} is given, so {of_content} has to be above 0")


def _check_positive(objective: object, name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0.0):
        raise ValueError(f"{type(objective).__name__}: {name} is {value}, expected a finite number above 0")


def _check_kind(objective: Objective) -> None:
    if objective.kind not in KINDS:
        raise ValueError(
            f"{type(objective).__name__}: kind is {objective.kind!r}, expected one of {', '.join(map(repr, KINDS))}"
        )


def _check_fakes(objective: IntroObjective | SoftIntroObjective) -> None:
    fakes = objective.fakes
    if not fakes or len(set(fakes)) != len(fakes) or not set(fakes) <= set(FAKES):
        raise ValueError(
            f"{type(objective).__name__}: fakes is {fakes!r}, expected 'prior', 'reconstruction' or both, once each"
        )
