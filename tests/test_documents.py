"""Links of the documents lead somewhere, and their examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document):
    targets = re.findall(r"\]\(([^)#]+)\)", document.read_text())
    local = [target for target in targets if "://" not in target]
    missing = [target for target in local if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("README.md", 2),
        ("docs/training.md", 4),
        ("docs/ood.md", 1),
        ("docs/translation.md", 1),
        ("docs/points.md", 1),
        ("docs/autoencoder.md", 1),
    ],
)
def test_the_examples_of_a_document_run(name, count, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
    assert len(blocks) == count
    for block in blocks:
        exec(compile(block, name, "exec"), {})


def test_one_version():
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    citation = re.search(r"^version: (.*)", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert project is not None and citation is not None
    assert citation[1] == project[1]
