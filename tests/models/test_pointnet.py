"""The networks for point clouds: the authors' outputs, any number of points in any order, norms, the prior's units."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae.models import PointVAE
from sivae.models.norm import batch_statistics
from sivae.models.official import import_official
from sivae.models.pointnet import _argmax, _largest
from tests.models.official_points import recorded, recorded_state

RELATIVE = 1e-5  # what recordings of the official programs are compared to


def _small(seed: int = 0, **changes: Any) -> PointVAE:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes: dict[str, Any] = {"points": 20, "z_dim": 3, "widths": (6, 8), "hidden": 7, "decoder_widths": (5,)}
        return PointVAE(**{**sizes, **changes})


def _clouds(count: int, points: int, seed: int = 1) -> Tensor:
    return torch.rand(count, points, 3, generator=torch.Generator().manual_seed(seed)) - 0.5


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> PointVAE:
    path: Path = tmp_path_factory.mktemp("official") / "points.pth"
    torch.save(recorded_state(), path)
    model = import_official(path).model
    assert isinstance(model, PointVAE)
    return model


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_outputs_are_those_of_the_authors_program(official: PointVAE, mode: str) -> None:
    arrays = recorded()
    std = official.hyperparameters["prior_std"]
    official.train(mode == "train")
    with torch.no_grad(), batch_statistics(official, update=False):
        mu, logvar = official.encode(arrays["x"])
        decoded = official.decode(arrays["z"] / std)
    # The model's z is in units of the prior's standard deviation.
    found = {"mu": mu * std, "logvar": logvar + 2.0 * math.log(std), "decoded": decoded.transpose(1, 2)}
    for name, mine in found.items():
        theirs = arrays[f"{mode}_{name}"]
        assert (mine - theirs).abs().max() <= RELATIVE * theirs.abs().max(), name
        # The clouds are much alike to random networks. What differs between them agrees as well.
        mine, theirs = mine - mine.mean(0), theirs - theirs.mean(0)
        assert (mine - theirs).abs().max() <= RELATIVE * theirs.abs().max(), name


def _plain(model: PointVAE) -> nn.Sequential:
    """The encoder up to the maximum, in layers of torch: [B, 3, N] -> [B, C, N]."""
    layers: list[nn.Module] = []
    for layer in model.encoder.layers:
        weight, bias = layer.linear.weight, layer.linear.bias
        conv = nn.Conv1d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
        with torch.no_grad():
            conv.weight.copy_(weight.unsqueeze(2))
            if bias is not None and conv.bias is not None:
                conv.bias.copy_(bias)
        norm: nn.Module = nn.Identity()
        if isinstance(layer.norm, nn.BatchNorm2d):
            norm = nn.BatchNorm1d(layer.norm.num_features)
        elif isinstance(layer.norm, nn.GroupNorm):
            norm = nn.GroupNorm(layer.norm.num_groups, layer.norm.num_channels)
        layers += [conv, nn.ReLU(), norm]
    return nn.Sequential(*layers).to(next(model.parameters()).dtype)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("points", [1, 20, 33])
def test_the_encoder_is_the_network_of_the_paper_for_any_number_of_points(norm: str, points: int) -> None:
    model = _small(norm=norm).double()
    plain = _plain(model)
    x = _clouds(4, points).double().requires_grad_()
    mu, logvar = model.encode(x)
    features = plain(x.transpose(1, 2)).max(2)[0]
    heads = model.encoder.head(model.encoder.hidden(features).relu())
    expected_mu, expected_logvar = heads.chunk(2, 1)
    expected = expected_mu / 0.2, expected_logvar - 2.0 * math.log(0.2)
    for mine, theirs in zip((mu, logvar), expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)
    mine = torch.autograd.grad((mu.square() + logvar.square()).sum(), x)[0]
    theirs = torch.autograd.grad((expected[0].square() + expected[1].square()).sum(), x)[0]
    torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_the_order_of_the_points_does_not_matter(norm: str) -> None:
    model = _small(norm=norm).double()
    x = _clouds(4, 20).double()
    for mine, theirs in zip(model.encode(x), model.encode(x[:, torch.randperm(20)]), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-9)  # sums of the norm in another order


@pytest.mark.parametrize(("norm", "mixes"), [("batch", True), ("group", False), ("none", False)])
def test_only_batch_norm_makes_clouds_depend_on_each_other(norm: str, mixes: bool) -> None:
    model = _small(norm=norm).double().train()
    x = _clouds(4, 20).double()
    alone = torch.cat([model.encode(one[None])[0] for one in x])
    assert model.mixes_samples == mixes
    assert torch.allclose(alone, model.encode(x)[0], rtol=1e-9, atol=1e-9) != mixes


def test_the_prior_is_standard_in_units_of_its_deviation() -> None:
    narrow, standard = _small(prior_std=0.2), _small(prior_std=1.0)
    x, z = _clouds(4, 20), torch.randn(4, 3)
    for mine, theirs in (
        (narrow.encode(x)[0], standard.encode(x)[0] / 0.2),
        (narrow.decode(z), standard.decode(0.2 * z)),
    ):
        torch.testing.assert_close(mine, theirs)
    # log var - log 0.2^2
    torch.testing.assert_close(narrow.encode(x)[1], standard.encode(x)[1] - math.log(0.04))


def test_decoded_clouds_and_samples_have_the_model_s_points() -> None:
    model = _small()
    assert model.sample_shape == (20, 3)
    assert model.decode(torch.zeros(2, 3)).shape == (2, 20, 3)
    assert model.sample(5).shape == (5, 20, 3)
    assert model.reconstruct(_clouds(2, 50)).shape == (2, 20, 3)


@pytest.mark.parametrize("points", [1, 7, 64, 96, 256])
def test_the_maximum_takes_the_first_of_equal_points(points: int) -> None:
    x = torch.randint(0, 4, (3, points, 5), generator=torch.Generator().manual_seed(points)).float()
    x.requires_grad_()
    expected = x.amax(1, keepdim=True)
    assert torch.equal(_argmax(x.detach()), (x == expected).int().argmax(1, keepdim=True))
    assert torch.equal(_largest(x), expected.squeeze(1))
    (gradient,) = torch.autograd.grad(_largest(x).sum(), x)
    assert gradient.sum() == 15.0
    assert int((gradient != 0).sum()) == 15


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": 0}, "points is 0, expected a whole number of at least 1"),
        ({"z_dim": 1.5}, "z_dim is 1.5"),
        ({"widths": ()}, r"widths is \(\), expected 1 to 1000 widths"),
        ({"widths": "64"}, "widths is 64, expected 1 to 1000 widths"),
        ({"decoder_widths": (4, 0)}, "decoder_widths is 0, expected a whole number of at least 1"),
        ({"norm": "layer"}, "norm is 'layer', expected one of batch, group, none"),
        ({"prior_std": 0.0}, "prior_std is 0.0, expected a finite number above 0"),
        ({"prior_std": "x"}, "prior_std is 'x'"),
        ({"prior_std": math.inf}, "prior_std is inf"),
    ],
)
def test_wrong_arguments_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _small(**changes)
