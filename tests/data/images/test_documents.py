"""The examples of docs/data.md run in order, on small data; the figures of docs/ffhq.md are right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from sivae.cli.main import main
from sivae.data.images.halving import lower_levels
from tests.data.images.samples import cifar10_python, mnist, pngs, write_files, write_tar, write_zip

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "data.md"
IMAGES = {"FFHQ": 70_000, "CelebA-HQ": 30_000}


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    photos = pngs([f"{'ab'[number % 2]}/{number}.png" for number in range(12)], height=70, width=80)
    write_zip(tmp_path / "photos.zip", photos | {"a/damaged.png": b""})
    write_tar(tmp_path / "cifar-10-python.tar.gz", cifar10_python()[0])
    write_files(tmp_path / "mnist", {f"train-{end}": data for end, data in mnist()[2].items()})
    write_files(tmp_path / "ffhq/images1024x1024", pngs(["00000/00000.png", "01000/01000.png"], height=128, width=128))
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```(bash|python)\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert [kind for kind, _ in examples] == ["bash", "python", "python", "python", "python", "python"]
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
        "photos64: 12 images of 64×64×3, 2 classes, 1 damaged skipped",
        "cifar10-test: 3 images of 32×32×3, 10 classes",
        "mnist32: 6 images of 32×32×1",
        "ffhq128: 2 images of 128×128×3\n",
        "13 ('a', 'b') 0",
        "12 (12, 32, 32, 3)",
        "[(12, 32, 32, 3), (12, 8, 8, 3)]",
        "host 3",
        "12000 2000 ['chair', 'table', 'plane', 'lamp']",
    ):
        assert said in out


def rows_after(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table that has a heading in its first row."""
    lines = page[page.index(f"\n{heading}") + 1 :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_figures_of_the_page_on_ffhq_are_counted_right() -> None:
    page = (DOCUMENT.parent / "ffhq.md").read_text()

    def gigabytes(images: int, side: int) -> float:
        return images * side**2 * 3 / 1e9

    disk = rows_after(page, "| | side | FFHQ, GB |")
    assert [int(row[1]) for row in disk] == [128, 256, 512, 1024]
    for _, side, *figures in disk:
        expected = []
        for images in IMAGES.values():
            own = gigabytes(images, int(side))
            expected += [own, own + sum(gigabytes(images, lower) for lower in lower_levels(int(side)))]
        assert figures == [f"{value:.1f}" for value in expected]
    memory = rows_after(page, "| side | FFHQ, GB |")
    assert [int(row[0]) for row in memory] == [4 << stage for stage in range(9)]
    for side, *figures in memory:
        assert figures == [f"{gigabytes(images, int(side)):.3f}" for images in IMAGES.values()]
    counts = rows_after(page, "| preset | epochs of a stage |")
    sides = {"celebahq256": 256, "ffhq256": 256, "FFHQ at 512": 512, "ffhq1024": 1024}
    for name, *figures in counts:
        key = name.strip("`")
        images = IMAGES["CelebA-HQ" if key.startswith("celeba") else "FFHQ"] / 1e6
        epochs, stages = int(figures[0]), len(lower_levels(sides[key]))
        last = 300 - epochs * stages
        each = f"{epochs * images:.2f}"
        assert figures[1:] == [str(stages), each, str(last), f"{last * images:.2f}", f"{300 * images:.2f}"]
    hours = rows_after(page, "| images per second |")
    counted = {figure for row in counts for figure in (row[3], row[5])}
    for rate, *figures in hours:
        totals = (0.90, 1.12, 3.60, 12.04, 14.28)
        assert {f"{total:.2f}" for total in totals} <= counted
        exact = [total * 1e6 / 3600 / int(rate) for total in totals]
        # Rounded to a tenth; 0.25 may go either way.
        assert [float(figure) for figure in figures] == pytest.approx(exact, rel=0, abs=0.05 + 1e-9)
