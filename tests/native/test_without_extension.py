"""Test a package without its compiled extension: imports work, the reference runs, and the reason is shown."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]

REPORT = """
import json
import torch
import sivae
from sivae import ops

mu = torch.zeros(2, 3, requires_grad=True)
z, kl = ops.reparameterize_kl(mu, torch.zeros(2, 3))
(z.sum() + kl.sum()).backward()
try:
    ops.gaussian_kl(mu, mu, backend="native")
    refusal = None
except RuntimeError as error:
    refusal = str(error)
print(json.dumps({
    "file": sivae.__file__,
    "available": ops.available_backends(),
    "reason": ops.backend_status()["native"]["cpu"],
    "refusal": refusal,
    "gradient": mu.grad.tolist(),
}))
"""

WITHOUT_EXTENSION = """
import importlib.abc
import sys


class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "sivae._C":
            raise ImportError("undefined symbol: _ZN5torch6thrownE")
        return None


sys.meta_path.insert(0, Missing())
"""


def report(program: str, path: Path | None = None) -> dict[str, object]:
    """Runs the program against the package in `path`, or the installed one.

    -S skips the .pth files of site-packages: with an editable install they would give a copy the installed extension.
    """
    options: list[str] = []
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    if path is not None:
        packages = {str(Path(torch.__file__).parents[1]), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        options, environment["PYTHONPATH"] = ["-S"], os.pathsep.join([str(path), *sorted(packages)])
    done = subprocess.run(
        [sys.executable, *options, "-c", program],
        cwd=path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def assert_runs_on_the_reference(found: dict[str, object]) -> None:
    assert found["available"] == ["reference"]
    assert found["gradient"] == [[1.0] * 3] * 2  # dz/dmu = 1, and the KL is flat at the prior
    assert found["refusal"] == f"gaussian_kl: backend 'native' is not available on cpu: {found['reason']}"


def copy_package(folder: Path, status: str | None, torch_version: str = str(torch.__version__)) -> None:
    shutil.copytree(
        ROOT / "sivae", folder / "sivae", ignore=shutil.ignore_patterns("*.so", "_build_status.py", "__pycache__")
    )
    if status is not None:
        (folder / "sivae" / "_build_status.py").write_text(f"REASON = {status!r}\nTORCH_VERSION = {torch_version!r}\n")


def test_an_extension_that_does_not_load(tmp_path):
    """The status says that it was built; the user sees the loader's message."""
    copy_package(tmp_path, status="")
    found = report(WITHOUT_EXTENSION + REPORT, tmp_path)
    assert_runs_on_the_reference(found)
    assert found["reason"] == (
        "the extension sivae._C does not load (undefined symbol: _ZN5torch6thrownE); "
        "reinstall: pip install --no-build-isolation ."
    )


def test_an_extension_for_another_torch_is_not_even_loaded(tmp_path):
    copy_package(tmp_path, status="", torch_version="1.0.0")
    found = report(REPORT, tmp_path)
    assert_runs_on_the_reference(found)
    assert found["reason"] == (
        f"the extension sivae._C was compiled against torch 1.0.0, and {torch.__version__} is installed; "
        "reinstall: pip install --no-build-isolation ."
    )


def test_the_installed_package_survives_it():
    found = report(WITHOUT_EXTENSION + REPORT)
    assert_runs_on_the_reference(found)
    assert found["reason"]


def test_the_reason_of_the_build(tmp_path):
    copy_package(tmp_path, status="compiling it failed (no compiler)")
    found = report(REPORT, tmp_path)
    assert Path(str(found["file"])).is_relative_to(tmp_path)
    assert_runs_on_the_reference(found)
    assert found["reason"] == "compiling it failed (no compiler)"


def test_a_plain_copy_of_the_sources(tmp_path):
    """It was never built, so there is no status."""
    copy_package(tmp_path, status=None)
    found = report(REPORT, tmp_path)
    assert_runs_on_the_reference(found)
    reason = str(found["reason"])
    assert reason == "the extension sivae._C is not built; with a C++ compiler: pip install --no-build-isolation ."


@pytest.fixture
def source(tmp_path):
    """The sources of a fresh clone."""
    ignored = shutil.ignore_patterns("*.so", "_build_status.py", "__pycache__", "*.egg-info")
    for name in ("sivae", "csrc"):
        shutil.copytree(ROOT / name, tmp_path / "source" / name, ignore=ignored)
    names = ("setup.py", "pyproject.toml", "MANIFEST.in", "CMakeLists.txt", "CITATION.cff", "README.md", "LICENSE")
    for name in names:
        shutil.copy2(ROOT / name, tmp_path / "source" / name)
    return tmp_path / "source"


def run_in(source: Path, *command: str, **environment: str) -> None:
    done = subprocess.run(
        command,
        cwd=source,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


PIP_INSTALL = (sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps", "--target")


def test_install_without_native_kernels(tmp_path, source):
    target = tmp_path / "target"
    stale = source / "build" / "lib" / "sivae" / "gone.py"  # as an earlier build may have left it
    stale.parent.mkdir(parents=True)
    stale.write_text("")
    run_in(source, *PIP_INSTALL, str(target), ".", SIVAE_BUILD="none")
    assert not list(target.rglob("*.so"))
    assert not (target / "sivae" / "gone.py").exists()
    assert (target / "sivae" / "py.typed").exists()
    found = report(REPORT, target)
    assert Path(str(found["file"])).is_relative_to(target)
    assert_runs_on_the_reference(found)
    assert found["reason"] == "it was not built (SIVAE_BUILD=none); reinstall without that setting"


def test_install_where_compiling_fails(tmp_path, source):
    target = tmp_path / "target"
    run_in(source, *PIP_INSTALL, str(target), ".", SIVAE_BUILD="auto", CXX="/bin/false")
    found = report(REPORT, target)
    assert_runs_on_the_reference(found)
    assert str(found["reason"]).startswith("compiling it failed (")


def test_source_distribution_has_the_native_sources(source):
    run_in(source, sys.executable, "setup.py", "-q", "sdist")
    (archive,) = (source / "dist").glob("*.tar.gz")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    native = {path.relative_to(ROOT).as_posix() for path in (ROOT / "csrc").rglob("*") if path.is_file()}
    assert native | {"CMakeLists.txt", "setup.py"} <= names
