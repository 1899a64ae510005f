"""The folder of a run: a model's run is found from the folder and from its checkpoints."""

from __future__ import annotations

from pathlib import Path

from sivae.settings.presets import preset_config
from sivae.training.folder import run_of


def test_a_run_is_found_from_its_folder_and_from_its_checkpoints(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "10").mkdir(parents=True)
    assert run_of(tmp_path) is None
    (tmp_path / "config.json").write_text(preset_config("digits").to_json())
    for folder in (tmp_path, tmp_path / "checkpoints" / "10"):
        config = run_of(folder)
        assert config is not None and config.preset == "digits"
