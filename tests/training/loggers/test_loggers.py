"""Loggers are made by their names; a missing package is an error that says how to install it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from sivae.errors import ConfigError
from sivae.training import make_loggers
from sivae.training.loggers import LOGGERS, default_loggers


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have packages not be installed."""
    return lambda *names: [monkeypatch.setitem(sys.modules, name, None) for name in names]


def test_loggers_are_made_by_name() -> None:
    assert [type(one).__name__ for one in make_loggers(["tensorboard"])] == ["TensorBoard"]
    assert make_loggers([]) == []
    with pytest.raises(ConfigError, match="log = 'wand': expected some of tensorboard, wandb, mlflow"):
        make_loggers(["wand"])


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("tensorboard", "tensorboard"),
        ("wandb", r"'soft-intro-vae\[wandb\]'"),
        ("mlflow", r"'soft-intro-vae\[mlflow\]'"),
    ],
)
def test_a_missing_package_is_an_error_with_a_remedy(name: str, source: str, without: Any) -> None:
    without(name)
    message = f"log = '{name}': the package {name} is not installed; pip install {source} adds it, or leave {name} out"
    with pytest.raises(ConfigError, match=message):
        make_loggers([name])


def test_a_folder_of_a_package_s_name_is_no_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, without: Any
) -> None:
    """Weights & Biases itself makes a folder `wandb` where it works."""
    (tmp_path / "wandb").mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    importlib.invalidate_caches()
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    with pytest.raises(ConfigError, match="the package wandb is not installed"):
        make_loggers(["wandb"])


def test_the_default_says_what_is_missing(without: Any) -> None:
    notices: list[str] = []
    assert [type(one).__name__ for one in default_loggers(notices.append)] == ["TensorBoard"]
    assert notices == []
    without("tensorboard")
    assert default_loggers(notices.append) == []
    assert notices == ["no TensorBoard events: the package is missing; pip install tensorboard adds them"]


def test_making_a_logger_imports_no_package() -> None:
    """So that every process of a run can check at once, and only the first one pays for the import."""
    before = set(sys.modules)
    make_loggers([name for name in LOGGERS if importlib.util.find_spec(name) is not None])
    assert not {"wandb", "mlflow", "torch.utils.tensorboard"} & (set(sys.modules) - before)
