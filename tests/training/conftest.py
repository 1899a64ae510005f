"""What several tests of trainings need."""

from __future__ import annotations

import pytest

from sivae.training.tasks.points import PointsTask


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the pictures of runs on points, which take longer than short trainings."""
    for name in ("picture_samples", "picture_run"):
        monkeypatch.setattr(PointsTask, name, lambda *_: [])
