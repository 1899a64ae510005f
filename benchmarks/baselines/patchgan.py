"""The PatchGAN critic that autoencoders for latent diffusion are trained with, in plain PyTorch, as published.

The recipe is that of "Taming Transformers" (Esser et al., CVPR 2021) and "Latent Diffusion" (Rombach et al., CVPR
2022): a hinge loss, a weight from the ratio of two gradients at the decoder's last layer, a critic that starts late,
and Adam with betas (0.5, 0.9). Losses of the autoencoder are sums over the values of an image.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sivae.method.plain import gaussian_kl, sample

ADAM_BETAS = (0.5, 0.9)
KL_WEIGHT, CRITIC_WEIGHT = 1e-6, 0.5
RATIO_EPS, RATIO_LARGEST = 1e-4, 1e4
_SLOPE = 0.2
_MOST_LAYERS = 3  # the published critic, for 256 x 256


def layers_for(side: int) -> int:
    """Choose the number of halvings for images of a side, so that a patch is about half as wide as the image.

    The published critic has 3, with patches of 70 pixels. Here it is 1 (16 pixels) up to 63, 2 (34 pixels) up to 127.
    """
    return min(_MOST_LAYERS, max(1, side.bit_length() - 5))


class PatchGAN(nn.Module):
    """Scores each patch of an image (Isola et al., CVPR 2017): [B, channels, H, W] -> logits [B, 1, h, w].

    Args:
        channels: of the images.
        width: channels after the first convolution; each further one doubles them, up to eight times.
        layers: number of convolutions that halve the side. A patch has 16, 34 or 70 pixels for 1, 2 or 3.
    """

    def __init__(self, channels: int, width: int, layers: int) -> None:
        super().__init__()
        widths = [width * min(2**index, 8) for index in range(layers + 1)]
        stack: list[nn.Module] = [nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(_SLOPE)]
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            stride = 2 if index < layers - 1 else 1
            stack += [nn.Conv2d(fan_in, fan_out, 4, stride, 1, bias=False), nn.BatchNorm2d(fan_out)]
            stack += [nn.LeakyReLU(_SLOPE)]
        self.layers = nn.Sequential(*stack, nn.Conv2d(widths[-1], 1, 4, 1, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, 0.02)
            elif isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight, 1.0, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.layers(x)
        return logits


def hinge_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Compute the critic's loss from its logits of real images and of reconstructions, a scalar."""
    return 0.5 * (torch.relu(1.0 - real).mean() + torch.relu(1.0 + fake).mean())


def adaptive_weight(rec: Tensor, adversarial: Tensor, last_layer: Tensor) -> Tensor:
    """Compute the ratio of the norms of two losses' gradients at the decoder's last layer, from 0 to 10,000."""
    (of_rec,) = torch.autograd.grad(rec, last_layer, retain_graph=True)
    (of_critic,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (of_rec.norm() / (of_critic.norm() + RATIO_EPS)).clamp(0.0, RATIO_LARGEST).detach()


class PatchGANStep:
    """One update of the autoencoder, then one of the critic, from one forward pass of the autoencoder.

    Args:
        model: has `encode(x) -> (mu, logvar)`, `decode(z) -> x`, and `decoder.conv_out`, the decoder's last layer.
        critic: images -> logits of their patches.
        distance: the reconstruction error, two batches [B, C, H, W] -> rec [B], summed over an image.
        starts_after: iterations without the critic, which neither learns nor is asked before.
        generator: of the latents' noise.
        autocast: dtype of the networks' products; None: float32.
    """

    def __init__(
        self,
        model: Any,
        critic: nn.Module,
        distance: Callable[[Tensor, Tensor], Tensor],
        *,
        starts_after: int,
        generator: torch.Generator | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.critic, self.distance = model, critic, distance
        self.starts_after, self.generator, self.autocast = starts_after, generator, autocast
        self.optimizers = [
            torch.optim.Adam(network.parameters(), betas=ADAM_BETAS, fused=True) for network in (model, critic)
        ]

    def __call__(self, step: int, x: Tensor, rate: float) -> dict[str, Tensor]:
        """Update both on a batch.

        Args:
            step: number of the iteration, from 1.
            x: images [B, C, H, W].
            rate: the learning rate of both.

        Returns:
            Detached scalars, batch means: loss, rec, kl_real; with the critic also critic_weight, which multiplies its
            loss in the autoencoder's, loss_critic, and its mean logits logit_real and logit_fake.
        """
        for optimizer in self.optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
        of_model, of_critic = self.optimizers
        with self._products(x):
            mu, logvar = self.model.encode(x)
            noise = torch.randn(mu.shape, generator=self.generator, device=mu.device)
            recon = self.model.decode(sample(mu, logvar.float(), noise)).float()
        rec = self.distance(recon, x).mean()
        kl = gaussian_kl(mu.float(), logvar.float()).mean()
        loss = rec + KL_WEIGHT * kl
        found = {"rec": rec, "kl_real": kl}
        criticized = step > self.starts_after
        if criticized:
            self.critic.requires_grad_(False)
            adversarial = -self._logits(recon).mean()
            weight = CRITIC_WEIGHT * adaptive_weight(rec, adversarial, self.model.decoder.conv_out.weight)
            loss = loss + weight * adversarial
            found["critic_weight"] = weight
        loss.backward()
        of_model.step()
        if criticized:
            self.critic.requires_grad_(True)
            real, fake = self._logits(x), self._logits(recon.detach())
            loss_critic = hinge_loss(real, fake)
            loss_critic.backward()
            of_critic.step()
            found |= {"loss_critic": loss_critic, "logit_real": real.mean(), "logit_fake": fake.mean()}
        return {name: value.detach() for name, value in ({"loss": loss} | found).items()}

    def _logits(self, images: Tensor) -> Tensor:
        with self._products(images):
            logits: Tensor = self.critic(images)
        return logits.float()

    def _products(self, x: Tensor) -> contextlib.AbstractContextManager[Any]:
        return contextlib.nullcontext() if self.autocast is None else torch.autocast(x.device.type, self.autocast)
