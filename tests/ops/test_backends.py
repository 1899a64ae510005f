"""Test the choice of a backend, and that the ops import only torch."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

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


def run_in_thread(function: Callable[[], None]) -> None:
    thread = threading.Thread(target=function)
    thread.start()
    thread.join()


class TestUseBackendElsewhere:
    """The choice belongs to a thread or an asyncio task, and to the backward passes that it starts."""

    def test_threads_that_overlap(self, chosen):
        """First in, first out: nobody changes the other's choice, and nothing stays."""
        entered, left = threading.Event(), threading.Event()

        def second() -> None:
            with ops.use_backend("reference"):
                entered.set()
                left.wait(60)
                ops.gaussian_kl(MU, MU)
            ops.gaussian_kl(MU, MU)

        default = ops.available_backends()[0]
        thread = threading.Thread(target=second)
        with ops.use_backend(default):
            thread.start()
            assert entered.wait(60)
            ops.gaussian_kl(MU, MU)
        left.set()
        thread.join()
        ops.gaussian_kl(MU, MU)
        assert chosen == [default, "reference", default, default]
        assert backends.in_force() is None

    def test_a_new_thread_starts_without_a_choice(self, chosen):
        def use() -> None:
            ops.gaussian_kl(MU, MU)

        with ops.use_backend("reference"):
            context = contextvars.copy_context()
            run_in_thread(use)
            run_in_thread(lambda: context.run(use))
        assert chosen == [ops.available_backends()[0], "reference"]

    def test_asyncio_tasks_that_overlap(self, chosen):
        async def second(entered: asyncio.Event, left: asyncio.Event) -> None:
            with ops.use_backend("reference"):
                entered.set()
                await left.wait()
                ops.gaussian_kl(MU, MU)

        async def first() -> None:
            entered, left = asyncio.Event(), asyncio.Event()
            task = asyncio.create_task(second(entered, left))
            await entered.wait()
            ops.gaussian_kl(MU, MU)
            left.set()
            await task
            ops.gaussian_kl(MU, MU)

        asyncio.run(first())
        default = ops.available_backends()[0]
        assert chosen == [default, "reference", default]

    def test_a_generator_that_ends_in_another_context(self):
        @contextlib.contextmanager
        def chosen_inside() -> Iterator[None]:
            with ops.use_backend("reference"):
                yield

        block = chosen_inside()
        contextvars.copy_context().run(block.__enter__)
        assert backends.in_force() is None
        block.__exit__(None, None, None)
        assert backends.in_force() is None

    def test_a_thread_of_autograd(self, chosen):
        """torch hands a backward pass that changes its thread the context of the thread that called it."""
        if not hasattr(torch._C, "_remove_obj_from_tls"):
            pytest.skip(f"torch {torch.__version__} does not hand its threads a context")
        threads: list[int] = []

        class Nested(torch.autograd.Function):
            """Backward passes inside each other; the engine moves the 60th to a thread of its own."""

            @staticmethod
            def forward(ctx, x: Tensor, depth: int) -> Tensor:
                ctx.depth = depth
                return x.clone()

            @staticmethod
            def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
                threads.append(threading.get_ident())
                if threads[0] == threads[-1] and ctx.depth < 100:
                    with torch.enable_grad():
                        x = torch.zeros(1, requires_grad=True)
                        Nested.apply(x, ctx.depth + 1).backward()
                else:
                    ops.gaussian_kl(MU, MU)
                return grad, None

        with ops.use_backend("reference"):
            Nested.apply(torch.zeros(1, requires_grad=True), 0).backward()
        assert len(set(threads)) == 2
        assert chosen == ["reference"]


class TestUseBackendCompiled:
    @pytest.fixture(autouse=True)
    def fresh_dynamo(self) -> Iterator[None]:
        torch._dynamo.reset()
        yield
        torch._dynamo.reset()

    def test_compiled_code_follows_the_choice_of_each_thread(self):
        compiled = torch.compile(
            lambda x: x + (0 if backends.in_force() is None else 1), fullgraph=True, backend="eager"
        )
        found = [compiled(torch.zeros(()))]
        with ops.use_backend("reference"):
            found.append(compiled(torch.zeros(())))
            run_in_thread(lambda: found.append(compiled(torch.zeros(()))))
        found.append(compiled(torch.zeros(())))
        assert [float(x) for x in found] == [0.0, 1.0, 0.0, 0.0]

    @pytest.mark.parametrize("fullgraph", [True, False])
    def test_a_block_in_a_compiled_function(self, fullgraph):
        def call(x: Tensor) -> Tensor:
            with ops.use_backend("reference"):
                if not fullgraph:
                    torch._dynamo.graph_break()
                y = x + (0 if backends.in_force() is None else 1)
            return y + (0 if backends.in_force() is None else 2)

        compiled = torch.compile(call, fullgraph=fullgraph, backend="eager")
        assert float(compiled(torch.zeros(()))) == 1.0
        assert backends.in_force() is None


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
