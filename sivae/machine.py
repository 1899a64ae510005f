"""What computes here: the facts about a machine and its software that go with every figure.

Needs torch and the standard library only, and imports torch where a fact comes from it.
"""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


COMMIT_VARIABLE = "SIVAE_COMMIT"  # the commit of a copy of the checkout that has no .git


def git_commit() -> str | None:
    """The checkout's commit, with "+changes" where tracked files differ from it; None where nothing tells."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed package may lie in somebody's checkout
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get(COMMIT_VARIABLE) or None


def cpu_model() -> str:
    """As the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    model = names.get("model name") or platform.processor() or platform.machine()
    family = f", family {names['cpu family']} model {names['model']}" if {"cpu family", "model"} <= names.keys() else ""
    return model + family


def device_name(device: torch.device) -> str:
    """The model of a device of torch."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    import torch

    from sivae import __version__

    return {"sivae": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def machine() -> dict[str, Any]:
    """What this machine has to offer: versions, devices by name, threads, and the ops' backends.

    `ops` maps backend and device to None where it runs, and to the reason where it does not; `native` says how the
    native backend was compiled, None where it is missing.
    """
    import torch

    from sivae import ops

    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "devices": {str(device): device_name(device) for device in devices},
        "threads": torch.get_num_threads(),
        "ops": ops.backend_status(),
        "native": ops.native_build(),
    }
