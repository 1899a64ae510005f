"""The table of formats feeds detection, texts and documents."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from sivae.data.images import PackedImages, formats, open_images, opening
from sivae.data.images.formats.table import FORMATS, Format, Found, titles, titles_and_files
from sivae.data.stores import FolderStore, Store
from tests.data.images.samples import write_files

# Modules that several readers use.
SHARED = {"class_index", "inert_pickle", "matlab", "npy", "releases", "sequences", "table", "tensorflow_files"}
DOCUMENT = Path(__file__).resolve().parents[4] / "docs" / "data.md"


@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.title)
def test_a_reader_finds_nothing_in_files_of_no_format(row: Format, tmp_path: Path) -> None:
    store = FolderStore(write_files(tmp_path, {"notes.txt": b"x", "a/b.bin": b"y"}))
    assert row.find(store) == row.find(store, "notes.txt") == []


def test_every_reader_has_a_row() -> None:
    readers = {module.name for module in pkgutil.iter_modules(formats.__path__)} - SHARED
    assert {row.module.removeprefix("formats.") for row in FORMATS} == readers | {"prepared"}


def test_a_file_and_a_row_add_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def find(store: Store, only: str | None) -> list[Found]:
        dots = [name for name in store.sizes if name.endswith(".dot")]
        pixel = np.zeros((len(dots), 1, 1, 3), np.uint8)
        return [Found("dots", lambda request: PackedImages(pixel, name=request.name))] if dots else []

    monkeypatch.setitem(sys.modules, "sivae.data.images.formats.dots", SimpleNamespace(find=find))
    monkeypatch.setattr(opening, "FORMATS", (*FORMATS, Format("dots", "NAME.dot", "formats.dots")))
    images = open_images(write_files(tmp_path / "set", {"1.dot": b"", "2.dot": b""}))
    assert (images.name, len(images), images.read(1).shape) == ("set", 2, (1, 1, 3))


def test_texts_name_every_format() -> None:
    assert titles().startswith("image files, CIFAR, ") and titles().endswith(" or a set packed by sivae prepare")
    for row in FORMATS:
        assert row.title in titles() and f"{row.title} ({row.files})" in titles_and_files()


def test_texts_need_neither_torch_nor_numpy() -> None:
    script = (
        "import sys\nfrom sivae.data.images.formats.table import titles\ntitles()\n"
        "assert not {'torch', 'numpy', 'PIL'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_the_page_on_data_names_every_format() -> None:
    page = DOCUMENT.read_text()
    table = page[page.index("\n| data |") :].split("\n\n")[0]
    documented = [line.split("|")[1].strip() for line in table.strip().splitlines()[2:]]
    assert [row.title for row in FORMATS if row.title not in documented] == []
