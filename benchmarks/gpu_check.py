"""Everything that needs a GPU, in one command: `make gpu-check OUT=DIR`, or `python -m benchmarks.gpu_check DIR`.

Builds, runs the tests marked `gpu`, looks for memory errors and races, and runs the suite, with the Python that runs
this and without a network. It needs a GPU, nvcc, and torch with CUDA; the standard library does the rest. Every stage
writes its output to DIR/STAGE.log; one that fails or takes too long does not stop those after it. The exit code is 1
where any failed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.stages import MINUTES_LEFT, Stage, build_stages, perform_plan, show_reports

MINUTES = 8.8  # for all stages together
SUITE_SECONDS = 360
_TRITON_PARTS = 8


def plan(out: Path) -> list[Stage]:
    """The stages, in order.

    Args:
        out: where their results go.
    """
    python = sys.executable
    sanitizer = find_sanitizer()
    # Every allocation its own: an access beyond a tensor is then one beyond what the sanitizer knows.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    exercise = [python, "-m", "benchmarks.exercise", "cuda", "native"]
    # Our kernels only; torch's own calls may fail and be tried again without harm.
    watched = ["--kernel-name", "kernel_substring=sivae", "--report-api-errors", "no"]
    tests = [python, "-m", "pytest", "-m", "gpu", "tests/gpu", "-q", "--durations=15", "-p", "no:cacheprovider"]
    small = "not test_large"  # those take a good part of the memory, one after the other
    missing = "" if sanitizer else "compute-sanitizer is neither on the PATH nor in the CUDA folder"
    suite, results = [python, "-m", "benchmarks"], str(out / "results")
    return [
        *build_stages(),
        Stage("tests", [*tests, "-k", f"not triton and {small}"], 180),
        Stage("tests-large", [*tests, "-k", "test_large"], 180, beside=True),
        # Triton compiles while its tests run, one kernel at a time in a process, which takes most of their time.
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
        *(
            Stage(
                tool,
                [sanitizer, "--tool", tool, "--error-exitcode", "9", *watched, *exercise] if sanitizer else [],
                120,
                alone,
                missing,
                beside=True,
            )
            for tool in ("memcheck", "racecheck")
        ),
        Stage("suite", [*suite, "--device", "cuda", "--out", results, "--minutes", MINUTES_LEFT], SUITE_SECONDS),
        Stage("report", [*suite, "report", results], 30, reserved=30),
    ]


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the stages and print a table.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=str(__doc__).split("\n\n")[0])
    return perform_plan(parser, lambda out, _: plan(out), lambda _: MINUTES, arguments, show_reports)


if __name__ == "__main__":
    sys.exit(main())
