"""Fit a mixture of Gaussians to the latents of a trained model, and make it the model's prior."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from sivae.bounds import PRIOR_COMPONENTS
from sivae.errors import ConfigError
from sivae.models import VAEModel
from sivae.models.base import evaluating
from sivae.models.priors import Components, MixturePrior
from sivae.models.registry import build_model
from sivae.progress import counting
from sivae.training.folder import read_config
from sivae.training.tasks.base import Task
from sivae.training.trained import trained

_HELD_OUT = 10  # one latent in so many is not fitted, but measured


class FittedPrior(NamedTuple):
    """A model with a fitted prior.

    Attributes:
        model: the run's last one with a `MixturePrior`, on the CPU, in eval mode.
        step: the iteration of its weights.
        fitted: number of latents that the mixture was fitted to.
        measured: number of other latents for the two values below.
        log_prob: mean log density of these latents under the mixture, in nats.
        log_prob_before: the same under the prior that the model had.
    """

    model: VAEModel
    step: int
    fitted: int
    measured: int
    log_prob: float
    log_prob_before: float


def fit_prior(
    path: str | os.PathLike[str],
    *,
    components: int = 10,
    count: int = 10_000,
    seed: int = 0,
    device: str | None = None,
    show: bool = False,
    notice: Callable[[str], None] = lambda text: None,
) -> FittedPrior:
    """Fit a mixture of diagonal Gaussians to draws from the posteriors of a run's training samples.

    A model's samples are good only where its decoder was trained: at posteriors of samples. If these do not fill
    N(0, 1), as in an autoencoder with a tiny weight of the KL, its own prior misses them, and a fitted one does not
    (Ghosh et al., "From Variational to Deterministic Autoencoders", ICLR 2020). The networks stay as they are.

    Args:
        path: folder of the run.
        components: number of Gaussians, 1 to 10,000. Expectation-maximization of scikit-learn fits them.
        count: number of training samples at most; a tenth of them is held out to measure the fit.
        seed: of the draws and of the first means.
        device: that encodes; None: the run's.
        show: show progress on stderr.
        notice: called with messages, see :func:`sivae.training.trained.trained`.

    Raises:
        ConfigError: the run's model has the standard prior alone, `components` is out of range or more than the
            samples, or the latents are not finite.
        RunFolderError, CheckpointError: the folder is no run's, or has no whole checkpoint.
    """
    folder = Path(path)
    config = read_config(folder)
    if not config.model.LEARNS_PRIOR:
        raise ConfigError(
            f"{folder}: the model {config.model.name!r} has the standard prior alone, so no other can be fitted; "
            "name a run of another model"
        )
    if not 1 <= components <= PRIOR_COMPONENTS:
        raise ConfigError(f"components = {components}: expected 1 to {PRIOR_COMPONENTS:,}")
    if device is not None:
        config = config.replace(device=device)
    with trained(folder, config, for_training=True, notice=notice) as run:
        latents = _latents(run.model, run.task, count, seed, show)
        step, model = run.checkpoint.step, run.model.cpu()
    before = model.prior_components()
    held = np.arange(len(latents)) % _HELD_OUT == _HELD_OUT - 1
    if components > (~held).sum():
        raise ConfigError(
            f"components = {components:,}: expected no more than the {(~held).sum():,} latents to fit; give fewer"
        )
    prior = _fitted(latents[~held], components, seed)
    rest = torch.from_numpy(latents[held]).float()
    own = Components(torch.ones(1), *torch.zeros(2, 1, rest.shape[1])) if before is None else before.detached()
    mine = prior.components(model.encode).detached()
    log_prob, log_prob_before = (float(one.log_prob(rest).mean()) for one in (mine, own))
    return FittedPrior(_with_prior(model, prior), step, int((~held).sum()), len(rest), log_prob, log_prob_before)


@torch.no_grad()
def _latents(model: VAEModel, task: Task, count: int, seed: int, show: bool) -> NDArray[np.float64]:
    """Draw one latent from the posterior of each training sample, in units of the prior: [N, z_dim]."""
    size = task.data_size
    wanted = count if size is None else min(count, size)
    generator = torch.Generator().manual_seed(seed)
    rows: list[torch.Tensor] = []
    found = step = 0
    with evaluating(model), counting("encoding", wanted, enabled=show) as counter:
        while found < wanted:
            step += 1
            x, condition = task.batch(step)
            mu, logvar = (one.flatten(1).double().cpu() for one in model.encode(x, condition))
            draws = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape, generator=generator, dtype=torch.float64)
            rows.append(draws[: wanted - found])
            found += len(rows[-1])
            counter.advance(len(rows[-1]))
    latents = torch.cat(rows)
    if not latents.isfinite().all():
        raise ConfigError("the encoder's latents are not finite, so no prior fits them; take an earlier run")
    return latents.numpy()


def _fitted(latents: NDArray[np.float64], components: int, seed: int) -> MixturePrior:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(components, covariance_type="diag", random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more rounds change little
        mixture.fit(latents)
    prior = MixturePrior(components, latents.shape[1])
    with torch.no_grad():
        prior.logits.copy_(torch.from_numpy(np.log(mixture.weights_)))
        prior.mu.copy_(torch.from_numpy(mixture.means_))
        prior.logvar.copy_(torch.from_numpy(np.log(mixture.covariances_)))
    return prior


def _with_prior(model: VAEModel, prior: MixturePrior) -> VAEModel:
    """Build the model again with another prior."""
    choice = {"prior": "mixture", "prior_components": len(prior.logits)}
    again = build_model(model.name, **{**model.hyperparameters, **choice})
    networks = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("prior.")}
    again.load_state_dict({**networks, **{f"prior.{name}": tensor for name, tensor in prior.state_dict().items()}})
    return again.eval()
