"""The block layouts of published `AutoencoderKL`s of diffusers, small ones with weights of a formula.

`python -m tests.models.diffusers_layouts` records what diffusers makes of them in `tests/fixtures/autoencoder_kl.json`.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

RECORDED = Path(__file__).resolve().parents[1] / "fixtures" / "autoencoder_kl.json"
SHOWN = 12  # values of an output in the record


def config(widths: Sequence[int], latent_channels: int, attention_stages: Sequence[int] = (), **more: Any) -> dict:
    """The arguments of `AutoencoderKL`, with the groups and layers of the published ones unless `more` has others."""
    kinds = ["Attn" if index in attention_stages else "" for index in range(len(widths))]
    return {
        "block_out_channels": list(widths),
        "latent_channels": latent_channels,
        "down_block_types": [f"{kind}DownEncoderBlock2D" for kind in kinds],
        "up_block_types": [f"{kind}UpDecoderBlock2D" for kind in reversed(kinds)],
        "layers_per_block": 2,
        "sample_size": 4 << (len(widths) - 1),
        **more,
    }


_NO_QUANT = {"use_quant_conv": False, "use_post_quant_conv": False}
# f4, f8, f16 and f32 of latent diffusion (Rombach et al. 2022), f8 also of Stable Diffusion 1 to XL; f8 with 16
# channels of Stable Diffusion 3 and Flux; and what AutoencoderKL has besides.
SMALL: dict[str, dict[str, Any]] = {
    "f4": config((8, 16, 32), 3, norm_num_groups=4),
    "f8": config((8, 16, 32, 32), 4, norm_num_groups=4),
    "f8-16-channels": config((8, 16, 32, 32), 16, norm_num_groups=4, **_NO_QUANT),
    "f8-no-attention": config((8, 16, 32, 32), 4, norm_num_groups=4, mid_block_add_attention=False),
    "f16": config((8, 8, 16, 16, 32), 16, (4,), norm_num_groups=4),
    "f16-grey": config((8, 8, 16, 16, 32), 8, (3, 4), norm_num_groups=4, in_channels=1, out_channels=1, **_NO_QUANT),
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "f4": config((128, 256, 512), 3),
    "f8": config((128, 256, 512, 512), 4),
    "f8-16-channels": config((128, 256, 512, 512), 16, **_NO_QUANT),
    "f16": config((128, 128, 256, 256, 512), 16, (4,)),
    "f32": config((128, 128, 256, 256, 512, 512), 64, (4, 5)),
}


def weights(shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Weights for names and shapes, float32: sines, scaled so that the layers neither damp nor amplify much."""
    made = {}
    for name, shape in shapes.items():
        wave = torch.sin(0.7 * torch.arange(math.prod(shape), dtype=torch.float64) + zlib.crc32(name.encode()) % 1000)
        if len(shape) > 1:
            made[name] = (wave * math.sqrt(2.0 / math.prod(shape[1:]))).view(*shape)
        else:
            made[name] = 1.0 + 0.3 * wave if "norm" in name and name.endswith("weight") else 0.3 * wave
    return {name: value.float() for name, value in made.items()}


def inputs(layout: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Two images and two latents, float64."""
    side, halvings = layout["sample_size"], len(layout["block_out_channels"]) - 1
    x = _wave(2, layout.get("in_channels", 3), side, side)
    return x, 1.5 * _wave(2, layout["latent_channels"], side >> halvings, side >> halvings)


def _wave(*shape: int) -> Tensor:
    return torch.sin(1.3 * torch.arange(math.prod(shape), dtype=torch.float64).sqrt()).view(*shape)


def shown(output: Tensor) -> list[float]:
    """Some values of an output, spread over it, and the mean of all its squares."""
    values = output.double().flatten()
    places = torch.linspace(0, len(values) - 1, SHOWN).long()
    return [*values[places].tolist(), float(values.square().mean())]


def _record() -> None:
    from diffusers import AutoencoderKL

    record: dict[str, Any] = {"small": {}, "published": {}}
    for name, layout in SMALL.items():
        model = AutoencoderKL(**layout).eval()
        shapes = {key: list(value.shape) for key, value in sorted(model.state_dict().items())}
        model.load_state_dict(weights(shapes))
        model.double()
        x, z = inputs(layout)
        with torch.no_grad():
            posterior, decoded = model.encode(x).latent_dist, model.decode(z).sample
        outputs = {"mu": posterior.mean, "logvar": posterior.logvar, "decoded": decoded}
        record["small"][name] = {"shapes": shapes} | {key: shown(value) for key, value in outputs.items()}
    for name, layout in PUBLISHED.items():
        with torch.device("meta"):
            state = AutoencoderKL(**layout).state_dict()
        record["published"][name] = {"tensors": len(state), "values": sum(value.numel() for value in state.values())}
    RECORDED.write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    _record()
