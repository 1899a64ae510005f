"""Run one training of the comparison in a process of its own; see :mod:`sivae.reproduce.worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.autoencoder.comparison import method_of
from sivae.reproduce.worker import main
from sivae.settings.run import RunConfig

MODULE = "benchmarks.autoencoder.worker"


def train(config: RunConfig, folder: Path, *, resume: bool, progress: bool) -> dict[str, Any]:
    """Train by the method that the folder is named after. A run with a PatchGAN starts over where it was stopped."""
    if method_of(folder.name) == "patchgan":
        from benchmarks.autoencoder import patchgan_run

        return patchgan_run.train(config, folder)
    from sivae.training.run import train as of_package

    return of_package(config, folder, resume=resume, progress=progress)


if __name__ == "__main__":
    main(train)
