"""Run a function of tensors as one CUDA graph: one launch replaces hundreds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Outputs = dict[str, Tensor]
EAGER_CALLS = 3  # the first calls run without a graph: libraries choose kernels, optimizers make their state


class GraphedCall:
    """Calls a function a few times, then captures it as a CUDA graph and replays the graph.

    Each call has the effect of one call of the function. The capture itself computes nothing.

    Args:
        function: takes a batch and an optional condition, whose shapes must not change. The next call overwrites its
            results.
        generators: generators of its random numbers, except the device's default one.
    """

    def __init__(
        self, function: Callable[[Tensor, Tensor | None], Outputs], generators: Sequence[torch.Generator]
    ) -> None:
        self._function = function
        self._generators = generators
        self._calls = 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._stream: torch.cuda.Stream | None = None

    def __call__(self, batch: Tensor, condition: Tensor | None) -> Outputs:
        if self._graph is None and self._calls < EAGER_CALLS:
            self._calls += 1
            return self._on_side_stream(batch, condition)
        if self._graph is None:
            self._capture(batch, condition)
        assert self._graph is not None
        self._batch.copy_(batch)
        if self._condition is not None and condition is not None:
            self._condition.copy_(condition)
        self._graph.replay()
        return self._outputs

    def _on_side_stream(self, batch: Tensor, condition: Tensor | None) -> Outputs:
        """Call the function on the stream of the later capture, so that the allocator has memory in its pools."""
        if self._stream is None:
            self._stream = torch.cuda.Stream(batch.device)
        current = torch.cuda.current_stream(batch.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            outputs = self._function(batch, condition)
        current.wait_stream(self._stream)
        return outputs

    def _capture(self, batch: Tensor, condition: Tensor | None) -> None:
        self._batch = batch.clone(memory_format=torch.preserve_format)
        self._condition = None if condition is None else condition.clone()
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        torch.cuda.synchronize(batch.device)
        with torch.cuda.graph(graph, stream=self._stream):
            self._outputs = self._function(self._batch, self._condition)
        self._graph = graph
