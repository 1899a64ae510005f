"""The networks that some metrics of images need, by the files that hold their weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class FeatureFiles:
    """What is named is measured.

    Attributes:
        fid: Inception's weights, for FID and KID.
        fid_count: images at most that these compare.
        lpips: VGG-16's weights and LPIPS' own, for LPIPS of translations.
    """

    fid: Path | None = None
    fid_count: int = 50_000
    lpips: tuple[Path, Path] | None = None


NO_FILES = FeatureFiles()
