"""Draw the seeds of noise, each exactly once: a pass that is computed again must see the noise of the first pass.

Activations are computed again by `torch.utils.checkpoint`, and by torch.compile, which divides a graph into a forward
and a backward part and may put an op into both. A seed that is drawn twice gives wrong gradients.
"""

from __future__ import annotations

import itertools
import sys

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.checkpoint import CheckpointPolicy

from sivae.ops.ranges import annotated

SEED_LIMIT = 2**63
_LEAST_BUDGET = 1e-9  # of memory for activations, as a share
_REMEDY = "draw the seed outside: noise=ops.PhiloxNoise(ops.draw_seed(device))"


@annotated
def draw_seed(device: torch.device | str, generator: torch.Generator | None = None) -> Tensor:
    """A fresh seed, int64 of shape [1] on `device`, from `generator` or the device's default one.

    The draw is a device operation: no host synchronisation, and a new seed at each replay of a captured CUDA graph.
    A compiled graph keeps the seed for its backward pass, also where an activation memory budget makes it compute the
    rest again.

    Raises:
        RuntimeError: a checkpoint computes its part again, and would draw another seed: `generator` is given, or
            `preserve_rng_state=False`. Or a region of a compiled function has the activation memory budget 0.
    """
    return fresh_seed("draw_seed", device, generator)


def fresh_seed(op: str, device: torch.device | str, generator: torch.Generator | None) -> Tensor:
    """`draw_seed` for the public op of that name."""
    if torch.compiler.is_compiling():
        # Not is_exporting(): in torch 2.11 it is true in everything that torch.compile traces.
        if generator is None and not torch.compiler._is_exporting_flag:
            seed: Tensor = torch.ops.sivae.draw_seed(torch.device(device))
            return seed
    elif torch._C._current_graph_task_id() != -1:  # in a backward pass
        _refuse_second_draw(op, generator)
    return _drawn(device, generator)


def _drawn(device: torch.device | str, generator: torch.Generator | None) -> Tensor:
    if generator is None:  # another operator than with a generator, one that ONNX has
        return torch.randint(0, SEED_LIMIT - 1, (1,), device=device, dtype=torch.int64)
    return torch.randint(0, SEED_LIMIT - 1, (1,), generator=generator, device=device, dtype=torch.int64)


def _refuse_second_draw(op: str, generator: torch.Generator | None) -> None:
    # Only a pass that is computed again records gradients inside a backward pass.
    if generator is not None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                f"{op}: a checkpoint computes its part again and would draw another seed from `generator`, "
                f"expected the noise of the first pass; {_REMEDY}"
            )
    elif _generators_have_moved_on():
        raise RuntimeError(
            f"{op}: a checkpoint with preserve_rng_state=False computes its part again and would draw another seed, "
            f"expected the noise of the first pass; keep preserve_rng_state=True, or {_REMEDY}"
        )


def _generators_have_moved_on() -> bool:
    """Whether a caller is a checkpoint that did not restore the default generators for its second pass."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code.co_filename == torch.utils.checkpoint.__file__:
            names = frame.f_locals
            # Without re-entry the second pass is a closure; with it, an autograd function's backward.
            if names.get("preserve_rng_state", getattr(names.get("ctx"), "preserve_rng_state", True)) is False:
                return True
    return False


def _draw_while_traced(device: torch.device) -> Tensor:
    """Draw a seed; where a graph is traced, have its backward part take the seed from its forward part."""
    mode = get_proxy_mode()
    if mode is None:
        return _drawn(device, None)
    nodes = mode.tracer.graph.nodes
    before = len(nodes)
    seed = _drawn(device, None)
    for node in itertools.islice(reversed(nodes), len(nodes) - before):
        node.meta["recompute"] = CheckpointPolicy.MUST_SAVE
        custom = node.meta.get("custom")
        if isinstance(custom, dict) and custom.get("_region_activation_memory_budget") == 0.0:
            raise RuntimeError(
                "draw_seed: region_activation_memory_budget is 0, which computes everything again, also draws, "
                f"expected a budget above 0; or {_REMEDY}"
            )
    if torch._functorch.config.activation_memory_budget == 0:
        # At exactly 0 torch saves no values at all, not even those that must be saved. A node may set the budget.
        next(iter(nodes)).meta["memory_budget"] = _LEAST_BUDGET
    return seed


_library = torch.library.Library("sivae", "DEF")
_library.define(
    "draw_seed(Device device) -> Tensor", tags=(torch.Tag.pt2_compliant_tag, torch.Tag.nondeterministic_seeded)
)
# Composite, so that graphs contain torch's own operator, which the compiler knows to be random.
_library.impl("draw_seed", _draw_while_traced, "CompositeImplicitAutograd")
# Before a transform of torch.func, so that vmap sees that operator.
_library.impl("draw_seed", _draw_while_traced, "FuncTorchDynamicLayerFrontMode")
