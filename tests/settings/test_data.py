"""The settings of the data open what they name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sivae.settings.data import CloudData


def test_clouds_say_once_which_files_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "test", "extra"):
        np.save(tmp_path / f"{name}.npy", np.random.default_rng(0).normal(size=(2, 9, 3)))
    data = CloudData(path=str(tmp_path), points=9)
    assert len(data.open_part("train")) == len(data.open_part("test")) == 2
    assert capsys.readouterr().err == ""
    data.open_part("train", show=True)
    data.open_part("test", show=True)
    assert capsys.readouterr().err.count("left out: shapes of extra.npy (2)") == 1
