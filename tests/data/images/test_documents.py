"""Every example of docs/data.md, in order, on small data of the kinds it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sivae.cli.main import main
from tests.data.images.samples import cifar10_python, mnist, pngs, write_files, write_tar, write_zip

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "data.md"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photos = pngs([f"{'ab'[number % 2]}/{number}.png" for number in range(12)], height=70, width=80)
    write_zip(tmp_path / "photos.zip", photos | {"a/damaged.png": b""})
    write_tar(tmp_path / "cifar-10-python.tar.gz", cifar10_python()[0])
    write_files(tmp_path / "mnist", {f"train-{end}": data for end, data in mnist()[2].items()})
    write_files(tmp_path / "ffhq/images1024x1024", pngs(["00000/00000.png", "01000/01000.png"], height=128, width=128))
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```(bash|python)\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert [kind for kind, _ in examples] == ["bash", "python", "python", "python"]
    for kind, text in examples:
        if kind == "bash":
            for line in text.splitlines():
                program, *words = shlex.split(line, comments=True)
                assert program == "sivae"
                main(words)
        else:
            exec(compile(text, str(DOCUMENT), "exec"), {})
    out = capsys.readouterr().out
    for said in (
        "photos64: 12 images of 64×64×3, 2 classes, 1 damaged ones skipped",
        "cifar10-test: 3 images of 32×32×3, 10 classes",
        "mnist32: 6 images of 32×32×1",
        "ffhq128: 2 images of 128×128×3\n",
        "13 ('a', 'b') 0",
        "12 (12, 32, 32, 3)",
        "host 3",
    ):
        assert said in out
