"""Map styles to the parameters of the posterior, and latents to styles."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from sivae.models.style.equalised import EqualisedLinear, pixel_norm

_SLOPE = 0.2
_RATE = 0.1
_POSTERIOR_LAYERS = 3


class PosteriorMapping(nn.Module):
    """The sum of the encoder's styles [B, N] -> mu and logvar side by side, [B, 2 N]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        outs = [size] * (_POSTERIOR_LAYERS - 1) + [2 * size]
        self.layers = nn.ModuleList(EqualisedLinear(size, out, rate=_RATE) for out in outs)

    def forward(self, styles: Tensor) -> Tensor:
        return _through(self.layers, styles)


class StyleMapping(nn.Module):
    """Latents [B, N] -> styles [B, N]."""

    def __init__(self, size: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(EqualisedLinear(size, size, rate=_RATE) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        return _through(self.layers, pixel_norm(z))


def _through(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = F.leaky_relu_(layer(x), _SLOPE)
    return x
