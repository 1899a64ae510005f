"""Check that every op has all parts and tests. A failure lists what is missing; docs/development.md has the steps."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

from sivae import ops
from sivae.ops import library, reference

ROOT = Path(__file__).resolve().parents[2]
COMPOSED = {"elbo", "log_exp_elbo"}  # of other ops and plain PyTorch
TOOLS = {"PhiloxNoise", "available_backends", "backend_status", "draw_seed", "native_build", "use_backend"}

# Each property of an op, and the files that show it: one of them names the op.
SUITES = {
    "equal to the reference": (
        "tests/ops/parity.py",
        "tests/ops/styled_norm_parity.py",
        "tests/ops/chamfer_parity.py",
        "tests/ops/mixture_parity.py",
        "tests/ops/group_norm_parity.py",
        "tests/ops/test_philox.py",
    ),
    "within its bound of exact values": (
        "tests/ops/test_accuracy.py",
        "tests/ops/styled_norm_parity.py",
        "tests/ops/chamfer_parity.py",
        "tests/ops/mixture_parity.py",
        "tests/ops/group_norm_parity.py",
    ),
    "gradients": ("tests/ops/test_gradients.py",),
    "any memory layout": (
        "tests/ops/test_layouts.py",
        "tests/ops/test_styled_norm_kernels.py",
        "tests/ops/test_chamfer.py",
        "tests/ops/test_mixture.py",
        "tests/ops/test_group_norm.py",
    ),
    "the same bits every time": (
        "tests/ops/test_determinism.py",
        "tests/ops/test_styled_norm.py",
        "tests/ops/test_chamfer.py",
        "tests/ops/test_mixture.py",
        "tests/ops/test_group_norm.py",
    ),
    "error messages": (
        "tests/ops/test_errors.py",
        "tests/ops/test_styled_norm_errors.py",
        "tests/ops/test_chamfer_errors.py",
        "tests/ops/test_mixture.py",
        "tests/ops/test_group_norm.py",
    ),
    "schema, fake kernel, opcheck, torch.compile": ("tests/ops/samples.py",),
    "a range for profilers": ("tests/ops/test_ranges.py",),
    "Triton in the interpreter": ("tests/ops/triton/test_contract.py",),
    "Triton compiled for a GPU": ("tests/ops/triton/compile_kernels.py",),
    "measured": ("benchmarks/op_cases.py",),
    "run on a GPU": ("benchmarks/gpu/exercise.py",),
}
# The only tensor of philox_normal is a seed, and its normals are measured in reparameterize.
EXCEPT = {("philox_normal", "gradients"), ("philox_normal", "any memory layout"), ("philox_normal", "measured")}
# What an op that is composed of others needs.
OF_COMPOSED = {"within its bound of exact values", "gradients", "error messages", "a range for profilers"}


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """The names, attributes and strings of a Python file."""
    names: set[str] = set()
    for node in ast.walk(ast.parse((ROOT / file).read_text())):
        if isinstance(node, ast.Attribute):
            names.add(node.attr)
        elif isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.add(node.value)
    return frozenset(names)


@functools.cache
def registered_in(*patterns: str) -> frozenset[str]:
    """The ops whose implementations these native sources register."""
    sources = [path.read_text() for pattern in patterns for path in sorted((ROOT / "csrc").glob(pattern))]
    return frozenset(re.findall(r'm\.impl\("(\w+)"', "".join(sources)))


def missing_kernels(name: str) -> list[str]:
    """The backends that have no implementation of a low-level op."""
    triton = "sivae/ops/triton/__init__.py"
    found = {
        "native CPU kernel (csrc/cpu)": name in registered_in("loss_ops.h", "cpu/*.cpp"),
        "CUDA kernel (csrc/cuda)": name in registered_in("loss_ops.h", "cuda/*.cpp"),
        f"Triton kernel ({triton})": name in names_in(triton),
    }
    return [what for what, there in found.items() if not there]


def missing(name: str, suites: set[str]) -> list[str]:
    """What a public op lacks of its function, documentation and suites."""
    lacks = [] if name in ops.__all__ and getattr(ops, name).__doc__ else ["public function with a docstring"]
    if f"`{name}(" not in (ROOT / "docs" / "ops.md").read_text():
        lacks.append("row in docs/ops.md")
    for suite, files in SUITES.items():
        if suite in suites and (name, suite) not in EXCEPT and not any(name in names_in(file) for file in files):
            lacks.append(f"{suite} ({' or '.join(files)})")
    return lacks


def missing_of_a_kernel_op(name: str) -> list[str]:
    """What an op with kernels lacks."""
    lacks = missing(name, set(SUITES)) + missing_kernels(name)
    if name not in library._FAKES:
        lacks.append("schema and fake kernel (sivae/ops/library.py)")
    if not hasattr(reference, name):
        lacks.append("reference (sivae/ops/reference/__init__.py)")
    if (name, "gradients") not in EXCEPT:
        if name not in registered_in("autograd*.cpp"):
            lacks.append("native backward pass (csrc/autograd*.cpp)")
        if name not in names_in("sivae/ops/triton/autograd.py"):
            lacks.append("Triton's backward pass (sivae/ops/triton/autograd.py)")
    return lacks


def test_every_public_name_is_an_op_or_a_tool():
    assert set(ops.__all__) == {*library.OP_NAMES, *COMPOSED, *TOOLS}


@pytest.mark.parametrize("name", library.OP_NAMES)
def test_nothing_is_missing(name):
    assert missing_of_a_kernel_op(name) == []


@pytest.mark.parametrize("name", sorted(COMPOSED))
def test_nothing_is_missing_of_composed_ops(name):
    assert missing(name, OF_COMPOSED) == []


@pytest.mark.parametrize("name", library._FAKES)
def test_every_backend_has_every_low_level_op(name):
    """Including the ops that compute gradients."""
    assert missing_kernels(name) == []


def test_a_new_op_lacks_everything():
    """Every entry is checked, and its message names the place."""
    lacks = missing_of_a_kernel_op("tilted_kl")
    assert len(lacks) == len(SUITES) + 9
    assert f"any memory layout ({' or '.join(SUITES['any memory layout'])})" in lacks
    assert "CUDA kernel (csrc/cuda)" in lacks
