"""Fast training of introspective variational autoencoders, and fused VAE loss ops."""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sivae.pretrained import from_pretrained as from_pretrained

try:
    __version__ = version("sivae")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> Any:
    if name == "from_pretrained":  # imported when it is wanted: it needs torch, and `sivae --help` does not
        from sivae.pretrained import from_pretrained

        return from_pretrained
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
