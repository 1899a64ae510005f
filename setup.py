"""Builds the extension sivae._C by CMake and Ninja against the installed torch; everything else is in pyproject.toml.

SIVAE_BUILD says what is built:
    auto (default)  the CPU kernels, and the CUDA ones where torch has CUDA and nvcc is found (no GPU is needed);
                    where compiling fails the package is installed without its extension and says why.
    cpu, cuda       exactly these; a failure is an error.
    none            no extension: the reference backend only.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()
MODES = ("auto", "none", "cpu", "cuda")


def build_mode() -> str:
    mode = os.environ.get("SIVAE_BUILD", "auto")
    if mode not in MODES:
        sys.exit(f"SIVAE_BUILD is {mode!r}, expected one of {', '.join(MODES)}")
    return mode


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        mode = build_mode()
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        reason = ""
        if mode == "none":
            reason = "it was not built (SIVAE_BUILD=none); reinstall without that setting"
        else:
            try:
                self._compile(target, mode)
            except (OSError, ImportError, subprocess.CalledProcessError) as error:
                if mode != "auto":
                    raise
                reason = (
                    f"compiling it failed ({error}); SIVAE_BUILD=cpu pip install --no-build-isolation -v . shows why"
                )
                self.warn(f"sivae is installed without its native kernels: {reason}")
        if reason:
            target.unlink(missing_ok=True)
        status = target.parent / "_build_status.py"
        status.parent.mkdir(parents=True, exist_ok=True)
        status.write_text(
            f'"""Why the extension sivae._C is missing; empty where it was built."""\n\nREASON = {reason!r}\n'
        )

    def copy_extensions_to_source(self) -> None:
        """An editable install: the extension, where there is one, and the build's status go beside the sources."""
        for ext in self.extensions:
            built = Path(self.build_lib, self.get_ext_filename(ext.name))
            package = ROOT / "sivae"
            for file in (built, built.parent / "_build_status.py"):
                place = package / file.name
                place.unlink(missing_ok=True)  # a process that has the old one mapped keeps it
                if file.exists():
                    shutil.copy2(file, place)

    def _compile(self, target: Path, mode: str) -> None:
        import pybind11
        import torch
        from torch.utils import cpp_extension

        torch_root = Path(torch.__file__).parent
        include = ";".join([*cpp_extension.include_paths()])
        build = ROOT / "build" / f"native-{sys.implementation.cache_tag}-torch{torch.__version__}"
        build.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [
                "cmake",
                "-S",
                str(ROOT),
                "-B",
                str(build),
                "-G",
                "Ninja",
                f"-DPython_EXECUTABLE={sys.executable}",
                f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
                f"-DSIVAE_TORCH_INCLUDE={include}",
                f"-DSIVAE_TORCH_LIB={torch_root / 'lib'}",
                f"-DSIVAE_TORCH_VERSION={torch.__version__}",
                f"-DSIVAE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}",
                f"-DSIVAE_CUDA={'ON' if self._wants_cuda(mode, torch.version.cuda) else 'OFF'}",
            ],
            check=True,
        )
        subprocess.run(["cmake", "--build", str(build)], check=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(next(build.glob("_C.*.so")), target)

    @staticmethod
    def _wants_cuda(mode: str, torch_cuda: str | None) -> bool:
        if mode == "auto":
            return torch_cuda is not None and shutil.which("nvcc") is not None
        return mode == "cuda"


setup(ext_modules=[Extension("sivae._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
