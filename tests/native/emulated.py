"""Build a copy of the package in which the CPU runs the CUDA kernels (see emulation/cuda_runtime.h)."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
EMULATION = Path(__file__).resolve().parent / "emulation"
UNDEFINED = ("-fsanitize=undefined", "-fno-sanitize-recover=all")  # misaligned accesses, array bounds, overflows
ADDRESS = ("-fsanitize=address", "-fsanitize-sections=sivae_shared")


def missing_tool() -> str | None:
    """The tool that building needs and this machine lacks, in words; None where nothing is missing."""
    for tool in ("g++", "cmake", "ninja"):
        if shutil.which(tool) is None:
            return f"no {tool} is found"
    return "pybind11 is not installed" if importlib.util.find_spec("pybind11") is None else None


def _setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("sivae_setup", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def make_package(folder: Path, flags: Sequence[str]) -> None:
    """Put into `folder` the package with its emulated kernels, compiled with `flags`, and the tests of the ops.

    The objects stay in build/, so that a second call compiles only changed sources.
    """
    setup, generated = _setup(), shutil.ignore_patterns("*.so", "_build_status.py", "__pycache__")
    shutil.copytree(ROOT / "sivae", folder / "sivae", ignore=generated)
    shutil.copytree(ROOT / "tests" / "ops", folder / "tests" / "ops", ignore=generated)
    shutil.copy2(ROOT / "pyproject.toml", folder)  # pytest's settings
    extension = folder / "sivae" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "emulated.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        settings = {"SIVAE_CUDA_EMULATED": "ON", "SIVAE_EMULATION_FLAGS": ";".join(flags), "CMAKE_CXX_COMPILER": "g++"}
        setup.compile_extension(extension, "emulated", **settings)
    setup.write_status(extension.parent, "", "the CPU runs them")


def run_python(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with the package of that folder before the installed one."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
