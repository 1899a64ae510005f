"""Find the available backends of the ops, say why others are missing, and choose between them.

A backend is an object with one callable for each op of `library.OP_NAMES`, with the signature of the op's schema.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
import types
from collections.abc import Iterator
from contextvars import ContextVar
from types import SimpleNamespace

import torch
from torch.autograd import forward_ad

from sivae.ops import library, reference, transforms

_REFERENCE = SimpleNamespace(**{name: getattr(reference, name) for name in library.OP_NAMES})
_native_library: torch.library.Library | None = None
_forced: ContextVar[str | None] = ContextVar("sivae.ops.use_backend")
_NOT_SET = ""
_traced: str | None = None  # set by use_backend in functions that torch.compile traces, otherwise always None


class _InForce(types.ModuleType):
    """The name set by `use_backend`, as an attribute.

    torch.compile cannot trace a context variable. It can read an attribute of a module, and reads it again at each
    call, to see whether the compiled code is still right.
    """

    @property
    def name(self) -> str | None:
        name = _forced.get(_NOT_SET)
        if name is not _NOT_SET:
            return name
        # A thread of autograd's engine has no context of its own; torch gives it that of the call of backward.
        context = torch._C._get_obj_in_tls("context") if torch._C._is_key_in_tls("context") else None
        return None if context is None else context.get(_forced)


_in_force = _InForce("sivae.ops.use_backend")


def _load_native() -> tuple[SimpleNamespace | None, str | None]:
    """The native ops, or the reason why they are missing."""
    global _native_library
    try:
        built = importlib.import_module("sivae._build_status")
    except ImportError:
        return None, "the extension sivae._C is not built; with a C++ compiler: pip install --no-build-isolation ."
    if built.REASON:
        return None, built.REASON
    if str(torch.__version__) != built.TORCH_VERSION:
        # Checked before the import: a module for another torch may crash instead of failing to load.
        return None, (
            f"the extension sivae._C was compiled against torch {built.TORCH_VERSION}, and {torch.__version__} is "
            "installed; reinstall: pip install --no-build-isolation ."
        )
    try:
        importlib.import_module("sivae._C")
    except ImportError as error:
        return None, f"the extension sivae._C does not load ({error}); reinstall: pip install --no-build-isolation ."
    _native_library = library.define_ops("sivae_native")
    transforms.support_transforms(_native_library, "sivae_native")
    namespace = torch.ops.sivae_native
    return SimpleNamespace(**{name: getattr(namespace, name).default for name in library.OP_NAMES}), None


def _no_cuda_kernels_reason() -> str | None:
    """The reason why the loaded native ops have no CUDA kernels; None where they have them."""
    extension, built = importlib.import_module("sivae._C"), importlib.import_module("sivae._build_status")
    if extension.has_cuda:
        return None
    why = f": {built.CUDA_REASON}" if built.CUDA_REASON else ""
    return f"it was compiled without CUDA kernels{why}; SIVAE_BUILD=cuda pip install --no-build-isolation . builds them"


_native, _native_reason = _load_native()
# Once, at import: torch.compile does not trace through an import by name.
_native_cuda_reason = None if _native is None else _no_cuda_kernels_reason()


def has_native() -> bool:
    """Whether the native backend is loaded."""
    return _native is not None


# In order of preference: the first available backend of a device is its default.
_PREFERENCE = ("native", "triton", "reference")
# On the CPU, Triton's interpreter is for tests: it runs only where it is named in the call.
_CPU_PREFERENCE = ("native", "reference", "triton")
_OPS: dict[str, SimpleNamespace] = {"reference": _REFERENCE}
if _native is not None:
    _OPS["native"] = _native
_triton_found = importlib.util.find_spec("triton") is not None


def _ops_of(name: str) -> SimpleNamespace:
    """The ops of an available backend. The first call that uses Triton imports it."""
    if name == "triton" and name not in _OPS:
        # An import statement, because torch.compile runs it while it traces.
        from sivae.ops import triton

        _OPS[name] = triton.OPS
    return _OPS[name]


def _triton_missing_reason(device_type: str) -> str | None:
    if not _triton_found:
        return "the package triton is not installed; on Linux: pip install triton"
    if device_type == "cuda":
        return None
    if device_type != "cpu":
        return f"it has no kernels for device {device_type!r}"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "on the CPU it runs only in Triton's interpreter: set TRITON_INTERPRET=1 before triton is first imported"
    # Triton decides whether to interpret a function when it decorates it; for its own functions, when it is imported.
    imported = sys.modules.get("triton.language")
    if imported is not None and not type(imported.sum).__name__.startswith("Interpreted"):
        return "triton was imported before TRITON_INTERPRET=1 was set, so its functions are not interpreted"
    return None


def _missing_reason(name: str, device_type: str) -> str | None:
    """None where the backend is available on the device, else the reason in one sentence."""
    if name == "reference":
        return None
    if name == "triton":
        return _triton_missing_reason(device_type)
    if _native_reason is not None:
        return _native_reason
    if device_type == "cpu":
        return None
    if device_type == "cuda":
        return _native_cuda_reason
    return f"it has no kernels for device {device_type!r}"


def backend_status() -> dict[str, dict[str, str | None]]:
    """For each backend and device type: None where the backend is available, else the reason why not."""
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {name: {device: _missing_reason(name, device) for device in devices} for name in reversed(_PREFERENCE)}


def native_build() -> dict[str, str] | None:
    """The compiler, instruction set and CUDA support of the native backend, in words; None where it is missing."""
    if _native is None:
        return None
    extension, built = importlib.import_module("sivae._C"), importlib.import_module("sivae._build_status")
    cuda = "compiled" if extension.has_cuda else f"not compiled: {built.CUDA_REASON or 'not requested'}"
    return {"compiler": extension.compiler, "instructions": extension.cpu_isa(), "CUDA kernels": cuda}


def flush_denormals(on: bool) -> None:
    """Have the CPU treat denormal numbers as zero, or not, in this thread and, by the native build, in torch's pool.

    Products of denormals take a hundred times as long as others, and an exponential that saturates makes many.
    """
    torch.set_flush_denormal(on)
    if _native is not None:
        importlib.import_module("sivae._C").set_flush_denormal(on)


def available_backends(device: torch.device | str = "cpu") -> list[str]:
    """Names of the backends that can run on `device`, the fastest first."""
    device_type = torch.device(device).type
    preference = _CPU_PREFERENCE if device_type == "cpu" else _PREFERENCE
    return [name for name in preference if _missing_reason(name, device_type) is None]


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run every op that does not name a backend on `name` inside the `with` block.

    The choice applies to the current thread or asyncio task, like any context variable, and to the backward passes that
    it starts. An op's own `backend=` takes precedence.

    Raises:
        ValueError: there is no backend of that name.
    """
    _check_name("use_backend", name)
    with restored(name):
        yield


def in_force() -> str | None:
    """The name set by `use_backend` where this is called, or None."""
    return _traced or _in_force.name


@contextlib.contextmanager
def restored(name: str | None) -> Iterator[None]:
    """Set what `in_force` returns inside the `with` block."""
    global _traced
    if torch.compiler.is_dynamo_compiling():
        before, _traced = _traced, name
        try:
            yield
        finally:
            _traced = before
        return
    token = _forced.set(name)
    try:
        yield
    finally:
        # A generator may end the block in another context, which never had the name.
        with contextlib.suppress(ValueError):
            _forced.reset(token)


def _check_name(op: str, name: str) -> None:
    if name not in _PREFERENCE:
        raise ValueError(f"{op}: backend is {name!r}, expected one of {', '.join(map(repr, _PREFERENCE))} or None")


_default_for: dict[str, SimpleNamespace] = {}  # by device type


def select(op: str, name: str | None, device: torch.device) -> SimpleNamespace:
    """The ops of the requested backend, or of the fastest available one.

    Where forward-mode derivatives are computed, those of the reference: the others have none. The transforms of
    `torch.func` reach the reference through `transforms.py`. While `torch.export` traces, the fastest is the reference
    as well: other programs have its operators.

    Raises:
        ValueError: the name is unknown.
        RuntimeError: the backend is not available on this device; the message says why.
    """
    if name is None:
        name = in_force()
    if name is None:
        # Not is_exporting(): in torch 2.11 it is true in everything that torch.compile traces.
        if forward_ad._current_level >= 0 or torch.compiler._is_exporting_flag:
            return _REFERENCE
        ops = _default_for.get(device.type)
        if ops is None:
            ops = _default_for[device.type] = _ops_of(available_backends(device)[0])
        return ops
    _check_name(op, name)
    reason = _missing_reason(name, device.type)
    if reason is not None:
        raise RuntimeError(f"{op}: backend {name!r} is not available on {device}: {reason}")
    return _ops_of(name if forward_ad._current_level < 0 else "reference")


def runs_native(device: torch.device) -> bool:
    """Whether a call that names no backend runs on the native one; False where the call would raise an error."""
    if in_force() not in (None, "native") or _missing_reason("native", device.type) is not None:
        return False
    return select("runs_native", None, device) is _native
