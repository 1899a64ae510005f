"""Test the named ranges for profilers: they exist with SIVAE_NVTX=1 and not without it. Each state needs a process."""

from __future__ import annotations

import os
import subprocess
import sys
import types

import pytest
import torch

from sivae import ops
from sivae.ops import ranges

OPS = ["draw_seed", "elbo", "exp_elbo", "gaussian_kl", "log_exp_elbo", "philox_normal", "reconstruction_error"]
OPS += ["reparameterize", "reparameterize_kl", "styled_instance_norm", "chamfer_distance", "mixture_log_prob"]
OPS += ["group_norm_silu"]

# Prints the ranges that torch.profiler records for every op and for a step of each kind.
RECORD = """
import torch
from sivae import ops
from sivae.models import MLPVAE
from sivae.objectives import SoftIntroObjective, VAEObjective
from sivae.method.soft_intro import SoftIntroStep
from sivae.method.vae import VAEStep

mu, logvar = torch.randn(4, 2), torch.randn(4, 2)
with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
    z, kl = ops.reparameterize_kl(mu, logvar)
    ops.reparameterize(mu, logvar)
    ops.gaussian_kl(mu, logvar)
    ops.elbo(z, mu, mu, logvar)
    ops.exp_elbo(kl, kl, scale=1.0)
    ops.log_exp_elbo(kl, kl, scale=1.0)
    ops.philox_normal(1, (3,))
    ops.styled_instance_norm(torch.randn(1, 2, 3, 3))
    ops.group_norm_silu(torch.randn(1, 2, 3, 3), 2)
    ops.chamfer_distance(torch.randn(1, 2, 3), torch.randn(1, 4, 3))
    ops.mixture_log_prob(torch.randn(2, 3), torch.rand(4), torch.randn(4, 3), torch.randn(4, 3))
    for kind, objective in ((SoftIntroStep, SoftIntroObjective(scale=0.5)), (VAEStep, VAEObjective())):
        model = MLPVAE(hidden=8, layers=1)
        optimizers = [torch.optim.SGD(part.parameters(), lr=0.1) for part in (model.encoder, model.decoder)]
        kind(model, *optimizers, objective)(torch.randn(4, 2))
for name in sorted({event.name for event in profile.events() if event.name.startswith("sivae")}):
    print(name)
"""

COMPILE = """
import torch
from sivae import ops

def call(mu, logvar, x):
    z, kl = ops.reparameterize_kl(mu, logvar, noise=ops.PhiloxNoise(3))
    rec = ops.reconstruction_error(z, x)
    return ops.exp_elbo(rec, kl, scale=0.1)

mu, logvar, x = (torch.randn(3, 5, requires_grad=True) for _ in range(3))
compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
actual, expected = compiled(mu, logvar, x), call(mu, logvar, x)
# z's normals and later operations may be fused with other roundings: 64 units of float32.
assert abs(actual - expected) <= 64 * 2.0**-24 * abs(expected), (actual, expected)
actual.backward()
print("one graph")
"""


def run(script: str, value: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", ranges.VARIABLE: value}
    command = [sys.executable, "-W", "ignore", "-c", script]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_every_op_and_phase_has_a_range_when_asked_for():
    done = run(RECORD, "1")
    assert done.returncode == 0, done.stderr
    phases = ["sivae: decoder update", "sivae: encoder update", "sivae: forward passes", "sivae: update"]
    assert [line for line in done.stdout.splitlines() if "native::" not in line] == sorted(
        [*phases, *(f"sivae.ops.{name}" for name in OPS)]
    )


def test_there_is_none_otherwise():
    done = run(RECORD, "0")
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "native::" not in line] == []


def test_they_do_not_break_the_graph():
    done = run(COMPILE, "1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "one graph"


def test_off_costs_nothing():
    """There is no check at each call: the decorator returns the function itself."""
    if ranges.ENABLED:
        pytest.skip(f"{ranges.VARIABLE} is set in this process")

    def function() -> None:
        pass

    assert ranges.annotated(function) is function
    for name in OPS:
        assert not hasattr(getattr(ops, name), "__wrapped__"), name


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Turn ranges on; return the pushed names, and "end" for each pop."""
    found: list[str] = []
    monkeypatch.setattr(ranges, "ENABLED", True)
    monkeypatch.setattr(ranges, "_push", found.append, raising=False)
    monkeypatch.setattr(ranges, "_pop", lambda: found.append("end"), raising=False)
    return found


def test_an_annotated_function_is_itself_in_a_range(events):
    def doubles(x: int) -> int:
        """Twice x."""
        return 2 * x

    annotated = ranges.annotated(doubles)
    assert annotated(x=4) == 8
    assert events == ["sivae.ops.doubles", "end"]
    assert (annotated.__name__, annotated.__doc__) == (doubles.__name__, doubles.__doc__)


def test_an_error_leaves_every_range(events):
    def fails() -> None:
        raise ValueError("no")

    outer = ranges.phase("outer")
    with pytest.raises(ValueError, match="no"), outer, outer:
        ranges.annotated(fails)()
    assert events == ["sivae: outer"] * 2 + ["sivae.ops.fails"] + ["end"] * 3


class TestTorchWithoutCuda:
    @pytest.fixture(autouse=True)
    def no_cuda(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.version, "cuda", None)

    def test_and_without_nvtx_says_what_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "nvtx", None)
        with pytest.warns(UserWarning, match="torch has no CUDA and the package nvtx is not installed"):
            push, pop = ranges._nvtx()
        assert push("name") is None
        assert pop() is None

    def test_takes_the_package(self, monkeypatch):
        package = types.SimpleNamespace(push_range=object(), pop_range=object())
        monkeypatch.setitem(sys.modules, "nvtx", package)
        assert ranges._nvtx() == (package.push_range, package.pop_range)
