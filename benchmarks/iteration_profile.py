"""Where the time of a training iteration on images goes: the kernels that take most of it, and the time by kinds.

On a GPU the profiler's trace says when each kernel ran; on a CPU a "kernel" is an op of torch with the time that is its
own. What an iteration takes is measured without the profiler, so what the kernels leave of it is time in which the GPU
has nothing to do.
"""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEventAvg

from benchmarks.image_iterations import BF16, MATRIX, OURS, OURS_BF16, Case, MatrixProbe, as_trained, timed
from benchmarks.measure import CPU, Call, Effort, Spread, profiled, synchronize, trace_of
from benchmarks.ops_suite import EAGER
from benchmarks.tables import Table, format_seconds, markdown
from sivae.files import write_text

PROFILE_SUFFIX = "-profile.md"  # of a page's name, after that of the rows beside it
TOP = 10
EFFORT = Effort(rounds=5, sample_seconds=0.0, warmup_calls=2, warmup_seconds=0.0, limit_seconds=20.0, least_rounds=3)
_CALLS = 3  # that the profiler watches

PRODUCTS = "products and convolutions"
# The first pattern that a kernel's name holds says its kind; names in torch, cuDNN, cuBLAS and CUTLASS.
_KINDS: tuple[tuple[str, str], ...] = (
    ("ours", r"sivae"),
    ("compiled", r"^triton_"),
    ("optimizer", r"adam|multi_tensor_apply|foreach"),
    ("normalisation", r"batch_?norm|instance_norm|group_?norm|\bbn_|_bn_|norm_"),
    (PRODUCTS, r"conv(?!ert)|gemm|gemv|wgrad|dgrad|fprop|xmma|cutlass|cublas|nvjet|::(add)?mm\b|::bmm|matmul|::linear"),
    ("pooling and resampling", r"pool|upsample|interpolate"),
    (
        "copies and layouts",
        r"mem(cpy|set)|copy|clone|nchw|nhwc|transpose|::fill|::zero|fill_|permute|convert|::cat\b|CatArray",
    ),
    ("sums", r"reduce|::sum|::mean|norm\b"),
    ("element by element", r"elementwise|aten::"),
)
_OTHER = "other"


@dataclass(frozen=True)
class Share:
    """One kernel's part of an iteration: seconds and calls of one iteration."""

    name: str
    seconds: float
    calls: float

    @property
    def kind(self) -> str:
        """Of `_KINDS`."""
        return next((kind for kind, pattern in _KINDS if re.search(pattern, self.name, re.IGNORECASE)), _OTHER)


@dataclass(frozen=True)
class Profile:
    """What one variant's iteration spends its time on.

    Attributes:
        case, variant: whose.
        device_type: "cpu" or "cuda".
        seconds: of an iteration, without the profiler.
        shares: of every kernel, the longest first.
        flops: of its products and convolutions.
        flops_per_second: of one large matrix product.
    """

    case: Case
    variant: str
    device_type: str
    seconds: Spread
    shares: Sequence[Share]
    flops: int
    flops_per_second: float


def profiles(case: Case, makers: Mapping[str, Callable[[], Call]], device: torch.device = CPU) -> list[Profile]:
    """Of the plain loop and of ours, on a GPU both in bfloat16.

    Args:
        case: what they are.
        makers: what makes the call of each variant.
        device: where.

    Raises:
        RuntimeError: a variant cannot run, or the profiler sees nothing of it.
    """
    found = []
    for variant in (BF16, OURS_BF16) if device.type == "cuda" else (EAGER, OURS):
        call = makers[variant]()
        probe = MatrixProbe(device)
        result = timed(case, {variant: functools.partial(_itself, call)}, device, EFFORT, probe)
        if variant in result.skipped:
            raise RuntimeError(f"{variant}: {result.skipped[variant]}")
        with as_trained():
            shares = shares_of(call, device)
        matrix = result.measurement.spread(MATRIX).median
        found.append(
            Profile(
                case,
                variant,
                device.type,
                result.measurement.spread(variant),
                shares,
                result.flops[variant],
                probe.flops / matrix,
            )
        )
    return found


def _itself(call: Call) -> Call:
    return call


def shares_of(call: Call, device: torch.device = CPU) -> list[Share]:
    """The kernels of a call that has run before, the longest first.

    Raises:
        RuntimeError: it is a GPU, and the profiler saw no kernel.
    """

    def several() -> None:
        for _ in range(_CALLS):
            call()

    synchronize(device)
    profile = profiled(several, device)
    if device.type != "cuda":
        return shares_of_ops(profile.key_averages(), _CALLS)
    shares = shares_of_trace(trace_of(profile), _CALLS)
    if not shares:
        raise RuntimeError("the profiler saw no kernel on the GPU; it may not be allowed to (CUPTI)")
    return shares


def shares_of_trace(events: Iterable[Mapping[str, Any]], calls: int) -> list[Share]:
    """From the events of a trace: kernels, copies and fills on the GPU, whose durations are in microseconds."""
    spans: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            spans[event["name"]].append(1e-6 * event["dur"])
    return _sorted(Share(name, sum(spent) / calls, len(spent) / calls) for name, spent in spans.items())


def shares_of_ops(averages: Iterable[FunctionEventAvg], calls: int) -> list[Share]:
    """From the profiler's averages: ops on the CPU, by their own time."""
    return _sorted(
        Share(str(entry.key), 1e-6 * entry.self_cpu_time_total / calls, entry.count / calls)
        for entry in averages
        if entry.self_cpu_time_total > 0
    )


def _sorted(shares: Iterable[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: -share.seconds)


def tables(profile: Profile) -> list[Table]:
    """By kinds, and by kernels."""
    title = f"{profile.case.name}, {profile.variant}"
    whole = profile.seconds.median
    kinds: defaultdict[str, list[Share]] = defaultdict(list)
    for share in profile.shares:
        kinds[share.kind].append(share)
    by_kind = _sorted(
        Share(kind, sum(one.seconds for one in part), sum(one.calls for one in part)) for kind, part in kinds.items()
    )
    lines = [_line(share.name, share, whole) for share in by_kind]
    if profile.device_type == "cuda":
        idle = whole - sum(share.seconds for share in profile.shares)
        lines.append(["no kernel runs", format_seconds(max(idle, 0.0)), _percent(max(idle, 0.0) / whole), ""])
    top = [_line(short(share.name), share, whole) for share in profile.shares[:TOP]]
    rest = profile.shares[TOP:]
    if rest:
        together = Share("", sum(share.seconds for share in rest), sum(share.calls for share in rest))
        top.append(_line(f"{len(rest)} others", together, whole))
    what = "kernel" if profile.device_type == "cuda" else "op"
    figures = ["time", "of the iteration", "calls"]
    return [
        Table(f"{title}: kinds", ["", *figures], lines, labels=1),
        Table(f"{title}: the {TOP} that take most", [what, *figures], top, labels=1),
    ]


def _line(name: str, share: Share, whole: float) -> list[str]:
    return [name, format_seconds(share.seconds), _percent(share.seconds / whole), f"{share.calls:.0f}"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def short(name: str) -> str:
    """A kernel's name without what its template and its arguments repeat, at most 90 characters."""
    for word in ("void ", "at::native::", "(anonymous namespace)::", "at::", "c10::"):
        name = name.replace(word, "")
    name = re.sub(r"\(.*\)$", "", name).replace("|", "/")
    return name if len(name) <= 90 else f"{name[:56]} … {name[-31:]}"


def sentence(profile: Profile) -> str:
    """What an iteration takes, and what its products would at the speed of a large one."""
    ideal = profile.flops / profile.flops_per_second
    whole = profile.seconds
    return (
        f"{format_seconds(whole.median)} an iteration without the profiler "
        f"[{format_seconds(whole.q1)}, {format_seconds(whole.q3)}]. Its products and convolutions are "
        f"{profile.flops / 1e9:.4g} GFLOP, which one large matrix product, at {profile.flops_per_second / 1e12:.3g} "
        f"TFLOP/s in the same rounds, would do in {format_seconds(ideal)}: {_percent(ideal / whole.median)} of it."
    )


_EXPLANATION = f"""\
Times and calls are of one iteration, means of {_CALLS} under the profiler. A share is of the iteration without it, so
shares can add up to more than 100 %."""


def write_page(path: Path, found: Sequence[Profile], facts: Mapping[str, Any]) -> None:
    """The tables as a Markdown page, over one that is there."""
    versions = f"torch {facts['torch']}" + (f", CUDA {facts['cuda']}" if facts["cuda"] else "")
    lines = [
        f"# Where an iteration's time goes on {facts['device']}",
        "",
        f"{facts['run'][:16].replace('T', ' ')} UTC, commit {facts['commit'] or 'unknown'}, {versions}, "
        f"{facts['threads']} of {facts['cores']} cores, load average before {facts['load_average_before']}: "
        f"`{facts['command']}`.",
        "",
        _EXPLANATION,
    ]
    for profile in found:
        lines += ["", f"## {profile.case.name}, {profile.variant}", "", sentence(profile)]
        for table in tables(profile):
            lines += ["", *markdown(table)]
    write_text(path, "\n".join(lines) + "\n")
