"""Test the emulator of CUDA kernels: correct kernels give a GPU's results, and mistakes end the process."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import torch

from tests.native.emulated import EMULATION

pytestmark = pytest.mark.skipif(
    shutil.which("g++") is None, reason="no g++ is found to compile the sample kernels with"
)
ORDERS = ["forward", "reverse", "random", "random:7"]


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("emulation") / "samples"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{EMULATION}"]
    sources = [str(EMULATION / name) for name in ("samples.cpp", "emulator.cpp")]
    done = subprocess.run(
        ["g++", *flags, "-o", str(program), *sources], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return program


def run(program: Path, sample: str, order: str = "forward") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"SIVAE_EMULATION_ORDER": order}
    return subprocess.run(
        [str(program), sample], env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def numbers(program: Path, sample: str, order: str = "forward") -> list[list[float]]:
    """The lines that a sample prints."""
    done = run(program, sample, order)
    assert done.returncode == 0, done.stderr
    return [[float(word) for word in line.split()] for line in done.stdout.splitlines()]


@pytest.mark.parametrize("order", ORDERS)
class TestRight:
    """The order of threads changes nothing in a kernel with all barriers that it needs."""

    def test_shuffles(self, samples, order):
        """CUDA's definition: the source lane, or the lane itself where that is outside the segment of `width` lanes."""
        lines = iter(numbers(samples, "shuffles", order))
        for width in (1, 2, 4, 8, 16, 32):
            for argument in (0, 1, 3, 8, 16, 31):
                sources: list[int] = []
                starts = [lane - lane % width for lane in range(32)]
                sources += [start + argument % width for start in starts]
                sources += [lane - argument if lane - argument >= starts[lane] else lane for lane in range(32)]
                sources += [lane + argument if lane + argument < starts[lane] + width else lane for lane in range(32)]
                sources += [lane ^ argument if lane ^ argument < starts[lane] + width else lane for lane in range(32)]
                expected = [source + 0.25 for source in sources]
                assert next(lines) == expected, f"double, width {width}, argument {argument}"
                assert next(lines) == expected, f"float, width {width}, argument {argument}"
                assert next(lines) == sources, f"int, width {width}, argument {argument}"

    def test_sums_over_parts_of_a_warp(self, samples, order):
        for width, line in zip((1, 2, 4, 8, 16, 32), numbers(samples, "warp_sums", order), strict=True):
            values = [2**40 + 1000 * block + thread for block in range(3) for thread in range(96)]
            assert line == [sum(values[i - i % width :][:width]) for i in range(len(values))]

    def test_votes(self, samples, order):
        """Lanes 0 to 19 vote among themselves, and so do the others."""
        expected: list[int] = []
        for lane in range(32):
            part = range(20) if lane < 20 else range(20, 32)
            ballot = sum(1 << other for other in part if other % 3 == 0)
            shuffled = 19 if lane < 20 else min(lane + 1, 31)
            expected += [ballot, int(lane < 20), int(lane >= 20), shuffled]
        assert numbers(samples, "votes", order) == [expected]

    def test_sums_over_blocks_of_any_size(self, samples, order):
        """Integers, so that every order of summation gives the same float."""
        assert numbers(samples, "block_sums", order) == [[sum(i % 7 for i in range(100_000))]] * 4

    def test_threads_that_leave_before_a_barrier(self, samples, order):
        assert numbers(samples, "early_exit", order) == [[*range(76, -1, -1), *[-1] * (256 - 77)]]

    def test_indices(self, samples, order):
        blocks = [(x, y, z) for z in range(2) for y in range(2) for x in range(3)]
        threads = [(x, y, z) for z in range(2) for y in range(3) for x in range(4)]
        expected = [i for block in blocks for thread in threads for i in (*block, *thread)]
        assert numbers(samples, "indices", order) == [expected]


class TestOrder:
    def test_of_turns(self, samples):
        visits = {order: numbers(samples, "visits", order)[0] for order in ORDERS}
        assert visits["forward"] == list(range(16))
        assert visits["reverse"] == list(range(15, -1, -1))
        for order in ("random", "random:7"):
            assert sorted(visits[order]) == visits["forward"]
            assert visits[order] == numbers(samples, "visits", order)[0]  # the same in every run
        assert len({tuple(visit) for visit in visits.values()}) == 4

    @pytest.mark.parametrize("order", ORDERS)
    def test_shows_a_missing_barrier(self, samples, order):
        """Each thread reads what the one below it wrote: only the forward order has it written by then."""
        right = [0, *range(63)]
        without_barrier, with_barrier = numbers(samples, "neighbours", order)
        assert with_barrier == right
        assert (without_barrier == right) == (order == "forward")

    def test_unknown(self, samples):
        done = run(samples, "visits", "backwards")
        assert done.returncode == -signal.SIGABRT
        assert "SIVAE_EMULATION_ORDER is 'backwards', expected forward, reverse, random or random:SEED" in done.stderr


def test_shared_memory_starts_as_nan_in_every_block(samples):
    (line,) = numbers(samples, "leftovers")
    assert len(line) == 3
    assert all(math.isnan(value) for value in line)


def test_launches_beyond_the_limits_are_refused(samples):
    """As in CUDA: cudaErrorInvalidConfiguration, kept until cudaGetLastError."""
    results, last = numbers(samples, "launches")
    assert results == [0, *[9] * 7]
    assert last == [9, 9, 0]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("sample", "message"),
    [
        ("divergent_barrier", "deadlock: every thread that has not exited waits for another"),
        ("different_barriers", "the threads of a block wait in different __syncthreads"),
        ("exited_lane", "a lane that the mask of a shuffle names has exited or does not exist"),
        ("missing_lanes", "a lane that the mask of a shuffle names has exited or does not exist"),
        ("unnamed_lane", "a lane takes part in a warp operation whose mask does not name it"),
        ("unnamed_source", "a shuffle reads a lane that its mask does not name"),
        ("misaligned", "a misaligned address is accessed"),
    ],
)
def test_mistakes_end_the_process(samples, sample, message, order):
    done = run(samples, sample, order)
    assert done.returncode == -signal.SIGABRT
    assert f"CUDA emulation: {message}" in done.stderr
    assert "in block (" in done.stderr


def test_messages_say_where(samples):
    lines = (EMULATION / "samples.cpp").read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if "void divergent_barrier()" in line)
    barrier, shuffle = (
        next(i + 1 for i in range(start, len(lines)) if name in lines[i]) for name in ("__sync", "__shfl")
    )
    message = run(samples, "divergent_barrier").stderr
    assert f"threads 0 to 39: in __syncthreads at samples.cpp:{barrier}\n" in message
    assert f"threads 40 to 63: in __shfl_xor_sync at samples.cpp:{shuffle}, mask 0xffffffff\n" in message


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_conversions_are_those_of_torch(samples, dtype):
    """Every half number to float; and to it every float next to a border between two of them, on it and beside it."""
    halves = torch.arange(65536).to(torch.int32).to(torch.int16).view(dtype)
    exact = halves.float()
    finite = exact[exact.isfinite()].sort().values.double()
    beyond = (3 * finite[-1:] - finite[-2:-1]) / 2  # from here on infinity is nearest
    borders = torch.cat([(finite[1:] + finite[:-1]) / 2, beyond, -beyond]).float()
    infinity = torch.tensor(math.inf)
    floats = torch.cat([exact, borders, torch.nextafter(borders, infinity), torch.nextafter(borders, -infinity)])
    floats = torch.cat([floats, torch.tensor([2.0**-149, -(2.0**-149), 3.4e38, -3.4e38, 0.0, -0.0])])
    done = subprocess.run(
        [str(samples), str(dtype).removeprefix("torch.")],
        input=floats.numpy().tobytes(),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0
    wide = torch.frombuffer(bytearray(done.stdout[: 4 * 65536]), dtype=torch.float32)
    narrow = torch.frombuffer(bytearray(done.stdout[4 * 65536 :]), dtype=torch.int16)
    number = ~exact.isnan()
    assert torch.equal(wide.isnan(), exact.isnan())
    assert torch.equal(wide[number].view(torch.int32), exact[number].view(torch.int32))
    expected, number = floats.to(dtype), ~floats.isnan()
    assert narrow.shape == expected.shape
    assert torch.equal(narrow.view(dtype).isnan(), expected.isnan())
    assert torch.equal(narrow[number], expected[number].view(torch.int16))
