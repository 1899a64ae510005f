"""The model `autoencoder`: diffusers' outputs, options, memory formats and precisions, and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.models import AutoencoderVAE, build_model
from sivae.models.diffusers_folder import read_folder
from sivae.models.norm import switches_seen_by_compiler
from tests.models.diffusers_layouts import PUBLISHED, RECORDED, SMALL, inputs, shown
from tests.models.diffusers_samples import folder_of

RECORD = json.loads(RECORDED.read_text())
TINY: dict[str, Any] = {
    "image_size": 16, "channels": 1, "widths": (4, 8), "latent_channels": 3, "layers": 1, "groups": 2,
}  # fmt: skip


def tiny(seed: int = 0, **changes: Any) -> AutoencoderVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoencoderVAE(**{**TINY, **changes})


def images(model: AutoencoderVAE, count: int = 3) -> Tensor:
    return torch.rand(count, *model.sample_shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("name", SMALL)
def test_outputs_are_the_recorded_ones_of_diffusers(name: str, tmp_path) -> None:
    """In float64. Sums of at most 300 products in some 50 layers: 1e-16 times a few thousand."""
    model = read_folder(folder_of(name, tmp_path)).double()
    x, z = inputs(SMALL[name])
    with torch.no_grad():
        mu, logvar = model.encode(x)
        decoded = model.decode(z)
    assert mu.shape[1:] == model.latent_shape == z.shape[1:]
    for key, value in {"mu": mu, "logvar": logvar, "decoded": decoded}.items():
        assert shown(value) == pytest.approx(RECORD["small"][name][key], rel=1e-10, abs=1e-10), key


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_have_the_recorded_parameters(name: str) -> None:
    layout = PUBLISHED[name]
    with torch.device("meta"):
        model = AutoencoderVAE(
            image_size=layout["sample_size"],
            widths=layout["block_out_channels"],
            latent_channels=layout["latent_channels"],
            attention_stages=[
                index for index, kind in enumerate(layout["down_block_types"]) if kind.startswith("Attn")
            ],
            quant_convs=layout.get("use_quant_conv", True),
        )
    state = model.state_dict()
    assert {"tensors": len(state), "values": sum(map(torch.numel, state.values()))} == RECORD["published"][name]


def test_the_latent_is_a_map_and_the_prior_s_samples_are_of_its_shape() -> None:
    model = tiny()
    mu, logvar = model.encode(images(model))
    assert mu.shape == logvar.shape == (3, 3, 8, 8)
    assert model.latent_shape == (3, 8, 8) and model.z_dim == 192
    assert model.sample(2, generator=torch.Generator().manual_seed(0)).shape == (2, 1, 16, 16)
    assert model.kl(mu.detach(), logvar.detach()).shape == (3,)


def test_images_of_other_sizes_pass_too() -> None:
    model = tiny()
    x = torch.rand(2, 1, 24, 32)
    mu, _ = model.encode(x)
    assert mu.shape == (2, 3, 12, 16) and model.decode(mu).shape == x.shape


def test_the_log_variance_is_clamped_as_in_diffusers() -> None:
    model = tiny(quant_convs=False)
    with torch.no_grad():
        model.encoder.conv_out.weight.mul_(1e6)
    logvar = model.encode(images(model))[1].detach()
    assert float(logvar.min()) == -30.0 and float(logvar.max()) == 20.0


@pytest.mark.parametrize("changes", [{}, {"attention": False}, {"attention_stages": (0,)}, {"widths": (4, 6, 8)}])
def test_hyperparameters_make_the_same_architecture(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    again = build_model("autoencoder", **json.loads(json.dumps(model.hyperparameters)))
    shapes = {name: value.shape for name, value in model.state_dict().items()}
    assert {name: value.shape for name, value in again.state_dict().items()} == shapes
    again.load_state_dict(model.state_dict())
    x = images(model)
    assert torch.equal(again.encode(x)[0], model.encode(x)[0])


def gradients(model: AutoencoderVAE, x: Tensor) -> list[Tensor]:
    mu, logvar = model.encode(x)
    loss = F.mse_loss(model.decode(mu + (0.5 * logvar).exp()), x)
    return list(torch.autograd.grad(loss, list(model.parameters())))


def test_activations_computed_again_give_the_same_gradients() -> None:
    model = tiny(attention_stages=(1,))
    x = images(model)
    expected = gradients(model, x)
    model.checkpoint_activations = True
    assert model.checkpoint_activations
    for mine, other in zip(gradients(model, x), expected, strict=True):
        assert torch.equal(mine, other)


def test_channels_last_gives_the_same_values() -> None:
    """Two orders of summation in float32: 1e-7 times a few layers, relative to the largest value."""
    model = tiny(attention_stages=(0,))
    x = images(model)
    expected = model.encode(x)[0], model.decode(torch.ones(3, 3, 8, 8))
    model = model.to(memory_format=torch.channels_last)
    x = x.contiguous(memory_format=torch.channels_last)
    mine = model.encode(x)[0], model.decode(torch.ones(3, 3, 8, 8).contiguous(memory_format=torch.channels_last))
    for one, other in zip(mine, expected, strict=True):
        assert (one - other).abs().max() <= 1e-5 * other.abs().max()


def test_bfloat16_keeps_two_digits() -> None:
    model = tiny()
    x = images(model)
    with torch.autocast("cpu", torch.bfloat16):
        mu = model.encode(x)[0]
    expected = model.encode(x)[0]
    # 2^-8 for each of about 20 layers, whose roundings are independent.
    assert (mu.float() - expected).norm() <= 20**0.5 * 2**-8 * expected.norm()


def test_both_networks_compile_as_a_whole() -> None:
    torch._dynamo.reset()
    model = tiny(attention_stages=(1,)).eval()
    x = images(model)
    with switches_seen_by_compiler(), torch.no_grad():
        mu = torch.compile(model.encode, fullgraph=True, backend="eager")(x)[0]
        again = torch.compile(model.decode, fullgraph=True, backend="eager")(mu)
    assert torch.equal(mu, model.encode(x)[0].detach())
    assert torch.equal(again, model.decode(mu).detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": 4}, "widths is 4, expected a channel count per resolution"),
        ({"widths": (4, 0)}, "widths is 0, expected a whole number of at least 1"),
        ({"widths": (4, 9)}, "groups is 2, which does not divide the width 9; .* such as 1$"),
        ({"image_size": 15}, r"image_size is 15, expected a multiple of 2 = 2\^1 for 2 widths; take 14 or 16"),
        ({"layers": 17}, "layers is 17, expected at most 16"),
        ({"widths": [4] * 16}, "widths has 16 numbers, expected at most 15"),
        ({"latent_channels": 0}, "latent_channels is 0, expected"),
        ({"attention": 1}, "attention is 1, expected True or False"),
        ({"attention_stages": (2,)}, r"attention_stages is \(2,\), expected different numbers from 0 to 1"),
        ({"attention_stages": (1, 1)}, r"attention_stages is \(1, 1\), expected different numbers"),
        ({"attention_stages": 1}, "attention_stages is 1, expected different numbers"),
        ({"pipeline": {"act_fn": "relu"}}, "pipeline has act_fn, expected none but scaling_factor, shift_factor"),
        ({"prior": "flow"}, "prior is 'flow', expected one of standard, mixture, vamp"),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"AutoencoderVAE: {message}"):
        tiny(**changes)


@pytest.mark.parametrize(
    ("call", "shape", "message"),
    [
        ("encode", (1, 16, 16), r"encode: x has shape \[1, 16, 16\], expected \[B, 1, H, W\], with sides .* of 2$"),
        ("encode", (1, 3, 16, 16), r"encode: x has shape \[1, 3, 16, 16\], expected \[B, 1, H, W\]"),
        ("encode", (1, 1, 17, 16), r"encode: x has shape \[1, 1, 17, 16\], expected"),
        ("decode", (2, 32), r"decode: z has shape \[2, 32\], expected \[B, 3, H, W\]$"),
    ],
)
def test_other_shapes_are_refused_by_name(call: str, shape: tuple[int, ...], message: str) -> None:
    model = tiny()
    with pytest.raises(ValueError, match=message):
        getattr(model, call)(torch.rand(shape))
    with pytest.raises(TypeError, match=r"encode: x has dtype torch.uint8, expected floating point"):
        model.encode(torch.zeros(1, 1, 16, 16, dtype=torch.uint8))
