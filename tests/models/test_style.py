"""The model `style`: official outputs at every stage, its parts against plain PyTorch, growth and noise."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae import ops
from sivae.models import StyleVAE, build_model
from sivae.models.official import import_official
from sivae.models.storage import load_model, save_model
from sivae.models.style import Truncation
from sivae.models.style.equalised import EqualisedConv2d, EqualisedLinear
from sivae.models.style.resampling import DoublingConv2d, HalvingConv2d, blurred

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "official_style128"
STAGES = [tuple(stage) for stage in json.loads(FIXTURE.with_suffix(".json").read_text())["lods"]]

# Two orders of summation in float32, see test_conv.py; the recordings are held to the 1e-5 that their authors give.
RELATIVE = 1e-5
# In float64 sums in another order differ by at most a few hundred times 1.1e-16.
EXACT = 1e-12


def _relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach() - expected.detach()).norm() / expected.detach().norm())


def _small(seed: int = 0, **changes: Any) -> StyleVAE:
    """A model of 16 x 16 images in three stages, with no parameter at its initial value."""
    settings: dict[str, Any] = {
        "image_size": 16,
        "start_channels": 2,
        "max_channels": 6,
        "z_dim": 5,
        "mapping_layers": 2,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StyleVAE(**{**settings, **changes})
        with torch.no_grad():
            for name, tensor in model.state_dict().items():
                if "bias" in name or "noise_weight" in name or name in ("decoder.constant", "average_style"):
                    tensor.normal_(std=0.3)
    return model


def _normal(*shape: int, seed: int = 1, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _images(model: StyleVAE, count: int = 3) -> Tensor:
    weight = model.average_style
    return _normal(count, *model.sample_shape, dtype=weight.dtype).tanh()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize(("lod", "blend"), STAGES)
def test_outputs_equal_the_recorded_ones_of_the_official_program(
    lod: int, blend: float, layout: torch.memory_format
) -> None:
    arrays = np.load(FIXTURE.with_suffix(".npz"))

    def recorded(name: str) -> Tensor:
        return torch.from_numpy(arrays[f"lod{lod}_blend{blend}_{name}"])

    model = import_official(FIXTURE.with_suffix(".pth")).model.to(memory_format=layout)  # type: ignore[call-overload]
    mu, logvar = model.encode(recorded("x"), lod=lod, blend=blend)
    z = recorded("z")
    decoded = model.decode(z, lod=lod, blend=blend, noise=False)
    truncated = model.decode(z, lod=lod, blend=blend, noise=False, truncation=Truncation(0.7, 4))
    actual = {"mu": mu, "logvar": logvar, "styles": model.styles(z), "decoded": decoded}
    for name, value in {**actual, "decoded_truncated": truncated}.items():
        assert _relative(value, recorded(name)) < RELATIVE, name


def test_parameter_counts_at_256_and_1024_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = StyleVAE()
        largest = StyleVAE(1024, start_channels=16)
    assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6, 1) == 53.9
    assert (model.layer_count, largest.layer_count, StyleVAE(4, z_dim=3, max_channels=4).layer_count) == (7, 9, 1)


def test_folded_doubling_equals_nearest_neighbours_and_a_convolution() -> None:
    layer = DoublingConv2d(3, 4, 3).double()
    x = _normal(2, 3, 5, 6, dtype=torch.float64)
    expected = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), layer.weight, padding=1)
    assert _relative(layer(x), expected) < EXACT


def test_folded_halving_equals_a_convolution_and_averages() -> None:
    layer = HalvingConv2d(3, 4, 3).double()
    x = _normal(2, 3, 6, 8, dtype=torch.float64)
    assert _relative(layer(x), F.avg_pool2d(F.conv2d(x, layer.weight, padding=1), 2)) < EXACT


@pytest.mark.parametrize(
    # In bfloat16 each of the two averages rounds to 2^-9.
    ("dtype", "most"),
    [(torch.float64, EXACT), (torch.float32, RELATIVE), (torch.bfloat16, 2**-8)],
)
def test_the_blur_equals_a_convolution_padded_by_zeros(dtype: torch.dtype, most: float) -> None:
    x = _normal(2, 3, 5, 4, dtype=torch.float64).to(dtype)
    line = torch.tensor([1.0, 2.0, 1.0], dtype=torch.float64) / 4.0
    kernel = torch.outer(line, line).expand(3, 1, 3, 3)
    blur = blurred(x)
    assert blur.dtype is dtype
    assert _relative(blur.double(), F.conv2d(x.double(), kernel, padding=1, groups=3)) < most


def test_learning_rates_have_the_scale_of_the_weights() -> None:
    model = _small()
    scales = model.rate_scales()
    assert scales["encoder.blocks.0.conv1.weight"] == pytest.approx(math.sqrt(2 / (2 * 9)))
    assert scales["decoder.blocks.0.style1.weight"] == pytest.approx(1 / math.sqrt(5))
    assert scales["decoder.exits.2.weight"] == pytest.approx(0.03 / math.sqrt(2))
    assert scales["decoder.mapping.layers.0.weight"] == pytest.approx(0.1 * math.sqrt(2 / 5))
    assert scales["encoder.mapping.layers.1.bias"] == 0.1
    # The constant, the noise weights and the blocks' biases, and biases of layers outside the mappings.
    left = {name for name, _ in model.named_parameters()} - set(scales)
    assert "decoder.constant" in left and "decoder.blocks.1.noise_weight2" in left
    assert all(name.endswith(("constant", "1", "2", ".bias")) for name in left), left


@pytest.mark.parametrize(
    ("layer", "std"),
    [
        (EqualisedConv2d(64, 64, 3), math.sqrt(2 / 576)),
        (EqualisedLinear(400, 300, gain=1.0), 1 / 20),
        (EqualisedLinear(400, 300, rate=0.1), math.sqrt(2) / 20),  # a tenth of the rate, the weights of any other
    ],
)
def test_initial_weights_have_their_scale(layer: EqualisedConv2d | EqualisedLinear, std: float) -> None:
    # The sample deviation of n normals is off by std / sqrt(2 n): 0.4 % here; five of those.
    assert float(layer.weight.detach().std()) == pytest.approx(std, rel=0.02)


def test_a_new_model_at_any_stage_has_finite_gradients() -> None:
    """The constant of a new model makes planes of equal values, and its first images may have one colour."""
    for lod in range(3):
        torch.manual_seed(0)
        model = StyleVAE(16, 3, 2, 6, 5, 2, lod=lod, blend=0.5 if lod else 1.0)
        x = torch.zeros(2, *model.sample_shape)
        mu, logvar = model.encode(x)
        image = model.decode(mu + torch.exp(0.5 * logvar))
        (image.square().sum() + mu.sum() + logvar.sum()).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


def test_growing_sets_the_stage_of_calls_without_a_stage() -> None:
    model = _small()
    assert (model.lod, model.sample_shape) == (2, (3, 16, 16))
    z = _normal(2, 5)
    noise = ops.PhiloxNoise(3)
    model.grow(1, 0.25)
    assert model.sample_shape == (3, 8, 8)
    x = _images(model)
    for plain, named in (
        (model.decode(z, noise=noise), model.decode(z, lod=1, blend=0.25, noise=noise)),
        (model.encode(x)[0], model.encode(x, lod=1, blend=0.25)[0]),
    ):
        assert torch.equal(plain, named)
    assert not torch.equal(model.encode(x)[0], model.encode(x, lod=1)[0])
    assert model.sample(2).shape == (2, 3, 8, 8)
    before = model.blend
    model.grow(1, 0.5)
    assert model.blend is before and float(model.blend) == 0.5  # captured passes see it change
    model.grow(1)
    assert model.blend == 1.0 and isinstance(model.blend, float)


def test_a_new_block_has_no_share_when_blending_begins_and_all_when_it_ends() -> None:
    model = _small().double()
    z, noise = _normal(2, 5, dtype=torch.float64), ops.PhiloxNoise(3)
    small = model.decode(z, lod=1, noise=noise)
    begun = model.decode(z, lod=2, blend=0.0, noise=noise)
    assert _relative(begun, F.interpolate(small, scale_factor=2.0, mode="nearest")) < EXACT
    x = _images(model)
    begun_mu = model.encode(x, lod=2, blend=0.0)[0]
    assert _relative(begun_mu, model.encode(F.avg_pool2d(x, 2), lod=1)[0]) < EXACT
    ended = torch.ones((), dtype=torch.float64)
    assert _relative(model.encode(x, lod=2, blend=ended)[0], model.encode(x, lod=2)[0]) < EXACT


def test_a_loaded_model_has_its_stage(tmp_path: Path) -> None:
    model = _small().eval()
    model.grow(1, 0.75)
    save_model(tmp_path / "m", model)
    again = load_model(tmp_path / "m")
    assert isinstance(again, StyleVAE)
    assert (again.lod, float(again.blend), again.sample_shape) == (1, 0.75, (3, 8, 8))
    x = _images(model)
    assert torch.equal(again.reconstruct(x), model.reconstruct(x))
    assert build_model("style", **model.hyperparameters).hyperparameters == model.hyperparameters


def test_noise_can_be_drawn_fixed_common_or_absent() -> None:
    model = _small().eval()
    z = _normal(1, 5).expand(4, -1)
    drawn = model.decode(z)
    assert not torch.equal(drawn, model.decode(z))
    named = model.decode(z, noise=ops.PhiloxNoise(7, 32))
    assert torch.equal(named, model.decode(z, noise=ops.PhiloxNoise(7, 32)))
    assert not torch.equal(named, model.decode(z, noise=ops.PhiloxNoise(7, 64)))
    assert not torch.allclose(named[0], named[1])
    for function in (model.render(z), model.decode(z, noise=False)):
        # The latents are equal; rows of a product may differ by rounding.
        assert float((function - function[:1]).detach().abs().max()) < 1e-5
    assert torch.equal(model.render(z), model.render(z))


def test_noise_maps_can_be_given() -> None:
    model = _small().eval()
    z = _normal(3, 5)
    maps = model.fixed_noise()
    assert [tuple(given.shape) for given in maps] == [(1, *shape) for shape in model.noise_shapes()]
    assert model.noise_shapes(1) == [(1, 4, 4), (1, 4, 4), (1, 8, 8), (1, 8, 8)]
    assert torch.equal(model.decode(z, noise=maps), model.render(z))
    own = [torch.randn(3, *shape) for shape in model.noise_shapes()]
    alone = [model.decode(z[row : row + 1], noise=[given[row : row + 1] for given in own]) for row in range(3)]
    # Rows of a product may differ by rounding.
    assert float((model.decode(z, noise=own) - torch.cat(alone)).detach().abs().max()) < 1e-5
    assert not torch.allclose(model.decode(z, noise=own), model.render(z))
    for wrong in (own[:-1], own[::-1], [given[:2] for given in own]):
        with pytest.raises(ValueError, match=r"got noise maps of shapes .* expected \[\[3, 1, 4, 4\], \[3, 1, 4, 4\]"):
            model.decode(z, noise=wrong)


def test_sampling_follows_its_generator() -> None:
    model = _small()
    draws = [model.sample(5, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])
    assert model.training
    truncated = model.sample(5, generator=torch.Generator().manual_seed(1), truncation=0.5)
    assert not torch.equal(truncated, draws[0])


def test_truncation_moves_the_coarse_styles_towards_the_average() -> None:
    model = _small().eval()
    z, noise = _normal(3, 5), ops.PhiloxNoise(1)
    assert torch.allclose(model.decode(z, noise=noise, truncation=1.0), model.decode(z, noise=noise), atol=1e-6)
    all_the_same = model.decode(z, noise=noise, common_noise=True, truncation=Truncation(0.0, 6))
    assert float((all_the_same - all_the_same[:1]).detach().abs().max()) < 1e-5
    some = model.decode(z, noise=noise, common_noise=True, truncation=Truncation(0.0, 2))
    assert float((some - some[:1]).detach().abs().max()) > 1e-2


def test_mixing_takes_the_finer_styles_from_other_latents() -> None:
    model = _small().eval()
    z, other, noise = _normal(3, 5), _normal(3, 5, seed=2), ops.PhiloxNoise(1)
    assert _relative(model.decode(z, noise=noise, mixing=(other, 6)), model.decode(z, noise=noise)) < RELATIVE
    assert _relative(model.decode(z, noise=noise, mixing=(other, 0)), model.decode(other, noise=noise)) < RELATIVE
    half = model.decode(z, noise=noise, mixing=(other, torch.tensor(3)))
    assert torch.equal(half, model.decode(z, noise=noise, mixing=(other, 3)))
    assert _relative(half, model.decode(z, noise=noise)) > 1e-3


def test_training_passes_update_the_average_and_mix_only_prior_samples() -> None:
    model = _small()
    z, noise = _normal(6, 5), ops.PhiloxNoise(1, 96)
    before = model.average_style.clone()
    image = model.decode_for_training(z, noise=noise, prior=False)
    assert torch.equal(image, model.decode(z, noise=noise))
    expected = before.lerp(model.styles(z).detach().mean(0), 0.005)
    assert torch.allclose(model.average_style, expected, atol=1e-7)
    assert torch.equal(model.eval().decode_for_training(z, noise=noise, prior=True), image)
    model.train()
    mixed = [
        _relative(
            model.decode_for_training(z, noise=ops.PhiloxNoise(seed), prior=True),
            model.decode(z, noise=ops.PhiloxNoise(seed)),
        )
        > 1e-3
        for seed in range(60)
    ]
    # On average 54 of 60 passes mix, with a deviation of 2.3.
    assert 44 <= sum(mixed) < 60
    model.style_mixing = 0.0
    assert torch.equal(model.decode_for_training(z, noise=noise, prior=True), image)


def test_mixing_begins_within_the_inputs_of_the_stage() -> None:
    """The first input of the second style is one of the stage's inputs, so that mixing has an effect."""
    model = _small()
    model.grow(0)
    model.style_mixing = 1.0
    z = _normal(4, 5)
    for seed in range(10):
        noise = ops.PhiloxNoise(seed)
        mixed = model.decode_for_training(z, noise=noise, prior=True)
        assert _relative(mixed, model.decode(z, noise=noise)) > 1e-3


def test_channels_last_gives_the_same_outputs_and_is_kept() -> None:
    model = _small()
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, z, noise = _images(model), _normal(3, 5), ops.PhiloxNoise(2)
    image = other.decode(z, noise=noise)
    assert _relative(image, model.decode(z, noise=noise)) < RELATIVE
    assert _relative(other.encode(x.contiguous(memory_format=torch.channels_last))[0], model.encode(x)[0]) < RELATIVE
    assert image.is_contiguous(memory_format=torch.channels_last)


def test_autocast_to_bfloat16_trains() -> None:
    model = _small()
    x = _images(model)
    with torch.autocast("cpu", torch.bfloat16):
        mu, _ = model.encode(x)
        image = model.decode(mu)
    assert image.dtype is torch.bfloat16
    image.float().square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize("blend", [1.0, 0.5])
def test_checkpointed_activations_change_no_bit(blend: float) -> None:
    plain = _small()
    saving = copy.deepcopy(plain)
    saving.checkpoint_activations = True
    assert saving.checkpoint_activations and not plain.checkpoint_activations
    for model in (plain, saving):
        model.grow(2, blend)
        mu, logvar = model.encode(_images(model))
        model.decode_for_training(mu + logvar, noise=ops.PhiloxNoise(5), prior=True).square().sum().backward()
    for (name, mine), theirs in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (mine.grad is None) == (theirs.grad is None), name
        assert mine.grad is None or theirs.grad is None or torch.equal(mine.grad, theirs.grad), name


def test_both_networks_compile_whole() -> None:
    plain = _small(image_size=8)
    compiled = copy.deepcopy(plain)
    compiled.encoder.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    compiled.decoder.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    for blend in (0.5, 0.75, 1.0):
        images = []
        for model in (plain, compiled):
            model.grow(1, blend)
            model.zero_grad()
            mu, _ = model.encode(_images(model))
            images.append(model.decode_for_training(mu, noise=ops.PhiloxNoise(5), prior=False))
            images[-1].square().sum().backward()
        assert _relative(images[1], images[0]) < RELATIVE
        for (name, mine), theirs in zip(plain.named_parameters(), compiled.parameters(), strict=True):
            if mine.grad is not None and float(mine.grad.norm()) > 0:
                assert theirs.grad is not None and _relative(theirs.grad, mine.grad) < 10 * RELATIVE, name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 24}, "image_size is 24, expected a power of two from 4 to 1024"),
        ({"image_size": 2048}, "image_size is 2048, expected a power of two"),
        ({"image_size": 2}, "image_size is 2, expected a power of two"),
        ({"z_dim": 0}, "z_dim is 0, expected a whole number of at least 1"),
        ({"lod": 3}, "lod is 3, expected a whole number from 0 to 2"),
        ({"blend": 1.5}, "blend is 1.5, expected a number from 0 to 1"),
    ],
)
def test_wrong_arguments_are_errors_that_name_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**changes)


def test_wrong_calls_are_errors_that_name_the_argument() -> None:
    model = _small()
    with pytest.raises(ValueError, match=r"images of shape \[3, 8, 8\], expected \[3, 16, 16\] at stage 2"):
        model.encode(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="lod is -1"):
        model.decode(torch.zeros(1, 5), lod=-1)
    with pytest.raises(ValueError, match=r"blend is 5\.0, expected a number from 0 to 1"):
        model.decode(torch.zeros(1, 5), blend=5.0)
    with pytest.raises(TypeError, match="noise is NoneType, expected True, False, a PhiloxNoise or a list of tensors"):
        model.decode(torch.zeros(1, 5), noise=None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="takes none"):
        model.decode(torch.zeros(1, 5), torch.zeros(1, 2))
