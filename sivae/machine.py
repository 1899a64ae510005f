"""Find devices, and describe the machine and the software that a result was made with.

torch is imported only by the functions that need it.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sivae.errors import ConfigError, SivaeError

if TYPE_CHECKING:
    import torch


COMMIT_VARIABLE = "SIVAE_COMMIT"  # the commit of a copy of the checkout that has no .git


def git_commit() -> str | None:
    """Return the checkout's commit, with "+changes" if tracked files differ from it; None if it is unknown."""
    here = Path(__file__).parent

    def git(*arguments: str) -> str:
        words = ["git", *arguments]
        # With a limit, because a disk may not answer.
        return subprocess.run(words, cwd=here, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)  # an installed package may be inside another checkout
        commit = git("rev-parse", "HEAD")
        return f"{commit}+changes" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return os.environ.get(COMMIT_VARIABLE) or None


def cpu_model() -> str:
    """Return the CPU's model, as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    model = names.get("model name") or platform.processor() or platform.machine()
    family = f", family {names['cpu family']} model {names['model']}" if {"cpu family", "model"} <= names.keys() else ""
    return model + family


def find_device(name: str) -> torch.device:
    """Parse a device name, and check that the device exists.

    Args:
        name: a name of torch, or "auto": a GPU if there is one, else the CPU.

    Raises:
        ConfigError: the device is missing, or cannot compute.
    """
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.split(":")[0] not in ("cpu", "cuda"):
        raise ConfigError(f"device = {name!r}: sivae computes on cpu or cuda; choose one of them, or auto")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"device = {name!r} is not there ({reason}); use cpu, or auto to take what there is"
        ) from None
    return device


def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether a device multiplies bfloat16 in hardware.

    These are GPUs from sm_80 on, x86 CPUs with AMX or AVX512-BF16, and ARM CPUs with BF16.

    Others compute bfloat16 by float32, which is slower than float32 itself.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return False
    return bool(words & {"amx_bf16", "avx512_bf16", "bf16"})


def device_name(device: torch.device) -> str:
    """Return the model of a device of torch."""
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


# The words of torch's allocators, oneDNN, cuBLAS, cuDNN, the C++ library and the C library.
_SHORTAGE = re.compile(
    r"(can't|cannot|could not|unable to) allocate|not enough memory|out of memory|_ALLOC_FAILED|bad_alloc",
    re.IGNORECASE,
)
_AMOUNT = re.compile(r"(?:tried|unable) to allocate (\d[\d.]* \w+)", re.IGNORECASE)


def memory_shortage(error: BaseException) -> str:
    """Describe the shortage if an error says that memory ran out, on the CPU or on a GPU; empty for other errors."""
    text = str(error)
    by_type = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)
    by_words = isinstance(error, RuntimeError) and not isinstance(error, SivaeError) and _SHORTAGE.search(text)
    if not by_type and not by_words:
        return ""
    asked = _AMOUNT.search(text)
    where = "the GPU" if "CUDA" in text or "CUBLAS" in text or "CUDNN" in text else "the main memory"
    return f"{where} has no room for {asked[1]} more" if asked else f"{where} has no room left"


def versions() -> dict[str, str]:
    """Return the versions of sivae, torch and Python."""
    import torch

    from sivae import __version__

    return {"sivae": __version__, "torch": str(torch.__version__), "python": platform.python_version()}


def distribution() -> str:
    """Name the installed distribution that this package runs from, and its version; without one, the folder."""
    from sivae import DISTRIBUTION

    try:
        return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"
    except metadata.PackageNotFoundError:
        return f"none: the source tree {Path(__file__).parents[1]}"


def machine() -> dict[str, Any]:
    """Describe this machine: versions, the distribution, devices by name, threads, and the backends of the ops.

    `multiplies_bfloat16` has for each device what :func:`multiplies_bfloat16` says.
    `ops` maps backend and device to None where the backend runs, else to the reason why it does not. `native` describes
    how the native backend was compiled; None where it is missing.
    """
    import torch

    from sivae import ops

    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices += [torch.device("cuda", index) for index in range(torch.cuda.device_count())]
    return {
        "versions": versions(),
        "distribution": distribution(),
        "devices": {str(device): device_name(device) for device in devices},
        "multiplies_bfloat16": {str(device): multiplies_bfloat16(device) for device in devices},
        "threads": torch.get_num_threads(),
        "ops": ops.backend_status(),
        "native": ops.native_build(),
    }
