"""Model folders load bit for bit; a damaged one is an error that names the file and the damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from sivae import files
from sivae.errors import ModelFileError
from sivae.models import MLPVAE, MODELS, ConvVAE, VAEModel, build_model
from sivae.models.pair import PairVAE
from sivae.models.storage import load_model, save_model, write_model
from tests.models.samples import small_conv


def _assert_same_state(one: VAEModel, other: VAEModel) -> None:
    for name, value in one.state_dict().items():
        assert torch.equal(other.state_dict()[name], value), name


@pytest.mark.parametrize(
    "model",
    [
        small_conv(condition_dim=2),
        small_conv(norm="group"),
        build_model("mlp", hidden=8),
        build_model("autoencoder", image_size=4, widths=[2, 4], layers=1, groups=2, pipeline={"shift_factor": 0.1}),
    ],
    ids=["conv", "group", "mlp", "autoencoder"],
)
def test_a_saved_model_loads_bit_for_bit(tmp_path: Path, model: VAEModel) -> None:
    state = torch.random.get_rng_state()
    save_model(tmp_path / "new" / "folder", model.to(memory_format=torch.channels_last), source={"file": "x.pth"})
    loaded = load_model(tmp_path / "new" / "folder")
    assert torch.equal(torch.random.get_rng_state(), state)
    assert type(loaded) is type(model)
    assert loaded.hyperparameters == model.hyperparameters
    _assert_same_state(model, loaded)
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    described = json.loads((tmp_path / "new" / "folder" / "model.json").read_text())
    assert described == {
        "format": 1,
        "name": model.name,
        "hyperparameters": model.hyperparameters,
        "source": {"file": "x.pth"},
    }


def test_a_model_folder_is_replaced_as_a_whole_and_no_other_folder_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    save_model(folder, small_conv(0))
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_safetensors", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            save_model(folder, small_conv(1))
    _assert_same_state(load_model(folder), small_conv(0))
    save_model(folder, small_conv(1))
    _assert_same_state(load_model(folder), small_conv(1))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ModelFileError, match="model holds other files than a model's; choose another folder"):
        save_model(folder, small_conv(2))
    with pytest.raises(ModelFileError, match=r"notes\.txt holds other files"):
        save_model(folder / "notes.txt", small_conv(2))
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    save_model(Path("."), small_conv(2))
    _assert_same_state(load_model(empty), small_conv(2))


def test_averaged_weights_are_a_second_file(tmp_path: Path) -> None:
    write_model(tmp_path, small_conv(0), averaged=small_conv(1))
    _assert_same_state(load_model(tmp_path), small_conv(0))
    _assert_same_state(load_model(tmp_path, averaged=True), small_conv(1))
    (tmp_path / "ema.safetensors").unlink()
    with pytest.raises(ModelFileError, match=r"ema\.safetensors is missing"):
        load_model(tmp_path, averaged=True)


def _rewrite_weights(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def _replace(tensors: dict[str, Any], bias: torch.Tensor) -> None:
    tensors["encoder.head.bias"] = bias


def _rewrite_description(folder: Path, **changes: Any) -> None:
    described = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps(described | changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), r"model\.json is missing; a model folder has"),
        (lambda folder: (folder / "model.json").write_text("{"), r"model\.json is damaged: not JSON in line 1"),
        (
            lambda folder: (folder / "model.json").write_bytes(b"\xff\xfe"),
            r"model\.json is damaged: byte 0 is no UTF-8",
        ),
        (lambda folder: (folder / "model.json").write_text("[" * 100_000), r"model\.json is damaged: .* nested"),
        (
            lambda folder: (folder / "model.json").write_text("[]"),
            r"model\.json is damaged: the content = \[\]: expected an object",
        ),
        (
            lambda folder: _rewrite_description(folder, format=2),
            r"model\.json: format is 2, expected 1; use the version",
        ),
        (lambda folder: _rewrite_description(folder, name=3), r"model\.json is damaged: name = 3: expected text"),
        (lambda folder: _rewrite_description(folder, name="x"), r"model\.json: there is no model 'x'"),
        (
            lambda folder: _rewrite_description(folder, hyperparameters={"wide": 1}),
            r"model\.json: the model 'conv' has no hyperparameter 'wide'",
        ),
        (
            lambda folder: _rewrite_description(folder, hyperparameters={"image_size": "8"}),
            r"model\.json: ConvVAE: image_size is '8', expected a whole number",
        ),
        (
            lambda folder: _rewrite_description(folder, hyperparameters={"widths": [10**6, 10**5], "image_size": 8}),
            r"model\.safetensors: encoder\.entry\.conv\.weight has shape \[4, 3, 5, 5\], expected \[1000000, 3, 5, 5\]",
        ),
        (lambda folder: _rewrite_description(folder, hyperparameters={"z_dim": 10**40}), r"model\.json: \w"),
        *(
            (
                lambda folder, name=name, given=given: _rewrite_description(folder, name=name, hyperparameters=given),
                rf"model\.json: \w+: {next(iter(given))} is \d+, expected at most [\d,]+",
            )
            for name, given in (
                ("mlp", {"layers": 10**9}),
                ("style", {"mapping_layers": 10**9}),
                ("conv", {"image_size": 2**10_000, "widths": [1] * 10_000}),
                ("translation", {"image_size": 2**10_000}),
            )
        ),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 99), r"model\.safetensors cannot be read"),
        (
            lambda folder: _rewrite_weights(folder, lambda tensors: tensors.pop("decoder.head.bias")),
            r"model\.safetensors lacks decoder\.head\.bias; it is damaged",
        ),
        (
            lambda folder: _rewrite_weights(folder, lambda tensors: tensors.update(extra=torch.zeros(1))),
            r"model\.safetensors holds extra, which this model does not have",
        ),
        (
            lambda folder: _rewrite_weights(folder, lambda tensors: _replace(tensors, torch.zeros(9))),
            r"model\.safetensors: encoder\.head\.bias has shape \[9\], expected \[10\]",
        ),
        (
            lambda folder: _rewrite_weights(
                folder, lambda tensors: _replace(tensors, torch.zeros(10, dtype=torch.int64))
            ),
            r"model\.safetensors: encoder\.head\.bias is torch\.int64, expected torch\.float32",
        ),
    ],
)
def test_a_damaged_folder_is_an_error_that_names_the_damage(
    tmp_path: Path, damage: Callable[[Path], object], message: str
) -> None:
    save_model(tmp_path / "model", small_conv())
    damage(tmp_path / "model")
    with pytest.raises(ModelFileError, match=message):
        load_model(tmp_path / "model")


def test_weights_of_another_precision_load_in_float32(tmp_path: Path) -> None:
    save_model(tmp_path / "model", small_conv().double())
    loaded = load_model(tmp_path / "model")
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}
    _assert_same_state(loaded, small_conv())


def test_compiled_networks_are_saved_under_their_own_names(tmp_path: Path) -> None:
    model = small_conv()
    expected = model.state_dict()
    model.encoder = torch.compile(model.encoder)
    save_model(tmp_path / "model", torch.compile(model))  # type: ignore[arg-type]
    loaded = load_model(tmp_path / "model").state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[name], value) for name, value in expected.items())


class _Conv(ConvVAE):
    """Adds no parameters to its base."""


class _Wider(ConvVAE):
    """Adds parameters that its base does not have."""

    def __init__(self) -> None:
        super().__init__(8, widths=(4,))
        self.more = nn.Linear(2, 2)


class _Own(MLPVAE):
    name = "own"

    def __init__(self, hyperparameters: object, hidden: int = 4) -> None:
        super().__init__(hidden=hidden, layers=1)
        self.hyperparameters = hyperparameters  # type: ignore[assignment]


def test_a_subclass_with_the_same_parameters_loads_as_its_base(tmp_path: Path) -> None:
    model = _Conv(8, widths=(4,))
    save_model(tmp_path / "model", model)
    loaded = load_model(tmp_path / "model")
    assert type(loaded) is ConvVAE
    _assert_same_state(model, loaded)


def test_a_subclass_with_other_parameters_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"do not make this _Wider again \(they make other parameters or buffers\)"):
        save_model(tmp_path / "model", _Wider())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("model", [PairVAE(nn.Linear(2, 4), nn.Linear(2, 2)), nn.Linear(2, 2), _Own({})])
def test_a_model_of_no_architecture_is_refused_when_it_is_saved(tmp_path: Path, model: Any) -> None:
    with pytest.raises(TypeError, match=r"save_model: model is \w+, expected one of sivae.models.MODELS \(mlp, conv"):
        save_model(tmp_path / "model", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hyperparameters", "problem"),
    [
        ({"hyperparameters": {}, "hidden": 5}, "they make other parameters or buffers"),
        ({"hyperparameters": {}, "hidden": 4, "depth": 3}, "has no hyperparameter 'depth'"),
        ({"hyperparameters": torch.zeros(2)}, "not JSON serializable"),
        ({}, "missing 1 required positional argument"),
    ],
)
def test_hyperparameters_that_do_not_make_the_model_again_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hyperparameters: dict[str, Any], problem: str
) -> None:
    monkeypatch.setitem(MODELS, "own", _Own)
    save_model(tmp_path / "good", _Own({"hyperparameters": {}, "hidden": 4}))
    assert isinstance(load_model(tmp_path / "good"), _Own)
    with pytest.raises(TypeError, match=rf"save_model: model.hyperparameters do not make this _Own again .*{problem}"):
        save_model(tmp_path / "bad", _Own(hyperparameters))
    assert not (tmp_path / "bad").exists()
