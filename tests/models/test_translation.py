"""The model `translation`: the layout of a latent, and the recombination of two."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sivae.models import build_model
from sivae.models.translation import TranslationVAE


def small(**changes: Any) -> TranslationVAE:
    torch.manual_seed(0)
    sizes = {"image_size": 8, "content_dim": 3, "class_dim": 5, "width": 2, "hidden": 7}
    return TranslationVAE(**(sizes | changes))


def images(count: int, model: TranslationVAE) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, *model.sample_shape, generator=generator, dtype=next(model.parameters()).dtype)


def test_the_networks_at_64_pixels_are_those_of_the_paper() -> None:
    with torch.device("meta"):
        model = TranslationVAE()
    for encoder, dim in ((model.encoder.content, 128), (model.encoder.of_class, 256)):
        convolutions = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Conv2d)]
        assert [(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in convolutions] == [
            (64, 7, 1),
            (128, 4, 2),
            (256, 4, 2),
            (256, 4, 2),
            (256, 4, 2),
        ]
        linear = [layer for layer in encoder.modules() if isinstance(layer, torch.nn.Linear)]
        assert [layer.out_features for layer in linear] == [256, 256, 2 * dim]
    decoder = model.decoder
    assert [layer.out_features for layer in decoder.content if isinstance(layer, torch.nn.Linear)] == [256, 256, 4096]
    assert [(block.in_channels, block.out_channels) for block in decoder.blocks] == [(256, 256)] * 4
    assert (decoder.conv.kernel_size, decoder.conv.out_channels) == ((5, 5), 64)
    assert (decoder.predict.kernel_size, decoder.predict.out_channels) == ((7, 7), 3)
    assert model.z_dim == 128 + 256


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_decoding_equals_its_definition(memory_format: torch.memory_format) -> None:
    model = small(image_size=16).double()
    z = torch.randn(4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    decoder = model.decoder
    content, of_class = model.split(z)
    x = F.leaky_relu(decoder.content(content), 0.2).unflatten(1, (8, 4, 4))
    styles = decoder.styles(of_class).view(4, 2, 2, 8)  # [B, blocks, scale and shift, channels]
    for index, block in enumerate(decoder.blocks):
        x = F.conv2d(F.interpolate(x, scale_factor=2), block.weight, block.bias, padding=1)
        x = F.instance_norm(F.leaky_relu(x, 0.2), eps=1e-5)
        scale, shift = styles[:, index, 0, :, None, None], styles[:, index, 1, :, None, None]
        x = x * (1 + scale) + shift
    expected = decoder.predict(F.leaky_relu(decoder.conv(x), 0.2)).sigmoid()
    model.to(memory_format=memory_format)
    assert (model.decode(z) - expected).abs().max() < 1e-12  # float64: the same sums but for their order


def test_content_comes_first_in_mu_and_logvar() -> None:
    model = small().double()
    x = images(4, model)
    mu, logvar = model.encode(x)
    content, of_class = model.encoder.content(x), model.encoder.of_class(x)
    assert torch.equal(mu, torch.cat([content[:, :3], of_class[:, :5]], 1))
    assert torch.equal(logvar, torch.cat([content[:, 3:], of_class[:, 5:]], 1))
    assert [part.shape[1] for part in model.split(mu)] == [3, 5]
    part = model.class_part(mu)
    assert torch.equal(part, mu[:, 3:]) and part.data_ptr() == mu[:, 3:].data_ptr()


def test_a_translation_has_the_content_of_one_image_and_the_class_of_the_other() -> None:
    model = small().double().train()
    a, b = images(6, model).split(3)
    mu_a, mu_b = model.encode(a)[0], model.encode(b)[0]
    expected = model.decode(torch.cat([mu_a[:, :3], mu_b[:, 3:]], 1))
    translated = model.translate(a, b)
    assert torch.equal(translated, expected) and not translated.requires_grad and model.training
    assert torch.equal(model.translate(a, a), model.reconstruct(a))


def test_images_that_do_not_fit_are_errors() -> None:
    model = small()
    x = images(2, model)
    with pytest.raises(ValueError, match=r"of_class has shape \[2, 3, 16, 16\], expected \['B', 3, 8, 8\]"):
        model.translations(x, torch.rand(2, 3, 16, 16))
    with pytest.raises(ValueError, match="content has 2 images and of_class 1"):
        model.translate(x, x[:1])


def test_pairs_exchange_their_classes_and_keep_their_contents() -> None:
    model = small()
    z = torch.arange(32.0).view(4, 8)
    assert model.latents_to_decode(z) is z
    model.exchanges = True
    exchanged = model.latents_to_decode(z)
    assert torch.equal(exchanged[:, :3], z[:, :3])
    assert torch.equal(exchanged[:, 3:], z[[1, 0, 3, 2], 3:])
    with pytest.raises(ValueError, match="a batch has 3 samples, expected pairs"):
        model.latents_to_decode(z[:3])


def test_codes_are_looked_up_and_learn_faster() -> None:
    model = small(coded_images=4, coded_classes=2)
    assert model.encoder.codes is not None
    codes = model.encoder.codes(torch.tensor([3, 0]), torch.tensor([1, 1]))
    assert torch.equal(codes[:, :3], model.encoder.codes.content[[3, 0]])
    assert torch.equal(codes[:, 3:], model.encoder.codes.of_class[[1, 1]])
    named = dict(model.named_parameters())
    assert set(model.rate_scales()) == {name for name in named if ".codes." in name}
    assert small().rate_scales() == {} and small().encoder.codes is None


def test_hyperparameters_make_the_same_architecture() -> None:
    model = small(coded_images=4, coded_classes=2)
    again = build_model(model.name, **model.hyperparameters)
    assert {name: value.shape for name, value in again.state_dict().items()} == {
        name: value.shape for name, value in model.state_dict().items()
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 48}, "image_size is 48, expected a power of two from 8"),
        ({"image_size": 4}, "image_size is 4, expected a power of two from 8"),
        ({"content_dim": 0}, "content_dim is 0, expected a whole number of at least 1"),
        ({"width": 1.5}, "width is 1.5"),
        ({"coded_images": -1}, "coded_images is -1"),
        ({"coded_images": 3}, "coded_images is 3 and coded_classes 0, expected both or neither"),
    ],
)
def test_wrong_arguments_are_errors_that_name_them(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^TranslationVAE: {message}"):
        small(**changes)
