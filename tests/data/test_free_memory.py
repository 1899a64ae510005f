"""The free memory is what a container's limit leaves, where files that were read count as free."""

from __future__ import annotations

from pathlib import Path

import pytest

from sivae.data import free_memory
from sivae.data.free_memory import available_memory
from tests.data.images.samples import write_files

STAT = b"anon 100\ninactive_file 700\ntotal_inactive_file 800\n"
VERSION_2 = {"memory.max": b"1000\n", "memory.current": b"990\n", "memory.stat": STAT}
VERSION_1 = {
    "memory/memory.limit_in_bytes": b"1000\n",
    "memory/memory.usage_in_bytes": b"990\n",
    "memory/memory.stat": STAT,
}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        (VERSION_2, 10 + 700),
        (VERSION_1, 10 + 800),
        ({**VERSION_2, **VERSION_1}, 10 + 700),
        ({**VERSION_2, "memory.stat": b"anon 100\n"}, 10),
        ({name: VERSION_2[name] for name in ("memory.max", "memory.current")}, 10),
        ({**VERSION_2, "memory.current": b"2000\n"}, 0),
    ],
)
def test_the_files_that_a_container_has_read_count_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes], free: int
) -> None:
    monkeypatch.setattr(free_memory, "_CGROUP", write_files(tmp_path, files))
    assert available_memory() == free


def test_a_container_without_a_limit_has_the_memory_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(free_memory, "_CGROUP", write_files(tmp_path, {**VERSION_2, "memory.max": b"max\n"}))
    assert available_memory() > 1000
