"""The stages of `check`, `speed` and `train`. Needs the standard library only."""

from __future__ import annotations

import dataclasses
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu.stages import MINUTES_LEFT, Stage

CHECK, SPEED, TRAIN = "check", "speed", "train"
COMPILED_SIDES = ("32", "64")  # the smallest of both models
PROFILED_SIDES = ("32", "256")
TRAINING_MINUTES = 6.0
_BUILDING_MINUTES = 3.5  # and all that the two processes of a training do besides training
_STARTING_SECONDS = 60  # of a training process: reading images, the pilot, metrics and pictures
_TRITON_PARTS = 8
_BENCH = (sys.executable, "-m", "benchmarks")

# What `python setup.py build_ext --inplace` does for CUDA, for setuptools too old to read all of pyproject.toml.
_BUILD = """\
import sysconfig
from pathlib import Path
from setup import compile_extension, write_status
package = Path("sivae").resolve()
compile_extension(package / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}", "cuda")
write_status(package, "", "")
"""
_MACHINE = """\
import json, torch
from sivae.machine import machine
print(json.dumps(machine(), indent=2))
assert torch.cuda.is_available(), "torch sees no CUDA device"
"""


@dataclass(frozen=True)
class Plan:
    """Stages to run in order.

    Attributes:
        stages: what runs.
        minutes: for all stages together.
        pages: pattern of the pages, below the folder of results, that are printed at the end.
    """

    stages: Sequence[Stage]
    minutes: float
    pages: str = "results/*/report.md"

    def only(self, names: Sequence[str]) -> Plan:
        """The plan with these stages alone."""
        return dataclasses.replace(self, stages=[stage for stage in self.stages if stage.name in names])


def check(out: Path) -> Plan:
    """Build; run the tests marked `gpu` and compute-sanitizer; measure the ops and the 2D iteration.

    Args:
        out: folder of the results.
    """
    tests = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "--durations=15", "-p", "no:cacheprovider"]
    small = "not test_large"  # the large ones take much of the memory, so they run one after the other
    results = str(out / "results")
    return Plan(
        [
            *_build(),
            Stage("tests", [*tests, "-k", f"not triton and {small}"], 180),
            Stage("tests-large", [*tests, "-k", "test_large"], 180, beside=True),
            # Triton compiles one kernel at a time in a process, which takes most of the time of these tests.
            *(
                Stage(
                    f"tests-triton-{part}",
                    [*tests, "-k", f"triton and {small}"],
                    180,
                    {"SIVAE_TEST_PART": f"{part}/{_TRITON_PARTS}"},
                    beside=True,
                )
                for part in range(_TRITON_PARTS)
            ),
            *(_sanitizer(tool) for tool in ("memcheck", "racecheck")),
            Stage("throughput", [*_BENCH, "--device", "cuda", "--out", results, "--minutes", MINUTES_LEFT], 360),
            Stage("report", [*_BENCH, "report", results], 30, reserved=30),
        ],
        minutes=8.8,
    )


def speed(out: Path) -> Plan:
    """Build; measure the iterations on images at every resolution, with torch.compile at small ones; profile some.

    A case that has not begun when the time is over is left out, and its log says so.

    Args:
        out: folder of the results.
    """
    results = str(out / "results")
    where = ["--device", "cuda", "--out", results]

    def measured(*options: str) -> list[str]:
        return [*_BENCH, *where, "--minutes", MINUTES_LEFT, *options]

    return Plan(
        [
            *_build(),
            Stage("style", measured("--no-compile", "--ops", "style_step"), 180),
            Stage("conv", measured("--no-compile", "--ops", "image_step"), 180),
            Stage("profile", [*_BENCH, "profile", *where, "--sides", *PROFILED_SIDES], 80, reserved=60),
            Stage(
                "compiled", measured("--ops", "image_step", "style_step", "--sides", *COMPILED_SIDES), 240, least=100
            ),
            Stage("report", [*_BENCH, "report", results], 30, reserved=30),
        ],
        minutes=9.0,
    )


def train(out: Path, data: str, minutes: float = TRAINING_MINUTES) -> Plan:
    """Build; train CIFAR-10's model with the published settings in bfloat16, in two processes.

    Args:
        out: folder of the results; the run is in its folder `training`.
        data: CIFAR-10's images.
        minutes: of training, of both processes together.
    """
    program = [sys.executable, "-m", "benchmarks.gpu.timed_training"]
    training, limit = str(out / "training"), 30 * minutes + _STARTING_SECONDS
    return Plan(
        [
            *_build(),
            Stage("first", [*program, "first", training, "--data", data, "--minutes", f"{minutes:g}"], limit),
            Stage("second", [*program, "second", training], limit, reserved=30 * minutes),
        ],
        minutes=minutes + _BUILDING_MINUTES,
        pages="training/report.md",
    )


def _build() -> list[Stage]:
    """Compile with CUDA, and say what machine this is."""
    return [
        Stage("build", [sys.executable, "-c", _BUILD], 180),
        Stage("machine", [sys.executable, "-c", _MACHINE], 60),
    ]


def _sanitizer(tool: str) -> Stage:
    """Run every native kernel under a tool of compute-sanitizer."""
    program = find_sanitizer()
    if program is None:
        reason = "compute-sanitizer is neither on the PATH nor in the CUDA folder"
        return Stage(tool, [], 120, missing=reason, beside=True)
    # Our kernels only; torch's own calls may fail and be tried again without harm.
    watched = ["--error-exitcode", "9", "--kernel-name", "kernel_substring=sivae", "--report-api-errors", "no"]
    exercise = [sys.executable, "-m", "benchmarks.gpu.exercise", "cuda", "native"]
    # Without a cache each tensor is an allocation of its own, so that the tool sees an access beyond its end.
    uncached = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    return Stage(tool, [program, "--tool", tool, *watched, *exercise], 120, uncached, beside=True)


def find_sanitizer() -> str | None:
    """compute-sanitizer on the PATH, or in the folder of CUDA."""
    found = shutil.which("compute-sanitizer")
    if found:
        return found
    nvcc = shutil.which("nvcc")
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    roots += [str(Path(nvcc).resolve().parents[1])] if nvcc else []
    for root in filter(None, roots):
        for place in ("bin", "compute-sanitizer"):
            candidate = Path(root, place, "compute-sanitizer")
            if candidate.is_file():
                return str(candidate)
    return None
