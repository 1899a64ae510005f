"""The examples in docs/models.md run."""

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
    for stem, name in (("official_conv_rgb32", "cifar10"), ("official_style128", "ffhq")):
        shutil.copy(ROOT / "tests" / "fixtures" / f"{stem}.pth", f"{name}.pth")
    blocks = re.findall(r"```(python|sh)\n(.*?)```", (ROOT / "docs" / "models.md").read_text(), flags=re.DOTALL)
    assert [language for language, _ in blocks] == ["python"] * 4 + ["sh", "python"]
    for language, block in blocks:
        if language == "python":
            exec(compile(block, "models.md", "exec"), {})
        else:
            for line in block.splitlines():
                main(shlex.split(line)[1:])
    printed = capsys.readouterr().out
    assert "official conv" in printed and "official style" in printed
    assert (tmp_path / "models" / "copy" / "model.json").exists()
