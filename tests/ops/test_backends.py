"""Test the choice of a backend, and that the ops import only torch."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from sivae import ops
from sivae.ops import backends

MU = torch.zeros(2, 3)


@pytest.fixture
def chosen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the backends that ran, in order."""
    ran: list[str] = []
    for name, table in backends._OPS.items():
        implementation = table.gaussian_kl

        def spy(*args, name=name, implementation=implementation):
            ran.append(name)
            return implementation(*args)

        monkeypatch.setattr(table, "gaussian_kl", spy)
    return ran


def test_the_reference_is_always_there():
    assert "reference" in ops.available_backends()
    assert ops.available_backends(torch.device("cpu")) == ops.available_backends("cpu")
    assert "reference" in ops.available_backends("cuda")
    assert ops.available_backends("meta") == ["reference"]


def test_status_and_availability_agree():
    status = ops.backend_status()
    assert set(ops.available_backends()) <= set(status)
    for name, devices in status.items():
        assert "cpu" in devices
        for device, reason in devices.items():
            assert (reason is None) == (name in ops.available_backends(device))
            assert reason is None or (isinstance(reason, str) and reason)
    assert status["reference"] == dict.fromkeys(status["reference"])


def test_the_fastest_is_the_default(chosen):
    ops.gaussian_kl(MU, MU)
    assert chosen == [ops.available_backends()[0]]


def test_backend_argument(backend, chosen):
    ops.gaussian_kl(MU, MU, backend=backend)
    assert chosen == [backend]


class TestUseBackend:
    def test_inside_and_after(self, backend, chosen):
        with ops.use_backend(backend):
            ops.gaussian_kl(MU, MU)
        ops.gaussian_kl(MU, MU)
        assert chosen == [backend, ops.available_backends()[0]]

    def test_nested(self, backend, chosen):
        with ops.use_backend("reference"):
            with ops.use_backend(backend):
                ops.gaussian_kl(MU, MU)
            ops.gaussian_kl(MU, MU)
        assert chosen == [backend, "reference"]

    def test_restored_after_an_exception(self, chosen):
        with pytest.raises(KeyError), ops.use_backend("reference"):
            raise KeyError
        ops.gaussian_kl(MU, MU)
        assert chosen == [ops.available_backends()[0]]

    def test_the_argument_wins(self, backend, chosen):
        with ops.use_backend("reference"):
            ops.gaussian_kl(MU, MU, backend=backend)
        assert chosen == [backend]

    def test_reaches_into_composed_ops(self, chosen):
        with ops.use_backend("reference"):
            ops.elbo(MU, MU, MU, MU)
        assert chosen == ["reference"]

    def test_unknown_name(self, chosen):
        with pytest.raises(ValueError, match="use_backend") as caught, ops.use_backend("fast"):
            pass
        known = ", ".join(repr(name) for name in reversed(ops.backend_status()))
        assert str(caught.value) == f"use_backend: backend is 'fast', expected one of {known} or None"
        ops.gaussian_kl(MU, MU)
        assert chosen == [ops.available_backends()[0]]


def test_the_ops_import_only_torch():
    """Except for the standard library and torch's modules, only modules of sivae.ops."""
    program = (
        "import sys, torch\n"
        "before = set(sys.modules)\n"
        "import sivae.ops\n"
        "print('\\n'.join(sorted(set(sys.modules) - before)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    loaded = done.stdout.split()
    assert "sivae.ops" in loaded
    foreign = [name for name in loaded if name.split(".")[0] not in {*sys.stdlib_module_names, "torch", "sivae"}]
    assert foreign == []
    assert [n for n in loaded if n.startswith("sivae.") and not n.startswith(("sivae.ops", "sivae._"))] == []


def test_one_list_of_public_names():
    assert sorted(ops.__all__) == ops.__all__ or set(ops.__all__) <= set(dir(ops))
    for name in ops.__all__:
        assert getattr(ops, name).__doc__


def test_the_choice_is_traced_in_one_graph_for_a_gpu_too():
    """The reasons why backends are missing are known before torch.compile traces."""
    torch._dynamo.reset()
    traced = torch.compile(lambda x: x + len(backends.available_backends("cuda")), fullgraph=True, backend="eager")
    assert traced(torch.zeros(())) == len(backends.available_backends("cuda"))
