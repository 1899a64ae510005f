"""The learned priors of z: mixtures of diagonal Gaussians.

p(z) = sum_k w_k N(z; mu_k, exp(logvar_k)), with the weights w = softmax(logits). Of `MixturePrior` mu and logvar are
parameters; of `VampPrior` (Tomczak & Welling, "VAE with a VampPrior", AISTATS 2018) they are those of the posteriors of
learned pseudo-inputs. z is in units of the model's `prior_std`. A latent of maps is a row of its values here.

A sample is drawn exactly: first its component, then a draw from it. Of each row of noise from N(0, 1) the last value
chooses the component, since Phi(value) is uniform, and the others are the draw. So a learned prior needs no generator
of its own, and a sample is a function of its row alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from sivae import ops

PriorName = Literal["standard", "mixture", "vamp"]
PRIORS: tuple[PriorName, ...] = get_args(PriorName)

KL_PAIRS = 8  # of draws, for the kl of a posterior in a training step


class Components(NamedTuple):
    """A mixture of K diagonal Gaussians over L values.

    Attributes:
        weights: [K], with the sum 1.
        mu, logvar: [K, L].
    """

    weights: Tensor
    mu: Tensor
    logvar: Tensor

    def detached(self) -> Components:
        """Return the same mixture without a graph."""
        return Components(*(tensor.detach() for tensor in self))

    def draw(self, noise: Tensor) -> Tensor:
        """Turn rows of N(0, 1) into samples of the mixture, with gradients to the chosen mu and logvar.

        The choice of the component is discrete, so the weights get no gradient.

        Args:
            noise: [N, L + 1] in any floating dtype.

        Returns:
            [N, L], float32 at least.
        """
        noise = noise.to(torch.promote_types(noise.dtype, self.mu.dtype))
        below = torch.special.ndtr(noise[:, -1].contiguous())  # uniform in [0, 1]
        edges = self.weights.detach().to(noise.dtype).cumsum(0)
        chosen = torch.searchsorted(edges, below * edges[-1]).clamp_max(len(edges) - 1)
        return self.mu[chosen] + torch.exp(0.5 * self.logvar[chosen]) * noise[:, :-1]

    def log_prob(self, z: Tensor) -> Tensor:
        """Compute log p(z) of each row of z [N, L], in nats: [N]."""
        return ops.mixture_log_prob(z, *self)

    def kl(self, mu: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        """Estimate KL(q || p) of q = N(mu, exp(logvar)) by the mean of log q(z) - log p(z) over draws z of q.

        The draws are z = mu + sigma e and mu - sigma e, with e the given noise, divided so that its mean square over
        the P rows is 1. The estimate is then exact, up to rounding, where log p is quadratic, as it is for one
        component, and its gradients are; else it is consistent: e has its fourth moment times P / (P + 2). Of log q the
        exact mean is taken, minus q's entropy.

        Args:
            mu, logvar: [B, L], or maps of L values.
            eps: noise of N(0, 1), P rows for each posterior, [B, P, L]; or the same for all, [1, P, L].

        Returns:
            [B], in nats, with gradients to mu, logvar and the mixture.
        """
        mu, logvar = mu.flatten(1), logvar.flatten(1)
        eps = eps / eps.square().mean(1, keepdim=True).sqrt()
        shift = torch.exp(0.5 * logvar).unsqueeze(1) * eps
        z = torch.cat([mu.unsqueeze(1) + shift, mu.unsqueeze(1) - shift], dim=1)  # [B, 2 P, L]
        log_prior = self.log_prob(z.flatten(0, 1)).view(len(mu), -1).mean(1)
        return -0.5 * (1.0 + math.log(2.0 * math.pi) + logvar).sum(1) - log_prior


class MixturePrior(nn.Module):
    """A mixture of diagonal Gaussians whose weights, means and log variances are parameters.

    At the start the weights are equal, and the means are random, of a length of about 1. With the components' common
    variance the mixture has the mean 0 and the variance 1 of the standard prior.

    Args:
        components: K.
        z_dim: L.
    """

    def __init__(self, components: int, z_dim: int) -> None:
        super().__init__()
        spread = 1.0 / (z_dim + 1)  # variance of a mean's values
        self.logits = nn.Parameter(torch.zeros(components))
        self.mu = nn.Parameter(torch.randn(components, z_dim) * math.sqrt(spread))
        self.logvar = nn.Parameter(torch.full((components, z_dim), math.log1p(-spread)))

    def components(self, encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Components:
        """Return the mixture, with the graph of its parameters. `encode` is not used."""
        return Components(self.logits.softmax(0), self.mu, self.logvar)


class VampPrior(nn.Module):
    """The mixture of the posteriors of K learned pseudo-inputs, with learned weights.

    Args:
        components: K.
        sample_shape: shape of a sample.
        value_range: lowest and highest value of a sample; a pseudo-input outside is clamped to it.
    """

    def __init__(self, components: int, sample_shape: tuple[int, ...], value_range: tuple[float, float] | None) -> None:
        super().__init__()
        self.value_range = value_range
        self.logits = nn.Parameter(torch.zeros(components))
        low, high = value_range or (-1.0, 1.0)
        self.inputs = nn.Parameter(low + (high - low) * torch.rand(components, *sample_shape))

    def components(self, encode: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Components:
        """Encode the pseudo-inputs, with the graph of the parameters and of the encoder.

        Args:
            encode: [K, *sample_shape] -> mu and logvar, [K, L] each, or maps of L values.
        """
        inputs = self.inputs if self.value_range is None else self.inputs.clamp(*self.value_range)
        mu, logvar = encode(inputs)
        return Components(self.logits.softmax(0), mu.flatten(1), logvar.flatten(1))

    @torch.no_grad()
    def start_from(self, samples: Tensor, first: int) -> None:
        """Replace the pseudo-inputs from number `first` on by samples [N, *sample_shape], in turn if they are fewer."""
        rows = torch.arange(len(self.inputs) - first, device=samples.device) % len(samples)
        self.inputs[first:] = samples[rows]


LearnedPrior = MixturePrior | VampPrior
