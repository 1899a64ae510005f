"""Fast training of introspective variational autoencoders, and fused VAE loss ops."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sivae.pretrained import from_pretrained as from_pretrained
    from sivae.training.run import train as train

DISTRIBUTION = "soft-intro-vae"  # what `pip install` knows this package by
try:
    __version__ = version(DISTRIBUTION)
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"

_HOMES = {"from_pretrained": "sivae.pretrained", "train": "sivae.training.run"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:  # imported when it is used: it needs torch, and `sivae --help` does not
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
