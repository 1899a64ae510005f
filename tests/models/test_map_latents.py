"""Latents of maps [B, C, H, W]: every result is that of the same values in a row."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from sivae import ops
from sivae.evaluation.likelihood import PixelDensity, estimate, kl_to_prior
from sivae.models.exporting import export_program
from sivae.models.latent import generate, lerp, prior_samples, slerp
from tests.models.map_latents import map_and_row

every_prior = pytest.mark.parametrize("prior", ["standard", "mixture", "vamp"])


def images(count: int) -> Tensor:
    return torch.rand(count, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@every_prior
def test_samples_of_the_prior_are_maps(prior: str) -> None:
    maps, rows = map_and_row(prior)
    of_maps, of_rows = (model.prior_draws(5, torch.Generator().manual_seed(0)) for model in (maps, rows))
    assert of_maps.shape == (5, 2, 2, 2)
    assert torch.equal(of_maps.flatten(1), of_rows)
    assert torch.equal(prior_samples(maps, 3, 5).flatten(1), prior_samples(rows, 3, 5))
    assert torch.equal(torch.cat(list(generate(maps, 5, seed=3))), torch.cat(list(generate(rows, 5, seed=3))))
    x = images(4)
    assert torch.equal(maps.reconstruct(x), rows.reconstruct(x))


def test_the_kl_is_summed_over_channels_and_places() -> None:
    maps, _ = map_and_row()
    mu, logvar = (values.detach() for values in maps.encode(images(3)))
    assert mu.shape == logvar.shape == (3, 2, 2, 2)
    expected = 0.5 * (mu.square() + logvar.exp() - 1 - logvar).sum((1, 2, 3))
    # 8 terms below 10, each with a few roundings of 1e-16
    torch.testing.assert_close(maps.kl(mu, logvar), expected, rtol=0, atol=1e-13)
    torch.testing.assert_close(ops.reparameterize_kl(mu, logvar)[1], expected, rtol=0, atol=1e-13)


@every_prior
def test_the_kl_to_any_prior_is_that_of_rows(prior: str) -> None:
    maps, rows = map_and_row(prior, prior_std=0.5)
    x = images(3)
    assert torch.equal(maps.kl(*maps.encode(x)), rows.kl(*rows.encode(x)))
    assert torch.equal(kl_to_prior(maps, x), kl_to_prior(rows, x))


@every_prior
def test_likelihoods_are_those_of_rows(prior: str) -> None:
    maps, rows = map_and_row(prior)
    for mine, other in zip(
        *(estimate(model, images(3), density=PixelDensity(2.0), samples=70) for model in (maps, rows)), strict=True
    ):
        assert torch.equal(mine, other)


@pytest.mark.parametrize("path", [lerp, slerp])
def test_paths_are_those_of_rows(path) -> None:
    a, b = torch.randn(2, 3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = path(a, b, 5)
    assert points.shape == (5, 3, 2, 4)
    assert torch.equal(points.flatten(1), path(a.flatten(), b.flatten(), 5))
    # a map in channels-last memory has the same values in another order
    last = path(*(end[None].contiguous(memory_format=torch.channels_last)[0] for end in (a, b)), 5)
    assert torch.equal(last, points)


def test_an_exported_decoder_takes_maps() -> None:
    maps, _ = map_and_row()
    program = export_program(maps, "decode")
    z = torch.randn(5, 2, 2, 2, dtype=torch.float64)
    with torch.no_grad():
        # sums of 8 products below 10
        torch.testing.assert_close(program.module()(z), maps.decode(z), rtol=0, atol=1e-13)


def test_the_number_of_latent_values_counts_all_of_them() -> None:
    maps, _ = map_and_row()
    assert maps.z_dim == maps.noise_dim == math.prod(maps.latent_shape)
