"""Sets of point clouds: read files or build shapes, normalise, resample, turn. Names load on first use."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sivae.data.clouds.base import CloudSet
    from sivae.data.clouds.formats.ply import write_ply
    from sivae.data.clouds.opening import open_clouds
    from sivae.data.clouds.rotation import rotate

_HOMES = {"CloudSet": "base", "open_clouds": "opening", "rotate": "rotation", "write_ply": "formats.ply"}

__all__ = ["CloudSet", "open_clouds", "rotate", "write_ply"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
