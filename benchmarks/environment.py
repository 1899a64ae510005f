"""Where and with what figures are taken."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
from typing import Any

import torch

from benchmarks.measure import last_level_cache_bytes
from sivae import ops
from sivae.machine import cpu_model, device_name, git_commit, versions


def environment(device: torch.device) -> dict[str, Any]:
    """What goes with every row of a run. `run` is its name: the time at which it began."""
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
    """Backends that do not run on the device, and why."""
    reasons = {name: devices[device.type] for name, devices in ops.backend_status().items()}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def device_slug(device: torch.device) -> str:
    """The device as a folder's name; a CPU with the number of its cores."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu_model()} {os.cpu_count()} cores"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
