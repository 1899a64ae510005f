"""Fast training of introspective variational autoencoders, and fused VAE loss ops."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("sivae")
except PackageNotFoundError:  # a source tree on the path, never installed
    __version__ = "0+unknown"
