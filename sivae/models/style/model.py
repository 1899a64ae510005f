"""The style-based encoder and decoder as one model, with its stage of growth."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sivae import ops
from sivae.bounds import MODEL_LAYERS
from sivae.models.base import VAEModel, checked_counts, evaluating
from sivae.models.recompute import StagedVAE
from sivae.models.style.decoder import SMALLEST, DrawnNoise, GivenNoise, Noise, StyleDecoder
from sivae.models.style.encoder import StyleEncoder
from sivae.models.style.equalised import rate_scales

LARGEST = 1024  # pixels
_AVERAGE_DECAY = 0.995
_FIXED_SEED = 0  # of the noise in `render`
# Offsets of a pass: two noise maps for each of up to nine blocks, then the second latent and its first style input.
_SECOND_LATENT, _CROSSOVER = 20, 21


@dataclass(frozen=True)
class Truncation:
    """Settings of truncation: styles move towards the average style, for more typical images (Karras et al. 2019, B).

    Attributes:
        psi: remaining share of the distance to the average.
        cutoff: number of style inputs that are truncated, from 4 x 4 on.
    """

    psi: float = 0.7
    cutoff: int = 8


class StyleVAE(StagedVAE):
    """Style-based encoder and decoder of ALAE, as published with Soft-IntroVAE, for square images in [-1, 1].

    The model can grow. At the stage `lod` it works on images of 4 * 2^lod pixels a side, and while the stage blends in,
    `blend` is the share of its outermost blocks. All methods and `sample_shape` follow the current stage; only `encode`
    and `decode` can be called for another one. A new model is at its last stage.

    Args:
        image_size: side of the images at the last stage, a power of two from 4 to 1024.
        channels: channels of the images.
        start_channels: channels of the blocks at the last stage; each stage below has twice as many.
        max_channels: largest number of channels.
        z_dim: number of latent values per image, and of values of a style.
        mapping_layers: number of layers from a latent to its style.
        lod: current stage, from 0 (4 x 4) to log2(image_size) - 2; None: the last.
        blend: share of the stage's blocks, from 0 to 1.
        prior_std: see :class:`VAEModel`.

    Attributes:
        layer_count: number of stages, log2(image_size) - 1.
        lod, blend: see :meth:`grow`.
        average_style: running average of the style, for each of the 2 layer_count style inputs.
        style_mixing: probability that a training pass over prior samples takes its finer styles from other latents.
        checkpoint_activations: keep only each block's inputs for the backward pass, and compute the rest again there.

    Raises:
        ValueError: an argument is out of range; the message names it and the accepted values.
    """

    name = "style"
    ADAM_BETAS = (0.0, 0.99)
    value_range = (-1.0, 1.0)
    has_styles = True
    encoder: StyleEncoder
    decoder: StyleDecoder
    average_style: Tensor

    def __init__(
        self,
        image_size: int = 256,
        channels: int = 3,
        start_channels: int = 64,
        max_channels: int = 512,
        z_dim: int = 512,
        mapping_layers: int = 8,
        lod: int | None = None,
        blend: float = 1.0,
        prior_std: float = 1.0,
    ) -> None:
        super().__init__()
        checked_counts(
            "StyleVAE",
            1,
            image_size=image_size,
            channels=channels,
            start_channels=start_channels,
            max_channels=max_channels,
            z_dim=z_dim,
        )
        checked_counts("StyleVAE", 1, MODEL_LAYERS, mapping_layers=mapping_layers)
        if image_size & (image_size - 1) or not SMALLEST <= image_size <= LARGEST:
            raise ValueError(
                f"StyleVAE: image_size is {image_size}, expected a power of two from {SMALLEST} to {LARGEST}"
            )
        self.layer_count = image_size.bit_length() - SMALLEST.bit_length() + 1
        self.hyperparameters = {
            "image_size": image_size,
            "channels": channels,
            "start_channels": start_channels,
            "max_channels": max_channels,
            "z_dim": z_dim,
            "mapping_layers": mapping_layers,
        }
        self._set_prior_std(prior_std)
        self.z_dim = z_dim
        self.style_mixing = 0.9
        widths = [min(max_channels, start_channels << index) for index in range(self.layer_count + 1)]
        self.encoder = StyleEncoder(channels, widths, z_dim)
        self.decoder = StyleDecoder(channels, widths[-2::-1], z_dim, mapping_layers)
        self.register_buffer("average_style", torch.zeros(2 * self.layer_count, z_dim))
        self.blend: float | Tensor = 1.0
        self.grow(self.layer_count - 1 if lod is None else lod, blend)

    def grow(self, lod: int, blend: float = 1.0) -> None:
        """Set the stage: the resolution, 4 * 2^lod, and the share of its blocks, `blend` from 0 to 1.

        While blend is below 1, `self.blend` is one tensor on the model's device, so compiled and captured passes follow
        its changes.

        Raises:
            ValueError: there is no such stage, or blend is outside [0, 1].
        """
        self._check_stage(lod, blend)
        self.lod = lod
        if blend == 1.0:
            self.blend = 1.0
        elif isinstance(self.blend, Tensor):
            self.blend.fill_(blend)
        else:
            self.blend = torch.full((), blend, device=self.average_style.device)
        side = SMALLEST << lod
        self.sample_shape = (self.hyperparameters["channels"], side, side)
        self.hyperparameters = {**self.hyperparameters, "lod": lod, "blend": float(blend)}

    def follow(self, other: VAEModel) -> None:
        """Copy the stage of another style model."""
        self.grow(other.hyperparameters["lod"], other.hyperparameters["blend"])

    def _apply(self, fn: Callable[..., Tensor], recurse: bool = True) -> StyleVAE:
        """Move `blend` together with the parameters. It gets its value anew, because it has none on the meta device."""
        super()._apply(fn, recurse)
        if isinstance(self.blend, Tensor):
            self.blend = torch.full((), self.hyperparameters["blend"], device=self.average_style.device)
        return self

    def encode(
        self,
        x: Tensor,
        condition: Tensor | None = None,
        *,
        lod: int | None = None,
        blend: float | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Compute mu and logvar of q(z|x), each [B, z_dim]: views of one tensor.

        Args:
            x: [B, C, S, S] in [-1, 1], S = 4 * 2^lod.
            condition: None; the model takes none.
            lod, blend: a stage to use instead of the current one; with a `lod`, blend is 1 unless it is given.

        Raises:
            ValueError: there is no such stage, or x has another resolution.
        """
        self._refuse(condition)
        lod, blend = self._stage(lod, blend)
        side = SMALLEST << lod
        expected = (self.hyperparameters["channels"], side, side)
        if x.shape[1:] != expected:
            raise ValueError(
                f"StyleVAE: got images of shape {list(x.shape[1:])}, expected {list(expected)} at stage {lod}"
            )
        mu, logvar = self.encoder(x, lod, blend).chunk(2, dim=1)
        return self._in_units_of_prior(mu, logvar)

    def decode(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        *,
        lod: int | None = None,
        blend: float | Tensor | None = None,
        noise: bool | ops.PhiloxNoise | Sequence[Tensor] = True,
        common_noise: bool = False,
        truncation: float | Truncation | None = None,
        mixing: tuple[Tensor, int | Tensor] | None = None,
    ) -> Tensor:
        """Compute the mean of p(x|z), [B, C, S, S] with S = 4 * 2^lod.

        Args:
            z: [B, z_dim].
            condition: None; the model takes none.
            lod, blend: as for :meth:`encode`.
            noise: True draws the noise maps, with a seed from the default generator of z's device; a `PhiloxNoise`
                gives the seed and the first offset (map k of a pass has the offset + k); tensors are the maps, of
                the shapes of :meth:`noise_shapes` with one row, or one for each image, in front; False uses the fixed
                bump of the published networks instead of noise.
            common_noise: use one set of maps for all images of the batch.
            truncation: truncation towards the average style; a number is a psi with the default cutoff.
            mixing: other latents [B, z_dim], and the number of the first style input that gets their styles.

        Raises:
            ValueError: there is no such stage, or the maps have other shapes.
        """
        self._refuse(condition)
        lod, blend = self._stage(lod, blend)
        styles = self.styles(z)
        if mixing is not None:
            styles = self._mixed(styles, *mixing)
        if truncation is not None:
            styles = self._truncated(styles, truncation)
        image: Tensor = self.decoder(styles, lod, blend, self._noise(noise, common_noise, z, lod))
        return image

    def noise_shapes(self, lod: int | None = None) -> list[tuple[int, int, int]]:
        """Return the shapes of a pass's noise maps, [1, S, S] each, for the `noise` of :meth:`decode`.

        Args:
            lod: stage; None is the current one.
        """
        lod, _ = self._stage(lod, None)
        return [(1, SMALLEST << block, SMALLEST << block) for block in range(lod + 1) for _ in range(2)]

    def _noise(
        self, noise: bool | ops.PhiloxNoise | Sequence[Tensor], common: bool, z: Tensor, lod: int
    ) -> Noise | None:
        if noise is False:
            return None
        if noise is True:
            return DrawnNoise(ops.PhiloxNoise(ops.draw_seed(z.device)), common)
        if isinstance(noise, ops.PhiloxNoise):
            return DrawnNoise(noise, common)
        if not isinstance(noise, Sequence) or not all(isinstance(given, Tensor) for given in noise):
            raise TypeError(
                f"StyleVAE: noise is {type(noise).__name__}, expected True, False, a PhiloxNoise or a list of tensors"
            )
        expected = self.noise_shapes(lod)
        came = [tuple(given.shape[1:]) for given in noise]
        if came != expected or any(given.shape[0] not in (1, z.shape[0]) for given in noise):
            raise ValueError(
                f"StyleVAE: got noise maps of shapes {[list(given.shape) for given in noise]}, expected "
                f"{[[z.shape[0], *shape] for shape in expected]}, or 1 in front"
            )
        return GivenNoise(noise)

    def decode_for_training(
        self, z: Tensor, condition: Tensor | None = None, *, noise: ops.PhiloxNoise, prior: bool
    ) -> Tensor:
        """Decode in a training step, with noise maps.

        In training mode the average style is updated, and most prior samples mix styles of two latents.

        Args:
            z: [B, z_dim].
            condition: None; the model takes none.
            noise: seed and first offset of the pass's random numbers; it uses up to `OFFSETS_PER_PASS` offsets.
            prior: whether z is drawn from the prior.
        """
        self._refuse(condition)
        styles = self.styles(z)
        if self.training:
            with torch.no_grad():
                mean = styles.detach().mean(0).to(self.average_style.dtype)  # [2 n, z_dim]
                self.average_style.lerp_(mean, 1.0 - _AVERAGE_DECAY)
            if prior and self.style_mixing > 0.0:
                styles = self._mixed_at_random(styles, z, noise)
        image: Tensor = self.decoder(styles, *self._stage(None, None), DrawnNoise(noise))
        return image

    def render(
        self,
        z: Tensor,
        condition: Tensor | None = None,
        *,
        truncation: float | Truncation | None = None,
        mixing: tuple[Tensor, int | Tensor] | None = None,
    ) -> Tensor:
        """Decode with one fixed set of noise maps, so that the result depends on z alone.

        Args:
            truncation, mixing: as for :meth:`decode`.
        """
        return self.decode(z, condition, noise=self.fixed_noise(), truncation=truncation, mixing=mixing)

    def fixed_noise(self) -> list[Tensor]:
        """Draw the noise maps of :meth:`render`, which are the same for all images: [1, 1, S, S] each."""
        drawn = DrawnNoise(ops.PhiloxNoise(_FIXED_SEED), common=True)
        like = self.decoder.constant
        return [drawn.map(k, 1, shape[-1], like) for k, shape in enumerate(self.noise_shapes())]

    def sample(
        self,
        count: int,
        *,
        generator: torch.Generator | None = None,
        condition: Tensor | None = None,
        truncation: float | Truncation | None = None,
    ) -> Tensor:
        """Decode draws from the prior as :meth:`VAEModel.sample`, with noise from the same generator.

        Args:
            truncation: as for :meth:`decode`.
        """
        place = self.average_style.device
        seed = ops.draw_seed(place if generator is None else generator.device, generator).to(place)
        z = self.prior_draws(count, generator)
        passes = iter(range(0, count * self.OFFSETS_PER_PASS + 1, self.OFFSETS_PER_PASS))

        def decoded(piece: Tensor, condition: Tensor | None) -> Tensor:
            noise = ops.PhiloxNoise(seed, next(passes))
            return self.decode(piece, condition, noise=noise, truncation=truncation)

        with evaluating(self):
            return self._in_pieces(decoded, z, condition)

    def styles(self, z: Tensor) -> Tensor:
        """Map latents [B, z_dim] to styles [B, 2 layer_count, z_dim]: every style input of a latent gets the same."""
        style: Tensor = self.decoder.mapping(self._in_units_of_decoder(z))
        return style[:, None].expand(-1, 2 * self.layer_count, -1)

    def place_of(self, name: str) -> str:
        """See :meth:`VAEModel.place_of`. The encoder numbers its stages from the highest resolution down."""
        found = re.fullmatch(r"encoder\.(blocks|entrances)\.(\d+)\.(.+)", name)
        if found is None:
            return name
        side = SMALLEST << (self.layer_count - 1 - int(found[2]))
        return f"encoder.{found[1]} at {side}.{found[3]}"

    def rate_scales(self) -> dict[str, float]:
        return rate_scales(self)

    def _mixed(self, styles: Tensor, others: Tensor, first: int | Tensor) -> Tensor:
        inputs = torch.arange(styles.shape[1], device=styles.device)[None, :, None]
        return torch.where(inputs < first, styles, self.styles(others))

    def _mixed_at_random(self, styles: Tensor, z: Tensor, noise: ops.PhiloxNoise) -> Tensor:
        """Mix in the styles of other latents from a random input on, or not at all; the batch shares this choice."""

        def normal(shape: tuple[int, ...], draw: int) -> Tensor:
            return ops.philox_normal(noise.seed, shape, offset=noise.offset + draw, device=z.device).to(z.dtype)

        whether, where = torch.special.ndtr(normal((2,), _CROSSOVER)).unbind()  # uniform in (0, 1)
        # From the second style input to the last one of the stage.
        first = 1 + (where * (2 * self.lod + 1)).floor()
        first = torch.where(whether < self.style_mixing, first, styles.shape[1])
        return self._mixed(styles, normal(tuple(z.shape), _SECOND_LATENT), first)

    def _truncated(self, styles: Tensor, truncation: float | Truncation) -> Tensor:
        if not isinstance(truncation, Truncation):
            truncation = Truncation(truncation)
        inputs = torch.arange(styles.shape[1], device=styles.device)[None, :, None]
        average = self.average_style.to(styles.dtype)
        return torch.where(inputs < truncation.cutoff, average.lerp(styles, truncation.psi), styles)

    def _stage(self, lod: int | None, blend: float | Tensor | None) -> tuple[int, float | Tensor]:
        if lod is None:
            self._check_stage(self.lod, blend)
            return self.lod, self.blend if blend is None else blend
        self._check_stage(lod, blend)
        return lod, 1.0 if blend is None else blend

    def _check_stage(self, lod: Any, blend: Any) -> None:
        if not isinstance(lod, int) or isinstance(lod, bool) or not 0 <= lod < self.layer_count:
            raise ValueError(f"StyleVAE: lod is {lod!r}, expected a whole number from 0 to {self.layer_count - 1}")
        if isinstance(blend, float | int) and not 0.0 <= blend <= 1.0:
            raise ValueError(f"StyleVAE: blend is {blend}, expected a number from 0 to 1")

    def _refuse(self, condition: Tensor | None) -> None:
        if condition is not None:
            raise ValueError("StyleVAE: got a condition, but the model has condition_dim 0 and takes none")
