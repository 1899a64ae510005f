"""The machine, the software and the backends of a run."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from typing import Any

import torch

from benchmarks.probes import last_level_cache_bytes
from sivae import ops
from sivae.errors import ConfigError
from sivae.machine import cpu_model, device_name, find_device, git_commit, versions

REFERENCE = "reference"


def environment(device: torch.device) -> dict[str, Any]:
    """Facts for every row of a run. `run` is the run's name: the time at which it started."""
    now = datetime.datetime.now(datetime.UTC)
    return {
        "run": now.isoformat(timespec="microseconds"),
        "device": device_name(device),
        "device_type": device.type,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average_before": round(os.getloadavg()[0], 2),
        "last_level_cache_bytes": last_level_cache_bytes(device),
        "system": f"{platform.system()} {platform.release()}",
        "commit": git_commit(),
        **versions(),
        "triton": _version("triton"),
        "cuda": torch.version.cuda,
        "backends": ops.available_backends(device),
        "backends_missing": missing_backends(device),
    }


def missing_backends(device: torch.device) -> dict[str, str]:
    """Backends that do not run on the device -> the reason."""
    reasons = {name: devices[device.type] for name, devices in ops.backend_status().items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def chosen_device(name: str) -> torch.device:
    """The CPU or the GPU of that name; a GPU has its index.

    Raises:
        ConfigError: there is no such device, or it is of another type.
    """
    device = find_device(name)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device = {name!r}: the benchmarks run on cpu and cuda only; choose one of them")
    return torch.device("cuda", device.index or 0) if device.type == "cuda" else device


def compared_backends(device: torch.device) -> list[str]:
    """The backends that are measured on the device.

    The reference is only measured if there is no other: it is written to be right, not fast. Triton is not measured on
    the CPU, where its interpreter is for tests.
    """
    names = [name for name in ops.available_backends(device) if not (name == "triton" and device.type == "cpu")]
    return [name for name in names if name != REFERENCE] or [REFERENCE]


def device_slug(device: torch.device) -> str:
    """A folder's name for the device; a CPU's has the number of its cores."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_model()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
