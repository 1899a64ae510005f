"""Build the extension sivae._C with CMake and Ninja for the installed torch; all other settings are in pyproject.toml.

SIVAE_BUILD selects what is built:
    auto (default)  the CPU kernels, and the CUDA kernels where torch has CUDA and nvcc is found (no GPU is needed);
                    kernels that do not compile are left out, and `sivae info` gives the reason.
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
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent.resolve()
MODES = ("auto", "none", "cpu", "cuda")
STATUS = "_build_status.py"
BUILD_ERRORS = (OSError, ImportError, subprocess.CalledProcessError)


def build_mode() -> str:
    mode = os.environ.get("SIVAE_BUILD", "auto")
    if mode not in MODES:
        sys.exit(f"SIVAE_BUILD is {mode!r}, expected one of {', '.join(MODES)}")
    return mode


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        mode = build_mode()
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.unlink(missing_ok=True)
        reason, cuda_reason = "", ""
        if mode == "none":
            reason = "it was not built (SIVAE_BUILD=none); reinstall without that setting"
        elif mode != "auto":
            compile_extension(target, mode)
        else:
            try:
                cuda_reason = self._best_of(target)
            except BUILD_ERRORS as error:
                reason = (
                    f"compiling it failed ({error}); SIVAE_BUILD=cpu pip install --no-build-isolation -v . shows why"
                )
                self.warn(f"sivae is installed without its native kernels: {reason}")
        write_status(target.parent, reason, cuda_reason)

    def copy_extensions_to_source(self) -> None:
        """For an editable install, copy the extension, if it was built, and the build's status next to the sources."""
        for ext in self.extensions:
            built = Path(self.build_lib, self.get_ext_filename(ext.name))
            package = ROOT / "sivae"
            for file in (built, built.parent / STATUS):
                place = package / file.name
                place.unlink(missing_ok=True)  # a process that uses the old one keeps it
                if file.exists():
                    shutil.copy2(file, place)

    def _best_of(self, target: Path) -> str:
        """Compile with CUDA where it is available, without it if that fails; return the reason why there is no CUDA."""
        import torch

        if torch.version.cuda is None:
            reason = "the installed torch has no CUDA"
        elif not find_nvcc():
            reason = "nvcc is not found; put it on the PATH, or set CUDACXX or CUDA_HOME"
        else:
            try:
                compile_extension(target, "cuda")
                return ""
            except BUILD_ERRORS as error:
                reason = (
                    f"compiling them failed ({error}); SIVAE_BUILD=cuda pip install --no-build-isolation -v . shows why"
                )
                self.warn(f"sivae is installed without its CUDA kernels: {reason}")
        compile_extension(target, "cpu")
        return reason


def find_nvcc() -> str:
    """The path of nvcc: from the PATH or CUDACXX, as in CMake, or from CUDA_HOME, then set in CUDACXX; else empty."""
    home = os.environ.get("CUDA_HOME")
    inside = shutil.which("nvcc", path=str(Path(home, "bin"))) if home else None
    if inside and not shutil.which("nvcc"):
        os.environ.setdefault("CUDACXX", inside)
    return os.environ.get("CUDACXX") or shutil.which("nvcc") or ""


class FreshBuild(build_py):
    def run(self) -> None:
        # Else files of an earlier build that were renamed or deleted since would be packed into the wheel.
        if not self.editable_mode:
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()


def compile_extension(target: Path, flavour: str, **settings: str) -> None:
    """Compile the flavour "cpu" or "cuda", or another one, with its own build folder and given by CMake `settings`."""
    import pybind11
    import torch
    from torch.utils import cpp_extension

    torch_root = Path(torch.__file__).parent
    build = ROOT / "build" / f"native-{sys.implementation.cache_tag}-torch{torch.__version__}-{flavour}"
    build.mkdir(parents=True, exist_ok=True)
    definitions = {
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11.get_cmake_dir(),
        "SIVAE_TORCH_INCLUDE": ";".join(cpp_extension.include_paths()),
        "SIVAE_TORCH_LIB": torch_root / "lib",
        "SIVAE_CXX11_ABI": int(torch.compiled_with_cxx11_abi()),
        "SIVAE_CUDA": "ON" if flavour == "cuda" else "OFF",
        **settings,
    }
    # The CMake that was installed for this Python may be newer than the system's.
    cmake = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))
    configure = [cmake or "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja"]
    subprocess.run([*configure, *(f"-D{name}={value}" for name, value in definitions.items())], check=True)
    subprocess.run([configure[0], "--build", str(build)], check=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(next(build.glob("_C.*.so")), target)


def write_status(folder: Path, reason: str, cuda_reason: str) -> None:
    """Write the module that `sivae info` reads."""
    try:
        import torch

        torch_version = str(torch.__version__)
    except ImportError:
        torch_version = ""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STATUS).write_text(
        '"""How the extension sivae._C was built; written by setup.py."""\n\n'
        f"REASON = {reason!r}  # why it is missing; empty where it was built\n"
        f"CUDA_REASON = {cuda_reason!r}  # why it has no CUDA kernels\n"
        f"TORCH_VERSION = {torch_version!r}  # that it was compiled against\n"
    )


if __name__ == "__main__":
    setup(ext_modules=[Extension("sivae._C", sources=[])], cmdclass={"build_ext": CMakeBuild, "build_py": FreshBuild})
