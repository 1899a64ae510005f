"""Fit a mixture of Gaussians to the latents of a trained model, and make it the model's prior."""

from __future__ import annotations

import inspect
import itertools
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sivae.bounds import PRIOR_COMPONENTS
from sivae.data.free_memory import amount, available_memory
from sivae.errors import ConfigError
from sivae.models import VAEModel
from sivae.models.base import evaluating
from sivae.models.priors import Components, MixturePrior
from sivae.models.registry import build_model
from sivae.progress import counting
from sivae.training.folder import read_config
from sivae.training.trained import trained

LEAST = 3  # latents: scikit-learn fits two at least, and one is held out
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
        count: number of training samples at most; a tenth of them is held out to measure the fit. Latents of
            :attr:`VAEModel.z_dim` values take 12 bytes of memory for each value.
        seed: of the draws and of the first means.
        device: that encodes; None: the run's.
        show: show progress on stderr.
        notice: called with messages, see :func:`sivae.training.trained.trained`.

    Raises:
        ConfigError: the run's model has the standard prior alone, `components` is out of range or more than the
            samples, the latents are not finite or do not fit into memory, or there are fewer than 3 samples.
        RunFolderError, CheckpointError: the folder is no run's, or has no whole checkpoint.
    """
    folder = Path(path)
    config = read_config(folder)
    if not config.model.LEARNS_PRIOR:
        raise ConfigError(
            f"{folder}: the model {config.model.name!r} has the standard prior alone, so no other can be fitted; "
            "name a run of another model"
        )
    if device is not None:
        config = config.replace(device=device)
    with trained(folder, config, for_training=True, notice=notice) as run:
        size = run.task.data_size
        batches = (run.task.batch(step) for step in itertools.count(1))
        total = count if size is None else min(count, size)
        return fit_prior_to(
            run.model, batches, total, components=components, seed=seed, show=show, step=run.checkpoint.step
        )


def fit_prior_to(
    model: VAEModel,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    count: int,
    *,
    components: int = 10,
    seed: int = 0,
    show: bool = False,
    step: int = 0,
) -> FittedPrior:
    """Fit a mixture as :func:`fit_prior` does, of any model to the samples of any data.

    Takes three times the latents' memory in float32, that is 12 bytes for each of their values, 24 for each value of a
    Gaussian, and 24 for each pair of a latent and a Gaussian.

    Args:
        model: on the device of the batches; it is moved to the CPU.
        batches: samples [B, *sample_shape] in the model's values and their conditions, `count` samples or more.
        count: number of samples, 3 or more. One in ten of them, one at least, is held out.
        components, seed, show: see :func:`fit_prior`.
        step: the iteration of the model's weights.

    Raises:
        ConfigError: see :func:`fit_prior`; or the memory is too small, or there are fewer than 3 samples.
    """
    if not 1 <= components <= PRIOR_COMPONENTS:
        raise ConfigError(f"components = {components}: expected 1 to {PRIOR_COMPONENTS:,}")
    if "prior" not in inspect.signature(type(model)).parameters:
        raise ConfigError(f"the model {model.name!r} has the standard prior alone, so no other can be fitted")
    if count < LEAST:
        raise ConfigError(f"count = {count}: expected {LEAST} samples or more, two to fit and one to measure")
    places, fitted = _places(count)
    if components > fitted:
        raise ConfigError(
            f"components = {components:,}: expected no more than the {fitted:,} latents to fit; give fewer"
        )
    needed = 4 * (model.z_dim * (3 * count + 6 * components) + 6 * count * components)
    if needed > (free := available_memory()):
        raise ConfigError(
            f"count = {count:,}: fitting {components:,} Gaussians to latents of {model.z_dim:,} values takes "
            f"{amount(needed)}, more than the {amount(free)} free; give a smaller count, or fewer components"
        )
    latents = _latents(model, batches, places, seed, show)
    before = model.prior_components()
    own = Components(torch.ones(1), *torch.zeros(2, 1, model.z_dim)) if before is None else before.detached()
    rest = torch.from_numpy(latents[fitted:])
    model = model.cpu()
    prior = _fitted(latents[:fitted], components, seed)
    mine = prior.components(model.encode).detached()
    log_prob, log_prob_before = (
        float(Components(*(tensor.cpu() for tensor in one)).log_prob(rest).mean()) for one in (mine, own)
    )
    return FittedPrior(_with_prior(model, prior), step, fitted, count - fitted, log_prob, log_prob_before)


def _places(count: int) -> tuple[NDArray[np.int64], int]:
    """Find the row of each sample's latent, those to fit before those held out; return the number of the former too."""
    held = np.arange(count) % _HELD_OUT == _HELD_OUT - 1
    held[-1] |= not held.any()
    places = np.empty(count, np.int64)
    places[np.argsort(held, kind="stable")] = np.arange(count)
    return places, count - int(held.sum())


@torch.no_grad()
def _latents(
    model: VAEModel,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    places: NDArray[np.int64],
    seed: int,
    show: bool,
) -> NDArray[np.float32]:
    """Draw one latent from the posterior of each sample, in units of the prior, to its row: [N, z_dim]."""
    latents = np.empty((len(places), model.z_dim), np.float32)
    generator = torch.Generator().manual_seed(seed)
    found = 0
    with evaluating(model), counting("encoding", len(places), enabled=show) as counter:
        for x, condition in batches:
            mu, logvar = (one.flatten(1).double().cpu() for one in model.encode(x, condition))
            draws = mu + torch.exp(0.5 * logvar) * torch.randn(mu.shape, generator=generator, dtype=torch.float64)
            rows = places[found : found + len(draws)]
            taken = draws[: len(rows)].float()
            if not taken.isfinite().all():
                raise ConfigError("the encoder's latents are not finite, so no prior fits them; take an earlier model")
            latents[rows] = taken.numpy()
            found += len(rows)
            counter.advance(len(rows))
            if found == len(places):
                break
    if found < len(places):
        raise ValueError(f"fit_prior: {found} samples came, expected {len(places)}")
    return latents


def _fitted(latents: NDArray[np.float32], components: int, seed: int) -> MixturePrior:
    """Fit a mixture to rows of latents, which are centered in place: float32 then holds their variances well."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    center = latents.mean(0, dtype=np.float64).astype(np.float32)
    mixture = GaussianMixture(components, covariance_type="diag", random_state=seed % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # more rounds change little
        mixture.fit(np.subtract(latents, center, out=latents))
    prior = MixturePrior(components, latents.shape[1])
    with torch.no_grad():
        prior.logits.copy_(torch.from_numpy(np.log(mixture.weights_)))
        prior.mu.copy_(torch.from_numpy(mixture.means_ + center))
        prior.logvar.copy_(torch.from_numpy(np.log(mixture.covariances_)))
    return prior


def _with_prior(model: VAEModel, prior: MixturePrior) -> VAEModel:
    """Build the model again with another prior."""
    choice = {"prior": "mixture", "prior_components": len(prior.logits)}
    again = build_model(model.name, **{**model.hyperparameters, **choice})
    networks = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("prior.")}
    again.load_state_dict({**networks, **{f"prior.{name}": tensor for name, tensor in prior.state_dict().items()}})
    return again.eval()
