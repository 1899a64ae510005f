"""Checkpoints of the authors' programs become models; other files are errors with a reason."""

from __future__ import annotations

import contextlib
import os
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sivae.errors import ModelFileError
from sivae.models import ConvVAE, PointVAE, StyleVAE
from sivae.models.official import import_official
from sivae.models.official.conv import official_names
from tests.models.official_points import recorded_state
from tests.models.samples import small_conv

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
FIXTURE = FIXTURES / "official_conv_rgb32.pth"
STYLE_FIXTURE = FIXTURES / "official_style128.pth"


def _official_state(model: ConvVAE) -> dict[str, Tensor]:
    names = official_names(model)
    return {names[name]: value for name, value in model.state_dict().items()}


def _saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def test_the_architecture_follows_from_names_and_shapes() -> None:
    imported = import_official(FIXTURE)
    assert imported.model.hyperparameters == {
        "image_size": 32,
        "channels": 3,
        "widths": [8, 16, 32],
        "z_dim": 16,
        "norm": "batch",
        "condition_dim": 0,
    }
    assert imported.source == {"format": "official conv", "file": "official_conv_rgb32.pth", "epoch": 7}
    assert not imported.model.training
    state = torch.load(FIXTURE, weights_only=True)["model"]
    assert set(_official_state(imported.model)) == set(state)


def _with_single_biases(state: dict[str, Any]) -> None:
    for head in ("mu_layer", "std_layer"):
        state[f"encoder.{head}.bias"] = torch.tensor(0.0)


@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": 28, "channels": 1},
        {"condition_dim": 3},
        {"widths": (4,)},
        {"widths": (4, 4, 4), "z_dim": 1},
        {"norm": "none", "image_size": 20},
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_every_configuration_is_imported(tmp_path: Path, changes: dict[str, Any], wrapped: bool) -> None:
    model = small_conv(**changes)
    state = _official_state(model)
    if wrapped:  # as DataParallel names them, without an epoch around them
        content: dict[str, Any] = {f"module.{name}": value for name, value in state.items()}
    else:
        content = {"epoch": 3, "model": state}
    imported = import_official(_saved(tmp_path / "x.pth", content))
    assert imported.model.hyperparameters == model.hyperparameters
    for name, value in model.state_dict().items():
        assert torch.equal(imported.model.state_dict()[name], value), name
    assert imported.source.get("epoch") == (None if wrapped else 3)


def test_a_checkpoint_without_norms_gets_biases_of_zero(tmp_path: Path) -> None:
    model = small_conv(norm="none")
    state = _official_state(model)
    for name in list(state):
        if name.endswith("bias") and "fc" not in name and "predict" not in name:
            del state[name]
    imported = import_official(_saved(tmp_path / "x.pth", {"epoch": 3, "model": state}))
    assert float(imported.model.state_dict()["encoder.entry.conv.bias"].abs().max()) == 0.0
    assert torch.equal(imported.model.state_dict()["decoder.predict.bias"], state["decoder.main.predict.bias"])


class _Foreign:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (os.environ["SIVAE_TEST_TRAP"],)


def test_objects_are_refused_and_not_created(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trap = tmp_path / "sprung"
    monkeypatch.setenv("SIVAE_TEST_TRAP", str(trap))
    path = _saved(tmp_path / "x.pth", {"epoch": 1, "model": _official_state(small_conv()), "extra": _Foreign()})
    with pytest.raises(
        ModelFileError, match=r"x\.pth: refused, because it holds more than .*posix\.mkdir, which could run"
    ):
        import_official(path)
    assert not trap.exists()


def test_files_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    whole = FIXTURE.read_bytes()
    for content in (b"", b"no", b"PK\x03\x04" + b"\0" * 99, os.urandom(999), whole[: len(whole) // 2], b"\x80\x02}q."):
        path.write_bytes(content)
        with pytest.raises(ModelFileError, match=r"x\.pth(: not a checkpoint of torch\.save, or damaged| holds)"):
            import_official(path)
    with pytest.raises(FileNotFoundError):
        import_official(tmp_path / "none.pth")
    with pytest.raises(IsADirectoryError):
        import_official(tmp_path)
    for other, words in (
        ([1, 2], "one list"),
        (torch.zeros(3), "one Tensor"),
        ({}, "an empty table"),
        ({"layer.weight": torch.zeros(3)}, r"a table of layer\.weight"),
        ({"models": {}, "auxiliary": 1, "iteration": 2, "more": 3}, r"a table of models, auxiliary, iteration …"),
        ({"model": [1]}, "a table of model"),
    ):
        with pytest.raises(ModelFileError, match=rf"x\.pth holds {words}: no checkpoint of the official conv model"):
            import_official(_saved(path, other))


def _without(name: str) -> Callable[[dict[str, Any]], object]:
    return lambda state: state.pop(name)


def _with(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda state: state.update({name: value})


def _renamed_norms(state: dict[str, Any]) -> None:
    for name in [name for name in state if name.endswith(("running_mean", "running_var", "tracked"))]:
        del state[name]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("encoder.main.0.weight"), r"lacks encoder\.main\.0\.weight; it is damaged, or holds another network"),
        (_without("encoder.fc.weight"), r"lacks encoder\.fc\.weight"),
        (_without("decoder.main.predict.bias"), r"lacks decoder\.main\.predict\.bias"),
        (_without("encoder.main.res_in_2.bn2.running_var"), r"lacks encoder\.main\.res_in_2\.bn2\.running_var"),
        (_with("encoder.fc.weight", torch.zeros(4)), r"encoder\.fc\.weight has shape \[4\], expected 2 dimensions"),
        (_with("encoder.fc.weight", torch.zeros(10, 4)), r"encoder\.fc\.weight has shape \[10, 4\], expected 2 z_dim"),
        (
            _with("encoder.fc.weight", torch.zeros(11, 24)),
            r"has shape \[11, 24\], expected 2 z_dim rows",
        ),
        (
            _with("encoder.fc.weight", torch.zeros(10, 25)),
            r"decoder\.fc\.0\.weight has shape \[24, 5\], expected",
        ),
        (_with("decoder.main.res_in_8.conv1.weight", torch.zeros(6, 6, 3, 3)), r"res_in_8\.conv1\.weight has shape"),
        (_with("encoder.main.res_in_4.extra", torch.zeros(1)), r"holds encoder\.main\.res_in_4\.extra, which"),
        (_with("note", "text"), "expected names and dense tensors, got a table of note"),
        (_with("encoder.fc.bias", torch.full((10,), torch.nan)), r"encoder\.fc\.bias has infinite or NaN values"),
        (_with("encoder.fc.bias", torch.zeros(10, dtype=torch.int64)), r"encoder\.fc\.bias is torch\.int64, expected"),
        (_with("encoder.fc.bias", torch.zeros(1).expand(10**9)), r"encoder\.fc\.bias claims 1,000,000,000 values"),
        (_renamed_norms, "a norm without running statistics, and the number of its groups"),
    ],
)
def test_a_damaged_checkpoint_is_an_error_that_names_the_damage(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    state = _official_state(small_conv())
    damage(state)
    with pytest.raises(ModelFileError, match=rf"x\.pth.*{message}"):
        import_official(_saved(tmp_path / "x.pth", {"epoch": 1, "model": state}))


def test_an_image_size_that_halving_does_not_divide_is_an_error(tmp_path: Path) -> None:
    state = _official_state(small_conv(image_size=16, widths=(4, 6, 6)))
    shrunk = {name.replace("encoder.main.res_in_8", "encoder.main.res_in_7"): value for name, value in state.items()}
    with pytest.raises(ModelFileError, match=r"a network that is not supported: ConvVAE: image_size is 14"):
        import_official(_saved(tmp_path / "x.pth", {"epoch": 1, "model": shrunk}))


def test_a_style_checkpoint_is_read_without_its_objects() -> None:
    imported = import_official(STYLE_FIXTURE)
    assert isinstance(imported.model, StyleVAE)
    assert imported.model.hyperparameters == {
        "image_size": 128,
        "channels": 3,
        "start_channels": 4,
        "max_channels": 16,
        "z_dim": 16,
        "mapping_layers": 3,
        "lod": 5,
        "blend": 1.0,
    }
    assert imported.source == {
        "format": "official style",
        "file": "official_style128.pth",
        "averaged": True,
        "iteration": 123,
    }
    assert not imported.model.training


def test_trained_networks_differ_from_the_averaged_ones() -> None:
    averaged, trained = (import_official(STYLE_FIXTURE, averaged=which).model for which in (True, False))
    same = [
        name
        for (name, mine), theirs in zip(averaged.named_parameters(), trained.parameters(), strict=True)
        if torch.equal(mine, theirs)
    ]
    assert not same
    assert torch.equal(averaged.average_style, trained.average_style)  # there is one for both


def _style_content() -> dict[str, Any]:
    with torch.serialization.safe_globals([(_Blank, "tracker.RunningMeanTorch")]):
        content: dict[str, Any] = torch.load(STYLE_FIXTURE, weights_only=True)
    del content["auxiliary"]
    return content


class _Blank:
    def __setstate__(self, state: object) -> None:
        """Accept the state of an object of the authors' program, and drop it."""


@pytest.mark.parametrize(
    ("table", "name", "value", "message"),
    [
        ("generator_s", "const", None, r"lacks generator\.const"),
        ("generator_s", "const", torch.zeros(1, 16, 4, 5), r"constant|const has shape \[1, 16, 4, 5\]"),
        ("generator_s", "more", torch.zeros(3), r"holds generator\.more"),
        ("discriminator_s", "encode_block.0.blur.weight", torch.ones(4, 1, 3, 3), r"is not the blur \[1 2 1\]"),
        ("mapping_fl_s", "map_blocks.0.fc.weight", torch.zeros(16), "expected 2 dimensions"),
        ("mapping_tl_s", "map_blocks.2.fc.bias", torch.full((32,), torch.nan), "infinite or NaN"),
        ("dlatent_avg", "buff", torch.zeros(12, 15), r"buff has shape \[12, 15\]"),
    ],
)
def test_damaged_style_tables_are_named(
    tmp_path: Path, table: str, name: str, value: Tensor | None, message: str
) -> None:
    content = _style_content()
    if value is None:
        del content["models"][table][name]
    else:
        content["models"][table][name] = value
    with pytest.raises(ModelFileError, match=message):
        import_official(_saved(tmp_path / "x.pth", content))


def test_a_style_checkpoint_without_averaged_networks_is_an_error(tmp_path: Path) -> None:
    content = _style_content()
    for name in list(content["models"]):
        if name.endswith("_s"):
            del content["models"][name]
    path = _saved(tmp_path / "x.pth", content)
    with pytest.raises(
        ModelFileError, match=r"lacks the table 'discriminator_s' .* does not hold the averaged networks"
    ):
        import_official(path)
    assert import_official(path, averaged=False).source["averaged"] is False


def test_the_architecture_of_a_point_checkpoint_follows_from_its_names_and_shapes(tmp_path: Path) -> None:
    state = recorded_state()
    for content in (state, {f"module.{name}": value for name, value in state.items()}):
        imported = import_official(_saved(tmp_path / "x.pth", content))
        assert isinstance(imported.model, PointVAE)
        assert imported.model.hyperparameters == PointVAE().hyperparameters  # the published sizes are the defaults
        assert imported.source == {"format": "official points", "file": "x.pth"}
        assert not imported.model.training


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_without("encoder.conv.0.weight"), r"lacks encoder\.conv\.0\.weight"),
        (_without("encoder.conv.3.weight"), r"lacks encoder\.conv\.3\.weight"),
        (_without("encoder.conv.2.running_mean"), "no batch norm in its encoder; only networks with it"),
        (_without("encoder.mu_layer.weight"), r"lacks encoder\.mu_layer\.weight"),
        (_without("encoder.std_layer.bias"), r"encoder\.mu_layer\.bias and .* are not two tensors of one kind"),
        (_with_single_biases, r"encoder\.mu_layer\.bias and .* are not two tensors of one kind"),
        (_without("encoder.fc.0.bias"), r"lacks encoder\.fc\.0\.bias"),
        (_without("decoder.model.8.weight"), r"lacks decoder\.model\.8\.weight"),
        (_with("decoder.model.8.weight", torch.zeros(64, 8)), "expected two at least, and the last of three"),
        (_with("encoder.fc.0.weight", torch.tensor(1.0)), "is a single number, expected a weight"),
        (_with("encoder.conv.3.weight", torch.zeros(128, 32, 1)), r"conv\.3\.weight has shape \[128, 32\], expected"),
        (_with("encoder.conv.99999999999.weight", torch.zeros(3)), r"holds encoder\.conv\.99999999999\.weight"),
        (_with("encoder.conv.9999.weight", torch.zeros(3)), r"lacks encoder\.conv\.15\.weight"),
        (_with("encoder.fc.0.bias", torch.full((256,), torch.inf)), "has infinite or NaN values"),
        (_with("more", torch.zeros(3)), "holds more, which this model does not have"),
    ],
)
def test_a_damaged_point_checkpoint_is_an_error_that_names_the_damage(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], message: str
) -> None:
    state = recorded_state()
    damage(state)
    with pytest.raises(ModelFileError, match=rf"x\.pth.*{message}"):
        import_official(_saved(tmp_path / "x.pth", state))


class _Calling:
    """An object that is pickled as a function call."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self._call


@pytest.mark.parametrize("kind", ["eval", "exec", "run", "touch"])
def test_functions_named_in_a_pickle_are_not_called(tmp_path: Path, kind: str) -> None:
    trap = tmp_path / "sprung"
    calls = {
        "eval": _Calling(eval, f"open({str(trap)!r}, 'w')"),
        "exec": _Calling(exec, f"open({str(trap)!r}, 'w')"),
        "run": _Calling(subprocess.run, ["touch", str(trap)]),
        "touch": _Calling(Path.touch, trap),
    }
    path = _saved(tmp_path / "x.pth", {"epoch": 1, "model": _official_state(small_conv()), "extra": calls[kind]})
    # Whether the file is refused for it or read without it.
    with contextlib.suppress(ModelFileError):
        assert isinstance(import_official(path).model, ConvVAE)
    assert not trap.exists()


def _rewritten(path: Path, change: Callable[[str, bytes], bytes], compression: int = zipfile.ZIP_STORED) -> None:
    """Replace records in a checkpoint, which is a zip archive."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, change(name, content))


class _Table(dict[str, int]):
    """A table of an unknown class, pickled as an object with items."""


class _List(list[int]):
    """A list of an unknown class."""


@pytest.mark.parametrize("foreign", [_Table(a=1), _Table(a=1, b=2), _List([1]), _List([1, 2])])
def test_foreign_lists_and_tables_are_refused_with_the_reason(tmp_path: Path, foreign: object) -> None:
    path = _saved(tmp_path / "x.pth", {"epoch": 1, "model": _official_state(small_conv()), "extra": foreign})
    with pytest.raises(ModelFileError, match=r"x\.pth: refused, because objects of unknown classes act as lists or"):
        import_official(path)


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = _saved(tmp_path / "x.pth", {"epoch": 1, "model": _official_state(small_conv())})
    _rewritten(path, lambda name, content: bytes(20_000_000) if name.endswith("/data/0") else content, zipfile.ZIP_LZMA)
    with pytest.raises(ModelFileError, match=r"x\.pth: not a checkpoint .* it would unpack to 20,\d+,\d+ bytes"):
        import_official(path)


def test_a_storage_that_claims_more_than_it_holds_is_not_read(tmp_path: Path) -> None:
    path = _saved(tmp_path / "x.pth", {"epoch": 1, "model": {"encoder.main.0.weight": torch.arange(4.0)}})

    def change(name: str, content: bytes) -> bytes:
        # The count of values, 4, where the storage and where the shape is said; now 2^20.
        return content.replace(b"K\x04", b"J\x00\x00\x10\x00") if name.endswith("data.pkl") else content

    _rewritten(path, change)
    with pytest.raises(ModelFileError, match=r"x\.pth: not a checkpoint of torch\.save, or damaged"):
        import_official(path)


@pytest.mark.parametrize(
    "program", [b"cposix\nsystem\nX\x04\x00\x00\x00true\x85R.", b"]X\xff\xff\xff\x7fa.", b"((((", b"}"]
)
def test_malformed_pickles_are_refused(tmp_path: Path, program: bytes) -> None:
    path = _saved(tmp_path / "x.pth", {"epoch": 1, "model": {"encoder.main.0.weight": torch.arange(4.0)}})
    _rewritten(path, lambda name, content: b"\x80\x02" + program if name.endswith("data.pkl") else content)
    with pytest.raises(ModelFileError, match=r"x\.pth"):
        import_official(path)
