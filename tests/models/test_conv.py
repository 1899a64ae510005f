"""The model `conv`: published outputs, all options, memory formats and precisions, and errors."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sivae.models import ConvVAE, build_model
from sivae.models.norm import batch_statistics, group_count, switches_seen_by_compiler
from sivae.models.official import import_official
from sivae.models.official.conv import official_names
from tests.models import plain_conv
from tests.models.samples import small_conv

FIXTURE = Path(__file__).resolve().parents[1] / "fixtures" / "official_conv_rgb32"

# Two orders of summation in float32: relative errors of a sum of n terms are about sqrt(n) 2^-24, n up to 9 x 512 here,
# and pass through at most 20 layers that neither damp nor amplify: 70 x 6e-8 x sqrt(20) = 2e-5; single layers differ
# by far less. The recordings are held to the 1e-5 that their authors give.
RELATIVE = 1e-5


def _relative(actual: Tensor, expected: Tensor) -> float:
    return float((actual.detach() - expected.detach()).norm() / expected.detach().norm())


def _images(model: ConvVAE, count: int = 4, seed: int = 1) -> Tensor:
    return torch.rand(count, *model.sample_shape, generator=torch.Generator().manual_seed(seed))


def _conditions(model: ConvVAE, count: int = 4) -> Tensor | None:
    if model.condition_dim == 0:
        return None
    return torch.rand(count, model.condition_dim, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels-last"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_equal_the_recorded_ones_of_the_official_program(mode: str, layout: torch.memory_format) -> None:
    arrays = np.load(FIXTURE.with_suffix(".npz"))
    model = import_official(FIXTURE.with_suffix(".pth")).model.train(mode == "train").to(memory_format=layout)
    mu, logvar = model.encode(torch.from_numpy(arrays["x"]))
    decoded = model.decode(torch.from_numpy(arrays["z"]))
    for name, actual in {"mu": mu, "logvar": logvar, "decoded": decoded}.items():
        assert _relative(actual, torch.from_numpy(arrays[f"{mode}_{name}"])) < RELATIVE, name


@pytest.mark.parametrize(
    ("hyperparameters", "sides"),
    [
        ({"image_size": 28, "channels": 1, "widths": (4, 6), "z_dim": 3}, [14, 7]),
        ({"image_size": 24, "channels": 2, "widths": (4, 4, 6), "z_dim": 3, "condition_dim": 7}, [12, 6, 3]),
        ({"image_size": 8, "widths": (5, 4, 4), "z_dim": 2}, [4, 2, 1]),
        ({"image_size": 6, "widths": (4,), "z_dim": 2}, [3]),
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_outputs_equal_a_plain_statement_of_the_networks(
    hyperparameters: dict[str, Any], sides: list[int], training: bool
) -> None:
    model = small_conv(**hyperparameters).double().train(training)
    names = official_names(model)
    state = {names[name]: tensor.clone() for name, tensor in model.state_dict().items()}
    x, condition = _images(model).double(), _conditions(model)
    condition = None if condition is None else condition.double()
    z = torch.randn(4, model.z_dim, generator=torch.Generator().manual_seed(3)).double()
    head = torch.cat(model.encode(x, condition), 1)
    image = model.decode(z, condition)
    assert image.shape == x.shape
    expected = plain_conv.encode(state, x, sides, condition=condition, training=training)
    assert _relative(head, expected) < 1e-12  # float64: the same sums but for their order
    expected = plain_conv.decode(state, z, sides, condition=condition, training=training)
    assert _relative(image, expected) < 1e-12


@pytest.mark.parametrize(
    ("hyperparameters", "encoder", "decoder"),
    [
        ({}, 3.4, 2.4),
        # These two counts are those of twice the published latent.
        ({"image_size": 128, "widths": (64, 128, 256, 512, 512), "z_dim": 256}, 18.5, 14.1),
        ({"image_size": 256, "widths": (64, 128, 256, 512, 512, 512), "z_dim": 256}, 23.2, 18.8),
        ({"image_size": 1024, "widths": (16, 32, 64, 128, 256, 512, 512, 512), "z_dim": 512}, 27.4, 20.9),
    ],
)
def test_published_parameter_counts_in_millions(
    hyperparameters: dict[str, Any], encoder: float, decoder: float
) -> None:
    with torch.device("meta"):
        model = ConvVAE(**hyperparameters)
    counts = [sum(p.numel() for p in network.parameters()) / 1e6 for network in (model.encoder, model.decoder)]
    assert [round(count, 1) for count in counts] == [encoder, decoder]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"image_size": 28},
            r"image_size is 28, not a multiple of 8 = 2\^3 for 3.*24 or 32, or at most 2 widths",
        ),
        ({"image_size": 31}, r"image_size is 31.*take image_size 24 or 32$"),
        ({"image_size": 4}, r"image_size is 4.*take image_size 8, or at most 2 widths"),
        ({"image_size": 6, "widths": (4, 4)}, r"image_size is 6.*take image_size 4 or 8, or at most 1 width$"),
        ({"image_size": 0}, "image_size is 0, expected a whole number of at least 1"),
        ({"image_size": 32.0}, r"image_size is 32\.0, expected a whole number"),
        ({"channels": 0}, "channels is 0, expected"),
        ({"z_dim": True}, "z_dim is True, expected"),
        ({"condition_dim": -1}, "condition_dim is -1, expected a whole number of at least 0"),
        ({"widths": ()}, r"widths is \(\), expected a channel count per halving, such as \(64, 128, 256\)"),
        ({"widths": 64}, "widths is 64, expected a channel count per halving"),
        ({"widths": (64, 0)}, "widths is 0, expected a whole number of at least 1"),
        ({"widths": "64"}, "widths is '64', expected"),
        ({"norm": "layer"}, "norm is 'layer', expected one of batch, group, none"),
    ],
)
def test_wrong_arguments_are_errors_that_name_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^ConvVAE: {message}"):
        ConvVAE(**changes)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_only_batch_norm_mixes_samples(norm: str) -> None:
    model = small_conv(norm=norm, widths=(20, 34))
    x = _images(model)
    together = torch.cat(model.encode(x), 1)
    alone = torch.cat([torch.cat(model.encode(row[None]), 1) for row in x])
    assert model.mixes_samples == (norm == "batch")
    assert (_relative(together, alone) > 1e-2) == model.mixes_samples
    biased = model.encoder.stages[0].conv1.bias is not None
    assert biased == (norm == "none")  # what replaces the norm's shift
    head, decoded = model.encode(x)[0], model.decode(torch.zeros(2, 5))
    (head.sum() + decoded.sum()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_groups_have_at_least_sixteen_channels_and_divide_any_width() -> None:
    assert [group_count(width) for width in (1, 16, 17, 24, 40, 48, 64, 512)] == [1, 1, 1, 1, 2, 3, 4, 32]
    for width in range(1, 200):
        count = group_count(width)
        assert width % count == 0
        assert count == 1 or width // count >= 16


def test_conditions_change_the_output_and_wrong_ones_are_errors() -> None:
    model = small_conv(condition_dim=3).eval()
    x, z, condition = _images(model), torch.zeros(4, 5), torch.rand(4, 3)
    assert not torch.equal(model.encode(x, condition)[0], model.encode(x, condition + 1)[0])
    assert not torch.equal(model.decode(z, condition), model.decode(z, condition + 1))
    assert model(x, condition).shape == x.shape
    with pytest.raises(ValueError, match=r"expected a condition of shape \[4, 3\], got none"):
        model.encode(x)
    with pytest.raises(ValueError, match=r"expected a condition of shape \[4, 3\], got one of shape \[4, 2\]"):
        model.decode(z, condition[:, :2])
    with pytest.raises(ValueError, match="ConvVAE: got a condition, but the model has condition_dim 0"):
        small_conv().encode(x, condition)
    with pytest.raises(ValueError, match="MLPVAE: got a condition, but the model has condition_dim 0"):
        build_model("mlp").decode(torch.zeros(4, 2), condition)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_channels_last_gives_the_same_outputs_and_is_kept(norm: str) -> None:
    model = small_conv(norm=norm, image_size=16, condition_dim=2)
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    x, condition = _images(model), _conditions(model)
    formats: list[bool] = []
    for module in other.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
            module.register_forward_hook(
                lambda module, inputs, output: formats.append(
                    all(t.is_contiguous(memory_format=torch.channels_last) for t in (*inputs, output))
                )
            )
    losses = []
    for network, images in ((model, x), (other, x.contiguous(memory_format=torch.channels_last))):
        mu, logvar = network.encode(images, condition)
        decoded = network.decode(mu, condition)
        loss = decoded.square().sum() + logvar.sum()
        loss.backward()
        losses.append(loss.item())
    assert formats
    assert all(formats)
    assert losses[0] == pytest.approx(losses[1], rel=RELATIVE)
    for mine, theirs in zip(model.parameters(), other.parameters(), strict=True):
        # Gradients of weights before a norm are differences of larger sums.
        assert _relative(theirs.grad, mine.grad) < 10 * RELATIVE
    for mine, theirs in zip(model.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(theirs, mine)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_autocast_to_bfloat16_trains(norm: str) -> None:
    model = small_conv(norm=norm, condition_dim=2).to(memory_format=torch.channels_last)
    x, condition = _images(model), _conditions(model)
    expected = model.encode(x, condition)[0]
    with torch.autocast("cpu", torch.bfloat16):
        mu, _ = model.encode(x, condition)
        decoded = model.decode(mu, condition)
    assert decoded.dtype == torch.bfloat16
    # Every layer rounds to 8 bits, 2^-9 relative, and there are about 10 in a row.
    assert _relative(mu.float(), expected) < 10 * 2**-8
    decoded.float().square().sum().backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in model.parameters())
    assert all(bool(parameter.grad.isfinite().all()) for parameter in model.parameters())


def _gradients(model: ConvVAE, x: Tensor, *, frozen_decoder: bool) -> list[Tensor | None]:
    """Gradients and running statistics of one pass; only the encoder's pass updates running statistics."""
    mu, logvar = model.encode(x)
    model.decoder.requires_grad_(not frozen_decoder)
    with batch_statistics(model.decoder, update=False):
        loss = model.decode(mu).square().sum() + logvar.square().sum()
    model.decoder.requires_grad_(True)
    torch.autograd.backward(loss, inputs=list(model.encoder.parameters()), retain_graph=True)
    if not frozen_decoder:
        torch.autograd.backward(loss, inputs=list(model.decoder.parameters()))
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("frozen_decoder", [False, True])
@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_checkpointed_activations_change_no_bit(norm: str, frozen_decoder: bool) -> None:
    plain = small_conv(norm=norm)
    again = copy.deepcopy(plain)
    assert not again.checkpoint_activations
    again.checkpoint_activations = True
    assert again.encoder.checkpoint_activations
    x = _images(plain)
    for mine, theirs in zip(
        _gradients(plain, x, frozen_decoder=frozen_decoder),
        _gradients(again, x, frozen_decoder=frozen_decoder),
        strict=True,
    ):
        assert (mine is None) == (theirs is None)
        if mine is not None and theirs is not None:
            assert torch.equal(mine, theirs)
    for name, value in plain.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    for module in again.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.track_running_stats
            assert int(module.num_batches_tracked) == (0 if module in set(again.decoder.modules()) else 1)


def test_checkpointed_activations_need_less_memory() -> None:
    def kept(model: ConvVAE) -> int:
        storages: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = model(_images(model, 8)).sum()
        total = sum(storages.values())
        del loss
        return total

    model = small_conv(image_size=32)
    plain = kept(model)
    model.checkpoint_activations = True
    assert kept(model) < plain / 2


@pytest.mark.parametrize("checkpoint_activations", [False, True])
def test_both_networks_compile_whole(checkpoint_activations: bool) -> None:
    plain = small_conv(widths=(4,), condition_dim=2)
    compiled = copy.deepcopy(plain)
    compiled.checkpoint_activations = checkpoint_activations
    # The tracing, and the functional form that buffers take there, is what can fail; code generation takes minutes.
    compiled.encoder.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    compiled.decoder.compile(fullgraph=True, dynamic=False, backend="aot_eager")
    x, condition = _images(plain), _conditions(plain)
    with switches_seen_by_compiler():
        for model in (plain, compiled):
            for update in (True, False, True):
                with batch_statistics(model.encoder, update=update), batch_statistics(model.decoder, update=not update):
                    model.decode(model.encode(x, condition)[0], condition).square().sum().backward()
            model.eval()
    for (name, mine), theirs in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert _relative(theirs.grad, mine.grad) < 10 * RELATIVE, name
    for (name, mine), theirs in zip(plain.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(theirs, mine, msg=name)
    with switches_seen_by_compiler():
        torch.testing.assert_close(compiled(x, condition), plain(x, condition))


@pytest.mark.slow
def test_both_networks_compile_to_code() -> None:
    plain = small_conv()
    compiled = copy.deepcopy(plain)
    compiled.encoder.compile(fullgraph=True, dynamic=False)
    compiled.decoder.compile(fullgraph=True, dynamic=False)
    x = _images(plain)
    for model in (plain, compiled):
        model(x).square().sum().backward()
    for (name, mine), theirs in zip(plain.named_parameters(), compiled.parameters(), strict=True):
        assert _relative(theirs.grad, mine.grad) < 10 * RELATIVE, name
    for (name, mine), theirs in zip(plain.named_buffers(), compiled.buffers(), strict=True):
        torch.testing.assert_close(theirs, mine, msg=name)


@pytest.mark.parametrize(("name", "changes"), [("conv", {"widths": (4, 6), "image_size": 8}), ("mlp", {"hidden": 8})])
def test_sampling_follows_its_generator_and_leaves_the_mode(name: str, changes: dict[str, Any]) -> None:
    model = build_model(name, **changes).train()
    if isinstance(model, ConvVAE):
        model.decoder.stages[0].norm1.eval()  # another mode than the model's
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    draws = [model.sample(3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert draws[0].shape == (3, *model.sample_shape)
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert not draws[0].requires_grad
    again = model.reconstruct(draws[2])
    assert torch.equal(again, model.reconstruct(draws[2]))
    assert not again.requires_grad
    assert [module.training for module in model.modules()] == modes
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key
    with torch.no_grad():
        assert torch.equal(again, model.eval()(draws[2]))


def test_conditional_samples_and_reconstructions() -> None:
    model = small_conv(condition_dim=2)
    condition = torch.eye(2)
    draws = model.sample(2, generator=torch.Generator().manual_seed(0), condition=condition)
    assert model.reconstruct(draws, condition=condition).shape == (2, 3, 8, 8)


def test_hyperparameters_make_the_same_architecture() -> None:
    for model in (small_conv(norm="group", condition_dim=2), build_model("mlp", data_dim=3, hidden=8)):
        again = build_model(model.name, **json.loads(json.dumps(model.hyperparameters)))
        assert {key: value.shape for key, value in again.state_dict().items()} == {
            key: value.shape for key, value in model.state_dict().items()
        }
        assert again.hyperparameters == model.hyperparameters
    assert small_conv().value_range == (0.0, 1.0)
    assert build_model("mlp").value_range is None


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("cnov", {}, "there is no model 'cnov'; there are mlp, conv"),
        ("conv", {"width": 3}, "the model 'conv' has no hyperparameter 'width'; did you mean widths"),
        ("mlp", {"q": 3}, "the model 'mlp' has no hyperparameter 'q'; there are data_dim, z_dim, hidden, layers"),
        ("mlp", {"hidden": 0}, "MLPVAE: hidden is 0, expected a whole number of at least 1"),
    ],
)
def test_models_are_built_by_name(name: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_model(name, **changes)
