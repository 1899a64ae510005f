"""Measure the images per second that each cache of `ImageBatches` delivers, beside a plain DataLoader.

`python -m benchmarks.loaders` prints a table, in less than a minute. Nothing trains at the same time, so the cores are
free; compare the milliseconds of a batch with those of a training step. Contenders take turns. A loader that reads
ahead starts a turn with batches that are ready, so the first batches of a turn do not count.
"""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.baselines import dataloader
from benchmarks.environment import chosen_device
from benchmarks.tables import Table, print_tables
from benchmarks.timing import Spread, synchronize
from sivae.cli.generation import add_device
from sivae.cli.parsing import Parser, positive
from sivae.data.images import ImageBatches, ImageSet, open_images
from sivae.errors import SivaeError
from sivae.machine import device_name
from sivae.progress import Progress, naming
from sivae.training.process_settings import keep_freed_memory

Next = Callable[[], object]


@dataclass(frozen=True)
class LoaderCase:
    """Images to load.

    Attributes:
        side: pixels a side; an image has three channels.
        count: images in the array.
        files: JPEG files.
        batch_size: images in a batch.
    """

    side: int
    count: int
    files: int
    batch_size: int = 32


CASES = (LoaderCase(side=32, count=20_000, files=2_000), LoaderCase(side=256, count=400, files=100))


@dataclass(frozen=True)
class Turns:
    """How long to measure: `rounds` turns of each contender, each of `seconds` after `uncounted` batches."""

    rounds: int = 3
    seconds: float = 0.4
    uncounted: int = 8


def _images(case: LoaderCase, count: int) -> np.ndarray:
    """Random images, about as smooth as photographs, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (min(count, 250), case.side // 8, case.side // 8, 3), np.uint8)
    size = (case.side, case.side)
    smooth = np.stack([np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)) for image in coarse])
    return smooth[np.arange(count) % len(smooth)]


def contenders(case: LoaderCase, folder: Path, device: torch.device, closing: ExitStack) -> dict[str, Next]:
    """Name -> a call that returns the next batch.

    Args:
        case: what to load.
        folder: an empty one, for the images on the disk.
        device: of the batches.
        closing: its end closes the loaders.
    """
    workers = min(len(os.sched_getaffinity(0)), 8)
    array = _images(case, case.count)
    np.save(folder / "array.npy", array)
    files = folder / "files"
    files.mkdir()
    for number, image in enumerate(array[: case.files]):
        Image.fromarray(image).save(files / f"{number:06}.jpg", quality=90)
    mapped, encoded = open_images(folder / "array.npy"), open_images(files)

    def ours(images: ImageSet, cache: str) -> Next:
        batches = ImageBatches(
            images,
            batch_size=case.batch_size,
            seed=0,
            device=device,
            flip=True,
            cache=cache,  # type: ignore[arg-type]
            workers=workers,
            progress=False,
        )
        closing.callback(batches.close)
        steps = itertools.count()
        return lambda: batches.batch(next(steps))

    def plain(dataset: dataloader.ArrayDataset | dataloader.FileDataset, processes: int) -> Next:
        delivered: Iterator[Tensor] = dataloader.batches(
            dataset, batch_size=case.batch_size, workers=processes, device=device
        )
        return lambda: next(delivered)

    calls = {
        f"array: plain DataLoader, {workers} workers": plain(dataloader.ArrayDataset(array), workers),
        "array: plain DataLoader in the process": plain(dataloader.ArrayDataset(array), 0),
        "array: cache host": ours(mapped, "host"),
        "array: cache none, memory map": ours(mapped, "none"),
        f"JPEG files: plain DataLoader, {workers} workers": plain(dataloader.FileDataset(files), workers),
        f"JPEG files: cache none, {workers} workers": ours(encoded, "none"),
    }
    if device.type == "cuda":
        calls["array: cache device"] = ours(mapped, "device")
    return calls


def measure(calls: dict[str, Next], turns: Turns, device: torch.device, progress: Progress) -> dict[str, list[float]]:
    """Seconds per batch, one figure per round."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(turns.rounds):
        for name, call in calls.items():
            progress.begin(name)
            for _ in range(turns.uncounted):
                call()
            synchronize(device)
            begun, done = time.perf_counter(), 0
            while done < turns.uncounted or time.perf_counter() - begun < turns.seconds:
                call()
                done += 1
            synchronize(device)
            seconds[name].append((time.perf_counter() - begun) / done)
            progress.advance()
    return seconds


def table(case: LoaderCase, seconds: dict[str, list[float]]) -> Table:
    """Medians and quartiles; ratios to the plain DataLoader with workers are taken round by round."""
    lines = []
    for name, taken in seconds.items():
        baseline = next(other for other in seconds if other.split(":")[0] == name.split(":")[0])
        rate = Spread.of([case.batch_size / one for one in taken])
        ratio = Spread.of([plain / one for plain, one in zip(seconds[baseline], taken, strict=True)])
        milliseconds = Spread.of(taken).times(1e3).median
        quartiles = f"{rate.q1:,.0f} … {rate.q3:,.0f}"
        lines.append([name, f"{rate.median:,.0f}", quartiles, f"{milliseconds:.3g}", f"{ratio.median:.2f}"])
    title = f"{case.side}×{case.side}, batches of {case.batch_size}"
    return Table(title, ["", "images/s", "quartiles", "ms per batch", "times plain"], lines, labels=1)


def run(cases: Sequence[LoaderCase], turns: Turns, device: torch.device) -> dict[LoaderCase, dict[str, list[float]]]:
    """Case -> contender -> seconds per batch, one value per round."""
    results = {}
    with naming("bench", len(cases) * turns.rounds * (7 if device.type == "cuda" else 6)) as progress:
        for case in cases:
            with ExitStack() as closing, tempfile.TemporaryDirectory() as folder:
                results[case] = measure(contenders(case, Path(folder), device, closing), turns, device, progress)
    return results


def main(words: Sequence[str]) -> int:
    """Measure and print.

    Returns:
        The exit code.
    """
    parser = Parser("python -m benchmarks.loaders")
    parser.describe(
        "Measure how many images per second the loaders deliver, beside a plain DataLoader.",
        [parser.prog, f"{parser.prog} --device cpu --seconds 2"],
    )
    add_device(parser)
    parser.add_argument("--seconds", type=positive, default=Turns.seconds, metavar="X", help="Length of a turn.")
    try:
        options = parser.parse(words)
        device = chosen_device(options.device)
    except SivaeError as error:
        print(f"{parser.prog}: {error}", file=sys.stderr)
        return error.exit_code
    load = os.getloadavg()[0]
    keep_freed_memory()
    results = run(CASES, Turns(seconds=options.seconds), device)
    print(f"{device_name(device)}, {os.cpu_count()} cores, load average {load:.1f} before, torch {torch.__version__}")
    print_tables([table(case, seconds) for case, seconds in results.items()])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
