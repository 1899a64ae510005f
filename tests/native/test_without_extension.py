"""A package without its compiled extension: everything imports, the reference runs, and the reason can be read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
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

    -S keeps out the .pth files of site-packages, through which an editable install would lend a copy its extension.
    """
    options, environment = [], dict(os.environ)
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


def copy_package(folder: Path, status: str | None) -> None:
    shutil.copytree(
        ROOT / "sivae", folder / "sivae", ignore=shutil.ignore_patterns("*.so", "_build_status.py", "__pycache__")
    )
    if status is not None:
        (folder / "sivae" / "_build_status.py").write_text(f"REASON = {status!r}\n")


def test_an_extension_that_does_not_load(tmp_path):
    """Built, as its status says, but against another torch: the loader's own words reach the user."""
    copy_package(tmp_path, status="")
    found = report(WITHOUT_EXTENSION + REPORT, tmp_path)
    assert_runs_on_the_reference(found)
    assert found["reason"] == (
        "the extension sivae._C does not load: undefined symbol: _ZN5torch6thrownE; "
        "rebuild it against the installed torch"
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
    """Never built: no status either."""
    copy_package(tmp_path, status=None)
    found = report(REPORT, tmp_path)
    assert_runs_on_the_reference(found)
    reason = str(found["reason"])
    assert reason.startswith("the extension sivae._C is not built (")
    assert reason.endswith("with a C++ compiler: pip install --no-build-isolation .")


@pytest.mark.slow
def test_pip_install_without_native_kernels(tmp_path):
    """The real thing: SIVAE_BUILD=none from a clean copy of the tree."""
    source, target = tmp_path / "source", tmp_path / "target"
    ignored = shutil.ignore_patterns("*.so", "_build_status.py", "__pycache__", "*.egg-info")
    source.mkdir()
    for name in ("sivae", "csrc"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "README.md", "LICENSE"):
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, source / name)
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-build-isolation",
        "--no-deps",
        "--target",
        str(target),
        ".",
    ]
    done = subprocess.run(
        command,
        cwd=source,
        env=os.environ | {"SIVAE_BUILD": "none"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(target.rglob("*.so"))
    assert (target / "sivae" / "py.typed").exists()
    found = report(REPORT, target)
    assert Path(str(found["file"])).is_relative_to(target)
    assert_runs_on_the_reference(found)
    assert found["reason"] == "it was not built (SIVAE_BUILD=none); reinstall without that setting"
