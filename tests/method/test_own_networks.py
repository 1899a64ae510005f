"""Steps train any modules: a pair of networks, or a module with an encoder and a decoder."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sivae.models import MLPVAE
from sivae.models.pair import PairVAE
from sivae.objectives import IntroObjective, SoftIntroObjective, VAEObjective
from sivae.training import IntroStep, SoftIntroStep, VAEStep

STEPS = [
    pytest.param(VAEStep, VAEObjective(beta_kl=0.3), id="VAE"),
    pytest.param(IntroStep, IntroObjective(), id="IntroVAE"),
    pytest.param(SoftIntroStep, SoftIntroObjective(scale=0.5, beta_neg=1.0, gamma_r=1.0), id="Soft-IntroVAE"),
    pytest.param(SoftIntroStep, SoftIntroObjective(scale=0.5, beta_neg=1.0, bootstrap=1.0), id="bootstrap"),
]


class _TwoHeads(nn.Module):
    """An encoder that returns mu and logvar as a tuple."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mu, logvar = self.network(x).chunk(2, dim=1)
        return mu, logvar


class _OwnVAE(nn.Module):
    """A module with its own methods; `encode` clamps the output of the encoder."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder
        self.calls = 0

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        mu, logvar = self.encoder(x).chunk(2, dim=1)
        return mu, logvar.clamp(-30.0, 20.0)

    def decode(self, z: Tensor) -> Tensor:
        decoded: Tensor = self.decoder(z)
        return decoded


def _networks() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(3)
    model = MLPVAE(hidden=16, layers=2).double()
    return model.encoder, model.decoder


def _trained(step_class, objective, model, encoder: nn.Module, decoder: nn.Module) -> Tensor:
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (encoder, decoder)]
    step = step_class(model, *optimizers, objective, generator=torch.Generator().manual_seed(1))
    batch = torch.randn(7, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    for _ in range(2):
        step(batch)
    return torch.cat([p.detach().flatten() for network in (encoder, decoder) for p in network.parameters()])


@pytest.mark.parametrize(("step_class", "objective"), STEPS)
def test_a_pair_of_modules_trains_as_a_model_made_of_them(step_class, objective) -> None:
    torch.manual_seed(3)
    model = MLPVAE(hidden=16, layers=2).double()
    expected = _trained(step_class, objective, model, model.encoder, model.decoder)

    encoder, decoder = _networks()
    assert torch.equal(_trained(step_class, objective, (encoder, decoder), encoder, decoder), expected)

    encoder, decoder = _networks()
    two_heads = _TwoHeads(encoder)
    assert torch.equal(_trained(step_class, objective, (two_heads, decoder), encoder, decoder), expected)

    encoder, decoder = _networks()
    own = _OwnVAE(encoder, decoder)
    assert torch.equal(_trained(step_class, objective, own, encoder, decoder), expected)
    assert own.calls > 0


def test_networks_with_batch_norm_run_fakes_separately() -> None:
    """Real and fake batches must not share statistics: each pass of the encoder is of one kind of sample."""
    encoder, decoder = _networks()
    normed = nn.Sequential(nn.BatchNorm1d(2).double(), copy.deepcopy(encoder))
    sizes: list[int] = []
    normed.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    step = SoftIntroStep(
        (normed, decoder),
        torch.optim.SGD(normed.parameters(), lr=0.05),
        torch.optim.SGD(decoder.parameters(), lr=0.05),
        SoftIntroObjective(scale=0.5),
    )
    step(torch.randn(7, 2, dtype=torch.float64))
    assert sizes == [7] * 5  # E(x), then two kinds of fakes in each of the two updates


class _Bare(nn.Module):
    """A VAE with a head after its encoder and a layer before its decoder, and methods that call both."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module, names: tuple[str, str]) -> None:
        super().__init__()
        self.names = names
        for name, network in zip(names, (encoder, decoder), strict=True):
            setattr(self, name, network[1:] if network is decoder else network[:-1])
        self.head, self.entry = encoder[-1], decoder[0]

    def encode(self, x: Tensor) -> Tensor:
        return self.head(getattr(self, self.names[0])(x))

    def decode(self, z: Tensor) -> Tensor:
        return getattr(self, self.names[1])(self.entry(z))


@pytest.mark.parametrize("names", [("encoder", "decoder"), ("inference", "generator")])
@pytest.mark.parametrize(("step_class", "objective"), STEPS)
def test_layers_belong_to_the_network_whose_optimizer_has_them(step_class, objective, names) -> None:
    encoder, decoder = _networks()
    expected = _trained(step_class, objective, (encoder, decoder), encoder, decoder)
    encoder, decoder = _networks()
    assert torch.equal(
        _trained(step_class, objective, _Bare(encoder, decoder, names=names), encoder, decoder), expected
    )


@pytest.mark.parametrize(("step_class", "objective"), STEPS)
def test_a_model_around_which_torch_compile_was_called_trains_as_itself(step_class, objective) -> None:
    models = [MLPVAE(hidden=4, layers=1) for _ in range(2)]
    optimizers = [[torch.optim.SGD(part.parameters(), lr=0.1) for part in (one.encoder, one.decoder)] for one in models]
    assert step_class(torch.compile(models[0]), *optimizers[0], objective).model is models[0]


class _Returns(nn.Module):
    """A network whose result is changed by a function."""

    def __init__(self, network: nn.Module, change: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.network, self.change = network, change

    def forward(self, x: Tensor) -> object:
        return self.change(self.network(x))


def _step(encoder: nn.Module, decoder: nn.Module, **options: Any) -> SoftIntroStep:
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (encoder, decoder)]
    return SoftIntroStep((encoder, decoder), *optimizers, SoftIntroObjective(scale=0.5), **options)


@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda h: (h[:, :2], h[:, 2:], h), r"a tuple \(a tensor \[7, 2\], a tensor \[7, 2\], a tensor \[7, 4\]\)"),
        (lambda h: (h[:, :1], h[:, 2:]), r"a tuple \(a tensor \[7, 1\], a tensor \[7, 2\]\)"),
        (lambda h: h[:, :3], r"a tensor \[7, 3\]"),
        (lambda h: {"mu": h}, "dict"),
    ],
    ids=["three", "two shapes", "odd", "a table"],
)
def test_an_encoder_without_mu_and_logvar_is_an_error(change, came: str) -> None:
    encoder, decoder = _networks()
    batch = torch.randn(7, 2, dtype=torch.float64)
    with pytest.raises(TypeError, match=f"encoder returned {came}, expected mu and logvar: .*; return these alone"):
        _step(_Returns(encoder, change), decoder)(batch)
    model = MLPVAE(hidden=16, layers=2).double()
    model.encoder = _Returns(model.encoder, change)
    with pytest.raises(TypeError, match=f"encoder returned {came}, expected mu and logvar"):
        model.encode(batch)


def test_a_model_takes_an_encoder_of_two_heads() -> None:
    model = MLPVAE(hidden=16, layers=2)
    x = torch.randn(7, 2)
    mu, logvar = model.encode(x)
    model.encoder = _TwoHeads(model.encoder)
    assert torch.equal(model.encode(x)[0], mu)
    assert torch.equal(model.encode(x)[1], logvar)


@pytest.mark.parametrize(
    ("change", "came"),
    [
        (lambda x: (x, x), r"a tuple \(a tensor \[7, 2\], a tensor \[7, 2\]\)"),
        (lambda x: x[:, :1], r"a tensor \[7, 1\]"),
        (lambda x: x[:3], r"a tensor \[3, 2\]"),
    ],
    ids=["two", "another shape", "another number"],
)
def test_a_decoder_without_samples_of_the_batch_s_shape_is_an_error(change, came: str) -> None:
    encoder, decoder = _networks()
    with pytest.raises(
        ValueError, match=rf"decoder returned {came} for latents .*, expected a tensor \[7, 2\], as the"
    ):
        _step(encoder, _Returns(decoder, change))(torch.randn(7, 2, dtype=torch.float64))


def test_another_distance_may_compare_other_shapes() -> None:
    encoder, decoder = _networks()
    wide = nn.Sequential(decoder, nn.Linear(2, 5).double())
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (encoder, wide)]
    step = VAEStep(
        (encoder, wide), *optimizers, VAEObjective(), distance=lambda recon, target: recon.sum(1) - target.sum(1)
    )
    assert step(torch.randn(7, 2, dtype=torch.float64))["loss"].isfinite()


def test_latents_of_another_size_than_the_model_s_are_an_error() -> None:
    model = MLPVAE(z_dim=2)
    model.encoder = nn.Linear(2, 6)
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (model.encoder, model.decoder)]
    with pytest.raises(ValueError, match=r"encoder returned mu of shape \[7, 3\] .*, expected \[7, 2\]; change"):
        SoftIntroStep(model, *optimizers, SoftIntroObjective())(torch.randn(7, 2))


def test_latents_that_the_decoder_does_not_take_are_shown() -> None:
    encoder, decoder = nn.Linear(2, 6), nn.Linear(2, 2)
    with pytest.raises(RuntimeError) as caught:
        _step(encoder, decoder)(torch.randn(7, 2))
    assert caught.value.__notes__ == ["SoftIntroStep: the model's decoder failed on the encoder's z of shape [7, 3]"]


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(7, 2), "dtype of the batch is torch.float32, expected torch.float64 as that of the encoder's"),
        (torch.zeros(7, 2, dtype=torch.uint8), "dtype of the batch is torch.uint8, expected torch.float64"),
        (torch.zeros(7, 2, dtype=torch.float64, device="meta"), "device of the batch is meta, expected cpu"),
    ],
    ids=["float32", "uint8", "device"],
)
def test_a_batch_that_does_not_fit_the_encoder_is_an_error(batch: Tensor, message: str) -> None:
    if batch.is_meta:  # linear layers of torch take this
        encoder: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(2, 4)).double()
        encoder.register_forward_pre_hook(lambda module, inputs: _refuse_meta(inputs[0]))
        decoder: nn.Module = nn.Linear(2, 2).double()
    else:
        encoder, decoder = _networks()
    with pytest.raises(ValueError, match=message):
        _step(encoder, decoder)(batch)


def _refuse_meta(x: Tensor) -> None:
    if x.is_meta:
        raise RuntimeError("Expected all tensors to be on the same device")


def test_a_loader_s_pair_is_no_batch() -> None:
    pair = [torch.zeros(7, 2), torch.zeros(7)]
    with pytest.raises(TypeError, match=r"batch is a list \(a tensor \[7, 2\], a tensor \[7\]\), expected a tensor"):
        _step(*_networks())(pair)  # type: ignore[arg-type]


def test_a_network_in_eval_mode_is_said_once(recwarn: pytest.WarningsRecorder) -> None:
    encoder, decoder = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 4)), nn.Linear(2, 2)
    step = _step(encoder, decoder)
    step(torch.randn(7, 2))
    assert not recwarn.list
    encoder.eval()
    for _ in range(2):
        step(torch.randn(7, 2))
    assert ["encoder is in eval mode" in str(warning.message) for warning in recwarn.list] == [True]


def test_optimizers_of_other_parameters_are_errors() -> None:
    encoder, decoder = _networks()
    mine, theirs = (torch.optim.SGD(network.parameters(), lr=0.05) for network in (encoder, decoder))
    joint = torch.optim.SGD([*encoder.parameters(), *decoder.parameters()], lr=0.05)
    other = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.05)
    for optimizers, message in (
        ((theirs, mine), "encoder_optimizer has parameters of the decoder, expected parameters of the encoder alone"),
        ((mine, joint), "decoder_optimizer has parameters of the encoder"),
        ((mine, other), "decoder_optimizer has no parameters of the decoder"),
    ):
        with pytest.raises(ValueError, match=message):
            SoftIntroStep((encoder, decoder), *optimizers, SoftIntroObjective())
    with pytest.raises(TypeError, match="encoder_optimizer is list, expected an optimizer of torch"):
        SoftIntroStep((encoder, decoder), list(encoder.parameters()), theirs, SoftIntroObjective())  # type: ignore


@pytest.mark.parametrize("model", [nn.Linear(2, 2), "model", (nn.Linear(2, 2),)], ids=["module", "text", "one of two"])
def test_other_objects_are_errors_that_name_their_type(model: object) -> None:
    optimizer = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.05)
    with pytest.raises(TypeError, match=r"SoftIntroStep: model is \w+, expected a VAEModel, a pair"):
        SoftIntroStep(model, optimizer, optimizer, SoftIntroObjective())  # type: ignore[arg-type]


@pytest.mark.parametrize("wrapped", [False, True], ids=["a function", "a partial function"])
def test_a_decoder_behind_a_function_cannot_have_a_target_decoder(wrapped: bool) -> None:
    encoder, decoder = _networks()
    optimizers = [torch.optim.SGD(network.parameters(), lr=0.05) for network in (encoder, decoder)]

    def decode(z: Tensor, scale: float = 1.0) -> Any:
        return scale * decoder(z)

    model = PairVAE(encoder, decoder, decode=functools.partial(decode, scale=2.0) if wrapped else decode)
    with pytest.raises(ValueError, match="decode is a function, expected a module or a method of one"):
        SoftIntroStep(model, *optimizers, SoftIntroObjective(bootstrap=1.0))


def test_a_target_decoder_of_a_partial_method_is_a_copy() -> None:
    encoder, decoder = _networks()
    model = PairVAE(encoder, decoder, decode=functools.partial(decoder.forward))
    target, z = model.with_own_decoder(), torch.randn(3, 2, dtype=torch.float64)
    before = target.decode(z)
    with torch.no_grad():
        next(decoder.parameters()).add_(1.0)
    assert torch.equal(target.decode(z), before) and not torch.equal(model.decode(z), before)


def test_a_decoder_that_cannot_be_copied_cannot_have_a_target_decoder() -> None:
    encoder, decoder = _networks()
    with pytest.warns(FutureWarning, match="weight_norm"):
        decoder = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 2)), decoder)
    with pytest.raises(ValueError, match="PairVAE: the decoder has a computed tensor as an attribute, expected"):
        PairVAE(encoder, decoder).with_own_decoder()
