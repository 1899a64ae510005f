"""Profile a training iteration on images: the kernels that take most of its time, and the time by kinds of kernels.

On a GPU the kernels and their times come from the profiler's trace. On a CPU a "kernel" is an op of torch, with its own
time. An iteration's time is measured without the profiler; the part of it without kernels is time in which the GPU
waits.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEventAvg

from benchmarks.iterations.images import BF16, MATRIX, OURS, OURS_BF16, ImageCase, as_trained, timed, variants
from benchmarks.names import EAGER
from benchmarks.probes import MatrixProbe
from benchmarks.tables import Table, format_seconds, markdown
from benchmarks.timing import CPU, Call, Effort, Spread, synchronize
from benchmarks.torch_profiler import profiled, trace_of
from sivae.files import write_text

PROFILE_SUFFIX = "-profile.md"  # a page has the name of the rows beside it, and this
TOP = 10
EFFORT = Effort(rounds=5, sample_seconds=0.0, warmup_calls=2, warmup_seconds=0.0, limit_seconds=20.0, least_rounds=3)
_CALLS = 3  # that the profiler watches

PRODUCTS = "products and convolutions"
# Kind and pattern; the first pattern found in a kernel's name decides. Names of torch, cuDNN, cuBLAS and CUTLASS.
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
    """A kernel, and its seconds and calls in one iteration."""

    name: str
    seconds: float
    calls: float

    @property
    def kind(self) -> str:
        """The kernel's kind in `_KINDS`."""
        return next((kind for kind, pattern in _KINDS if re.search(pattern, self.name, re.IGNORECASE)), _OTHER)


@dataclass(frozen=True)
class Profile:
    """The profile of one variant's iteration.

    Attributes:
        case, variant: what was profiled.
        device_type: "cpu" or "cuda".
        seconds: of an iteration, without the profiler.
        shares: of every kernel, the longest first.
        flops: of the iteration's products and convolutions.
        flops_per_second: of one large matrix product.
    """

    case: ImageCase
    variant: str
    device_type: str
    seconds: Spread
    shares: Sequence[Share]
    flops: int
    flops_per_second: float


def profiles(case: ImageCase, device: torch.device = CPU) -> list[Profile]:
    """Profile the plain loop and the package's step, on a GPU both in bfloat16.

    Raises:
        RuntimeError: a variant cannot run, or the profiler sees no kernel of it.
    """
    makers = variants(case, device, compiled=False)
    return [profile_of(case, name, makers[name], device) for name in _variants(device)]


def _variants(device: torch.device) -> tuple[str, str]:
    return (BF16, OURS_BF16) if device.type == "cuda" else (EAGER, OURS)


def profile_of(case: ImageCase, variant: str, make: Callable[[], Call], device: torch.device = CPU) -> Profile:
    """Profile the call that `make` makes; raises as `profiles`."""
    call, probe = make(), MatrixProbe(device)
    result = timed(case, {variant: lambda: call}, EFFORT, device=device, probe=probe)
    if variant in result.skipped:
        raise RuntimeError(f"{variant}: {result.skipped[variant]}")
    with as_trained():
        shares = shares_of(call, device)
    return Profile(
        case,
        variant,
        device.type,
        seconds=result.measurement.spread(variant),
        shares=shares,
        flops=result.flops[variant],
        flops_per_second=probe.flops / result.measurement.spread(MATRIX).median,
    )


def shares_of(call: Call, device: torch.device = CPU) -> list[Share]:
    """The kernels of a call that has run before, the longest first.

    Raises:
        RuntimeError: the profiler saw no kernel on a GPU.
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
    """The kernels, copies and fills on the GPU in a trace's events, whose durations are in microseconds."""
    spans: defaultdict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("cat") in ("kernel", "gpu_memcpy", "gpu_memset"):
            spans[event["name"]].append(1e-6 * event["dur"])
    return _sorted(Share(name, sum(spent) / calls, len(spent) / calls) for name, spent in spans.items())


def shares_of_ops(averages: Iterable[FunctionEventAvg], calls: int) -> list[Share]:
    """The ops in the profiler's averages on the CPU, with their own time."""
    return _sorted(
        Share(str(entry.key), 1e-6 * entry.self_cpu_time_total / calls, entry.count / calls)
        for entry in averages
        if entry.self_cpu_time_total > 0
    )


def _sorted(shares: Iterable[Share]) -> list[Share]:
    return sorted(shares, key=lambda share: -share.seconds)


def tables(profile: Profile) -> list[Table]:
    """A table of the kinds, and one of the kernels that take most time."""
    title = f"{profile.case.name}, {profile.variant}"
    counted = sum(share.seconds for share in profile.shares)
    whole = max(counted, profile.seconds.median) if profile.device_type == "cuda" else counted
    kinds: defaultdict[str, list[Share]] = defaultdict(list)
    for share in profile.shares:
        kinds[share.kind].append(share)
    by_kind = _sorted(
        Share(kind, sum(one.seconds for one in part), sum(one.calls for one in part)) for kind, part in kinds.items()
    )
    lines = [_line(share.name, share, whole) for share in by_kind]
    if profile.device_type == "cuda":
        lines.append(["no kernel runs", format_seconds(whole - counted), _percent((whole - counted) / whole), ""])
    top = [_line(short(share.name), share, whole) for share in profile.shares[:TOP]]
    rest = profile.shares[TOP:]
    if rest:
        together = Share("", sum(share.seconds for share in rest), sum(share.calls for share in rest))
        top.append(_line(f"{len(rest)} others", together, whole))
    what = "kernel" if profile.device_type == "cuda" else "op"
    figures = ["time", "share", "calls"]
    return [
        Table(f"{title}: kinds", ["", *figures], lines, labels=1),
        Table(f"{title}: the {TOP} that take most", [what, *figures], top, labels=1),
    ]


def _line(name: str, share: Share, whole: float) -> list[str]:
    return [name, format_seconds(share.seconds), _percent(share.seconds / whole), f"{share.calls:.0f}"]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def short(name: str) -> str:
    """A kernel's name without common namespaces and arguments, at most 90 characters."""
    for word in ("void ", "at::native::", "(anonymous namespace)::", "at::", "c10::"):
        name = name.replace(word, "")
    name = re.sub(r"\(.*\)$", "", name).replace("|", "/")
    return name if len(name) <= 90 else f"{name[:56]} … {name[-31:]}"


def sentence(profile: Profile) -> str:
    """An iteration's time, and the time of its products at the speed of a large one."""
    ideal = profile.flops / profile.flops_per_second
    whole = profile.seconds
    return (
        f"{format_seconds(whole.median)} an iteration without the profiler "
        f"[{format_seconds(whole.q1)}, {format_seconds(whole.q3)}]. Its products and convolutions are "
        f"{profile.flops / 1e9:.4g} GFLOP, which one large matrix product, at {profile.flops_per_second / 1e12:.3g} "
        f"TFLOP/s in the same rounds, would do in {format_seconds(ideal)}: {_percent(ideal / whole.median)} of it."
    )


_EXPLANATION = f"""\
Times and calls are of one iteration, means of {_CALLS} under the profiler, which makes it slower. Shares are of the
sum: on a CPU of the ops' times, on a GPU of the iteration's time if kernels do not fill it. They add up to 100 %."""


def write_page(path: Path, found: Sequence[Profile], facts: Mapping[str, Any]) -> None:
    """Write the tables as a Markdown page; replaces the file."""
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
