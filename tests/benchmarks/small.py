"""Small cases and little effort, so that tests take no time, and the facts of a run on this machine."""

from __future__ import annotations

from typing import Any

from benchmarks.environment import environment
from benchmarks.iterations.conv import ConvCase
from benchmarks.iterations.style import StyleCase
from benchmarks.timing import CPU, Effort

EFFORT = Effort(rounds=3, sample_seconds=1e-4, warmup_calls=1, warmup_seconds=0.0)
ITERATION_EFFORT = Effort(rounds=3, sample_seconds=0.0, warmup_calls=1, warmup_seconds=0.0)
CONV = ConvCase(batch=2, side=4, widths=(4,), z_dim=3, preset="cifar10")
STYLE = StyleCase(batch=2, side=8, start_channels=2, max_channels=4, z_dim=3, mapping_layers=1)
FACTS: dict[str, Any] = environment(CPU) | {"quick": False, "command": "sivae bench"}
