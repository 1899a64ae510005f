"""VGG-16: activations equal its layers in plain PyTorch, and only files of its layout are read."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sivae.errors import ModelFileError
from sivae.models.vgg import TAP_CHANNELS, TAPS, VGG16Features, load_vgg16, taps_within
from tests.models.plain_vgg import plain_activations, random_state, write_vgg


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> VGG16Features:
    return load_vgg16(write_vgg(tmp_path_factory.mktemp("vgg") / "vgg16.pth"))


def images(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(count))


def assert_close(came: Tensor, expected: Tensor) -> None:
    # A layer sums at most 9 x 512 products in float32, which errs by about sqrt(4608) 6e-8 = 4e-6 of the activations'
    # scale, and 13 of them follow one another.
    torch.testing.assert_close(came.double(), expected, rtol=0, atol=13 * 4e-6 * float(expected.abs().max()))


def same_weights(network: VGG16Features) -> bool:
    state = network.state_dict()
    return set(state) == set(random_state()) and all(torch.equal(state[k], v) for k, v in random_state().items())


class TestActivations:
    def test_activations_equal_the_layers_in_plain_pytorch(self, network: VGG16Features) -> None:
        x = images(2, 32, 35)
        plain = plain_activations(x)
        for tap, came in zip(TAPS, network(x), strict=True):
            assert came.shape[1] == TAP_CHANNELS[tap] and came.dtype == torch.float32
            assert_close(came, plain[tap])

    def test_taps_are_returned_in_the_requested_order(self, network: VGG16Features) -> None:
        x = images(1, 16, 16)
        every = dict(zip(TAPS, network(x), strict=True))
        third, first = network(x, ("relu3_3", "relu1_2"))
        assert torch.equal(third, every["relu3_3"]) and torch.equal(first, every["relu1_2"])

    def test_the_constructor_fixes_the_taps_and_a_call_may_name_others(self) -> None:
        torch.manual_seed(0)
        small = VGG16Features(("relu2_2",))
        x = images(1, 4, 4)
        (fixed,) = small(x)
        assert fixed.shape == (1, 128, 2, 2)
        assert torch.equal(small(x, ["relu1_2", "relu2_2"])[1], fixed)

    def test_layers_after_the_last_tap_do_not_run(self, network: VGG16Features) -> None:
        ran = []
        hooks = [layer.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, layer in enumerate(network.features)]
        try:
            network(images(1, 8, 8), ("relu2_2", "relu1_2"))
        finally:
            for hook in hooks:
                hook.remove()
        assert ran == list(range(9))

    def test_images_of_another_range_are_converted(self, tmp_path: Path, network: VGG16Features) -> None:
        save_file(random_state(), tmp_path / "vgg16.safetensors")
        signed = load_vgg16(tmp_path / "vgg16.safetensors", ("relu2_2",), value_range=(-1, 1))
        x = images(2, 8, 8)
        (came,) = signed(x * 2 - 1)
        (expected,) = network(x, ("relu2_2",))
        assert_close(came, expected.double())

    def test_grey_images_are_repeated_into_three_channels(self, network: VGG16Features) -> None:
        grey = images(2, 8, 8, channels=1)
        (came,) = network(grey, ("relu2_2",))
        assert torch.equal(came, network(grey.expand(-1, 3, -1, -1), ("relu2_2",))[0])

    def test_images_of_another_dtype_are_converted(self, network: VGG16Features) -> None:
        x = images(1, 4, 4).bfloat16()
        (came,) = network(x, ("relu1_2",))
        assert torch.equal(came, network(x.float(), ("relu1_2",))[0])

    def test_an_empty_batch_gives_empty_maps(self, network: VGG16Features) -> None:
        assert [list(found.shape) for found in network(torch.zeros(0, 3, 4, 6), TAPS[:2])] == [
            [0, 64, 4, 6],
            [0, 128, 2, 3],
        ]

    def test_gradients_reach_the_images_and_not_the_weights(self, network: VGG16Features) -> None:
        x = images(1, 16, 16).requires_grad_()
        sum(found.sum() for found in network(x)).backward()  # type: ignore[union-attr]
        doubled = x.detach().double().requires_grad_()
        sum(found.sum() for found in plain_activations(doubled).values()).backward()  # type: ignore[union-attr]
        assert x.grad is not None and doubled.grad is not None
        assert_close(x.grad, doubled.grad)
        assert all(parameter.grad is None for parameter in network.parameters())

    def test_wrong_images_are_errors(self, network: VGG16Features) -> None:
        for shape in ((3, 16, 16), (1, 2, 16, 16), (1, 4, 16, 16)):
            with pytest.raises(ValueError, match=r"images are \[.*\], expected \[B, C, H, W\] with 1 or 3 channels"):
                network(torch.zeros(shape))
        with pytest.raises(TypeError, match=r"images are torch\.uint8, expected floating point"):
            network(torch.zeros(1, 3, 16, 16, dtype=torch.uint8))
        with pytest.raises(ValueError, match=r"images are 40 x 15, and relu5_3 needs 16 x 16 at least; choose earlier"):
            network(torch.zeros(1, 3, 40, 15))

    def test_unknown_taps_and_empty_ranges_are_errors(self, network: VGG16Features) -> None:
        with pytest.raises(ValueError, match="got 'relu1_1' for a tap, expected some of relu1_2, relu2_2"):
            network(images(1, 16, 16), ("relu1_2", "relu1_1"))
        with pytest.raises(ValueError, match="got none for a tap"):
            network(images(1, 16, 16), ())
        with pytest.raises(ValueError, match=r"value_range is \(1, 0\), expected \(black, white\)"):
            VGG16Features(value_range=(1, 0))

    @pytest.mark.parametrize(("side", "count"), [(1, 1), (2, 2), (3, 2), (4, 3), (8, 4), (15, 4), (16, 5), (900, 5)])
    def test_small_images_have_maps_at_the_first_taps(self, network: VGG16Features, side: int, count: int) -> None:
        taps = taps_within(side, 1000)
        assert taps == taps_within(1000, side) == TAPS[:count]
        if side < 20:
            assert all(found.numel() > 0 for found in network(torch.zeros(1, 1, side, 20), taps))


class Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["SIVAE_TEST_TRAP"],)


class TestFiles:
    def test_a_network_is_frozen_and_in_eval_mode(self, network: VGG16Features) -> None:
        assert same_weights(network)
        assert not network.training and not network.features.training
        assert not any(parameter.requires_grad for parameter in network.parameters())

    def test_loading_draws_no_random_number(self, tmp_path: Path) -> None:
        path = write_vgg(tmp_path / "vgg16.pth")
        before = torch.get_rng_state()
        load_vgg16(path)
        assert torch.equal(torch.get_rng_state(), before)

    def test_half_precision_and_the_old_format_of_torch_save_are_read(self, tmp_path: Path) -> None:
        half = {name: value.half() for name, value in random_state().items()}
        torch.save(half, tmp_path / "vgg16.pt", _use_new_zipfile_serialization=False)
        state = load_vgg16(tmp_path / "vgg16.pt").state_dict()
        assert all(torch.equal(state[name], value.float()) for name, value in half.items())

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: {"layer": torch.zeros(3)}, r"lacks features\.0\.weight, features\.0\.bias"),
            (lambda state: {k: v for k, v in state.items() if ".21." not in k}, r"lacks features\.21\.weight"),
            (lambda state: {k[9:]: v for k, v in state.items()}, r"lacks features\.0\.weight"),
            (lambda state: {**state, "features.30.weight": torch.zeros(1)}, r"holds features\.30\.weight, which"),
            (
                lambda state: {**state, "features.2.weight": torch.zeros(64, 3, 3, 3)},
                r"features\.2\.weight has shape \[64, 3, 3, 3\], expected \[64, 64, 3, 3\]",
            ),
            (
                lambda state: {**state, "features.0.bias": torch.zeros(64, dtype=torch.long)},
                r"features\.0\.bias is torch\.int64, expected torch\.float32",
            ),
        ],
    )
    def test_another_layout_is_an_error_that_names_its_first_key(
        self, tmp_path: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]], message: str
    ) -> None:
        # Small tensors after the first layers, because the check stops before them.
        short = {k: v if k.split(".")[1] in "02" else torch.zeros(1) for k, v in random_state().items()}
        torch.save(change(short), tmp_path / "x.pth")
        with pytest.raises(ModelFileError, match=rf"x\.pth:? {message}.*; name torchvision's .*vgg16-397923af\.pth"):
            load_vgg16(tmp_path / "x.pth")

    def test_values_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        torch.save({"features.0.bias": torch.full((64,), torch.nan)}, tmp_path / "x.pth")
        with pytest.raises(ModelFileError, match=r"features\.0\.bias has infinite or NaN values"):
            load_vgg16(tmp_path / "x.pth")

    def test_code_is_not_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("SIVAE_TEST_TRAP", str(tmp_path / "sprung"))
        torch.save({"features.0.weight": Trap()}, tmp_path / "saved.pth")
        (tmp_path / "pickled.pth").write_bytes(pickle.dumps(Trap()))
        (tmp_path / "pickled.safetensors").write_bytes(pickle.dumps(Trap()))
        for path in sorted(tmp_path.iterdir()):
            with pytest.raises(ModelFileError, match=rf"{path.name}.*vgg16-397923af\.pth") as caught:
                load_vgg16(path)
            assert "weights_only" not in str(caught.value)  # torch advises to switch it off
        assert not (tmp_path / "sprung").exists()

    def test_a_file_of_another_format_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "text.pth").write_text("hello")
        (tmp_path / "empty.pth").touch()
        (tmp_path / "text.safetensors").write_text("hello")
        torch.save(torch.zeros(3), tmp_path / "tensor.pth")
        torch.save({"epoch": 3}, tmp_path / "checkpoint.pth")
        for path in sorted(tmp_path.iterdir()):
            with pytest.raises(ModelFileError, match=rf"{path.name}.*vgg16-397923af\.pth"):
                load_vgg16(path)
        for name in ("none.pth", "none.safetensors"):
            with pytest.raises(FileNotFoundError):
                load_vgg16(tmp_path / name)
        with pytest.raises(IsADirectoryError):
            load_vgg16(tmp_path)
