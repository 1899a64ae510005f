"""What docs/models.md shows runs, from top to bottom."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from sivae.cli.main import main

ROOT = Path(__file__).resolve().parents[2]


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(ROOT / "tests" / "fixtures" / "official_conv_rgb32.pth", "cifar10.pth")
    blocks = re.findall(r"```(python|sh)\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["python", "python", "sh", "python"]
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "models.md", "exec"), {})
        else:
            main(shlex.split(block)[1:])
    assert "official conv" in capsys.readouterr().out
    assert (tmp_path / "models" / "copy" / "model.json").exists()
