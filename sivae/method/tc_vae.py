"""β-TC-VAE (Chen et al., NeurIPS 2018): a VAE with a weight on the dependence between latent values."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sivae.errors import ConfigError
from sivae.fields import NOT_NEGATIVE, setting
from sivae.method.objectives import ElboObjective, Latents, Step

if TYPE_CHECKING:
    from torch import Tensor


_LOG_2_PI = math.log(2.0 * math.pi)


@dataclass(frozen=True, kw_only=True)
class TCVAEObjective(ElboObjective):
    """beta_rec rec + beta_kl (MI + dimension-wise KL) + beta_tc TC (Chen et al. 2018, Eq. 4).

    With q(z) the mixture of all training samples' posteriors, the mean kl is the sum of three parts: the mutual
    information MI = E log q(z|x) / q(z), the total correlation TC = E log q(z) / prod_d q(z_d), and the dimension-wise
    KL = E log prod_d q(z_d) / p(z). So with beta_tc = beta_kl the objective estimates the loss of a VAE.

    q(z) is estimated by minibatch-weighted sampling (Eq. 3): for a batch of M out of N training samples,
    log q(z_i) = log sum_j q(z_i | x_j) - log(N M). The batch here is the rows that one process passes through the
    networks at a time, without the rows of other processes or of other parts of an accumulated batch.

    Args:
        beta_rec: weight of the reconstruction error.
        beta_kl: weight of MI and dimension-wise KL.
        beta_tc: weight of the total correlation.
        kind, perceptual: the reconstruction error, as for :class:`sivae.objectives.VAEObjective`.

    Raises:
        ConfigError: a value is out of range.
    """

    NAME: ClassVar[str] = "tc-vae"

    beta_tc: float = setting(
        6.0,
        help="Weight of the total correlation, the dependence between latent values; as much as --beta-kl makes a "
        "plain VAE.",
        within=NOT_NEGATIVE,
        changeable=True,
    )

    def loss_of(self, rec: Tensor, kl: Tensor, latents: Latents) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss and the parts of the kl.

        Args:
            rec, kl: [B]; kl is not used, because its parts are estimated from the draws.
            latents: z, mu and logvar [B, *latent_shape], and the number of training samples.

        Returns:
            The loss, a scalar; and mutual_information, total_correlation and dimension_kl, detached batch means.

        Raises:
            ValueError: the number of training samples is unknown.
        """
        if latents.data_size is None:
            raise ValueError("TCVAEObjective: the number of training samples is needed; give StepOptions(data_size=N)")
        of_posterior, of_mixture, of_product, of_prior = log_densities(*latents[:3], latents.data_size)
        mutual_information = (of_posterior - of_mixture).mean()
        total_correlation = (of_mixture - of_product).mean()
        dimension_kl = (of_product - of_prior).mean()
        loss = (
            self.beta_rec * rec.mean()
            + self.beta_kl * (mutual_information + dimension_kl)
            + self.beta_tc * total_correlation
        )
        return loss, {
            "mutual_information": mutual_information.detach(),
            "total_correlation": total_correlation.detach(),
            "dimension_kl": dimension_kl.detach(),
        }

    def score(self, record: Mapping[str, Any]) -> float | None:
        """The loss of the record's batch means; None while a plain VAE warms up."""
        names = ("rec", "mutual_information", "dimension_kl", "total_correlation")
        rec, mutual_information, dimension_kl, total_correlation = (record.get(name) for name in names)
        if rec is None or mutual_information is None or dimension_kl is None or total_correlation is None:
            return None
        kl = float(mutual_information + dimension_kl)
        return self.beta_rec * float(rec) + self.beta_kl * kl + self.beta_tc * float(total_correlation)

    def check(self, config: Any) -> None:
        """See :meth:`sivae.objectives.Objective.check`."""
        super().check(config)
        if config.model.prior != "standard":
            raise ConfigError(
                f"prior = {config.model.prior!r}: the objective {self.NAME!r} takes the kl apart by the values of z, "
                "which only the standard prior allows; leave it out, or choose another objective"
            )
        if config.data.ENDLESS:
            raise ConfigError(
                f"objective = {self.NAME!r}: it needs the number of training samples, and the data "
                f"{config.data.name!r} is endless; choose another objective, or a preset of images"
            )
        if not config.growth.grows and config.batch_size // config.accumulate < 2:
            raise ConfigError(
                f"objective = {self.NAME!r}: it compares the images that pass together, and with batch_size = "
                f"{config.batch_size} and accumulate = {config.accumulate} one passes alone; choose more or fewer parts"
            )

    def step_class(self) -> Callable[..., Step]:
        """See :meth:`ElboObjective.step_class`."""
        from sivae.method.vae import VAEStep

        return VAEStep


def log_densities(z: Tensor, mu: Tensor, logvar: Tensor, data_size: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Estimate log q(z|x), log q(z), log prod_d q(z_d) and log p(z) of draws z, [B] each.

    Args:
        z: draws from N(mu, exp(logvar)), [B, *latent_shape].
        mu, logvar: parameters of the posteriors, in the shape of z.
        data_size: N, the number of training samples.
    """
    z, mu, logvar = (values.flatten(1) for values in (z, mu, logvar))
    # log q(z_i,d | x_j,d) of each draw i under each posterior j.
    pairs = _log_normal(z[:, None], mu[None], logvar[None])  # [B, B, z_dim]
    of_batch = math.log(data_size * len(z))
    of_posterior = pairs.diagonal(dim1=0, dim2=1).sum(0)
    of_mixture = pairs.sum(2).logsumexp(1) - of_batch
    of_product = (pairs.logsumexp(1) - of_batch).sum(1)
    of_prior = -0.5 * (z.square() + _LOG_2_PI).sum(1)
    return of_posterior, of_mixture, of_product, of_prior


def _log_normal(z: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
    return -0.5 * ((z - mu).square() * (-logvar).exp() + logvar + _LOG_2_PI)
