"""What the documents show is there and runs."""

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


def test_the_examples_of_the_readme_run():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "README.md", "exec"), {})


def test_the_example_of_the_training_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "training.md").read_text(), flags=re.DOTALL)
    exec(compile(block, "training.md", "exec"), {})
    assert (tmp_path / "runs" / "example" / "samples.png").exists()


def test_the_example_of_the_guide_to_detection_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "ood.md").read_text(), flags=re.DOTALL)
    exec(compile(block, "ood.md", "exec"), {})


def test_the_example_of_the_guide_to_translation_runs():
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "translation.md").read_text(), flags=re.DOTALL)
    exec(compile(block, "translation.md", "exec"), {})


def test_one_version():
    project = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), flags=re.MULTILINE)
    citation = re.search(r"^version: (.*)", (ROOT / "CITATION.cff").read_text(), flags=re.MULTILINE)
    assert project is not None and citation is not None
    assert citation[1] == project[1]
