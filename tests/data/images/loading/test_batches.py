"""Batches are equal to the bit from every cache, at any step, for any number of processes."""

from __future__ import annotations

import faulthandler
import gc
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sivae.data.images import ImageBatches, ImageSet, PackedImages, load_packed, open_images, prepare
from sivae.data.images.loading import batches as batches_module
from sivae.data.images.loading import prefetch as prefetch_module
from sivae.data.images.loading.order import Order
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import encoded, pixels, pngs, write_files

COUNT, SIDE = 53, 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded images in three classes."""
    names = [f"{'abc'[number % 3]}/{number:02}.png" for number in range(COUNT)]
    return write_files(tmp_path_factory.mktemp("encoded"), pngs(names, height=SIDE, width=SIDE))


@pytest.fixture(scope="module")
def mapped(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """The same, packed on the disk."""
    out = tmp_path_factory.mktemp("packed") / "out"
    prepare(folder, out, resolution=SIDE, progress=False)
    return open_images(out)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> PackedImages:
    """The same, in memory."""
    return load_packed(open_images(folder), progress=False)


Make = Callable[..., ImageBatches]


@pytest.fixture
def make() -> Iterator[Make]:
    """Batches of 8 with seed 5, closed afterwards."""
    made: list[ImageBatches] = []

    def build(images: ImageSet, **options: Any) -> ImageBatches:
        made.append(ImageBatches(images, **{"batch_size": 8, "seed": 5, "progress": False} | options))
        return made[-1]

    yield build
    for batches in made:
        batches.close()


def plain(images: PackedImages, step: int, *, flip: bool, low: float, high: float) -> tuple[Tensor, Tensor]:
    """The definition, image by image."""
    order = Order(len(images), batch_size=8, seed=5, flip=flip, rank=0, world_size=1)
    epoch, rows = order.place(step)
    flips = order.epoch(epoch).flips
    out, labels = [], []
    for position, index in zip(range(rows.start, rows.stop), order.indices(step), strict=True):
        image = images.array[index]
        if flips is not None and flips[position]:
            image = image[:, ::-1]
        value = image.astype(np.float32) / np.float32(255)
        out.append((value * np.float32(high - low) + np.float32(low)).transpose(2, 0, 1))
        labels.append(images.label(int(index)))
    return torch.from_numpy(np.stack(out)), torch.tensor(labels)


def from_pixels(pixels: np.ndarray) -> Tensor:
    """uint8 [B, H, W, C] -> [B, C, H, W] in [0, 1]."""
    return torch.from_numpy(pixels.astype(np.float32) / np.float32(255)).permute(0, 3, 1, 2)


SOURCES = [
    ("loaded", "device"),
    ("loaded", "host"),
    ("loaded", "none"),
    ("mapped", "device"),
    ("mapped", "host"),
    ("mapped", "none"),
    ("encoded", "host"),
    ("encoded", "none"),
]


@pytest.mark.parametrize(("source", "cache"), SOURCES)
@pytest.mark.parametrize(("flip", "bounds"), [(False, (0.0, 1.0)), (True, (-1.0, 1.0)), (True, (-0.3, 1.7))])
def test_every_cache_gives_the_definition_to_the_bit(
    source: str,
    cache: str,
    flip: bool,
    bounds: tuple[float, float],
    folder: Path,
    mapped: ImageSet,
    loaded: PackedImages,
    make: Make,
) -> None:
    images = {"loaded": loaded, "mapped": mapped, "encoded": open_images(folder)}[source]
    batches = make(images, cache=cache, flip=flip, value_range=bounds)
    assert batches.cache == cache
    assert batches.steps_per_epoch == COUNT // 8
    for step in (0, 1, 5, 6, 7, 40, 2):  # within an epoch, over its end, and far away
        x, labels = batches.batch(step)
        expected, expected_labels = plain(loaded, step, flip=flip, low=bounds[0], high=bounds[1])
        assert torch.equal(x, expected)
        assert labels is not None and labels.dtype == torch.int64 and torch.equal(labels, expected_labels)
        assert x.shape == batches.shape == (8, 3, SIDE, SIDE) and x.dtype == torch.float32
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_the_range_is_reached_exactly(make: Make) -> None:
    array = np.stack([np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)])
    for low, high in ((0.0, 1.0), (-1.0, 1.0)):
        x, _ = make(PackedImages(array), batch_size=2, value_range=(low, high)).batch(0)
        assert sorted({x.min().item(), x.max().item()}) == [low, high]


def test_the_caller_may_change_a_batch(loaded: PackedImages, mapped: ImageSet, make: Make) -> None:
    for images, cache in ((loaded, "host"), (mapped, "none")):
        batches = make(images, cache=cache)
        first, _ = batches.batch(0)
        kept = first.clone()
        for step in range(1, 12):
            batches.batch(step)[0].zero_()
        assert torch.equal(first, kept)
        first.zero_()
        assert torch.equal(batches.batch(0)[0], kept)


def test_memory_formats_and_types(loaded: PackedImages, make: Make) -> None:
    reference, _ = make(loaded).batch(3)
    plain_format, _ = make(loaded, channels_last=False).batch(3)
    assert plain_format.is_contiguous() and torch.equal(plain_format, reference)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        x, _ = make(loaded, dtype=dtype).batch(3)
        assert x.dtype == dtype and torch.equal(x, reference.to(dtype))
        assert x.is_contiguous(memory_format=torch.channels_last)


def test_grey_sets_keep_one_channel_and_unlabelled_ones_have_none(make: Make) -> None:
    images = PackedImages(np.stack([pixels(seed, SIDE, SIDE, 1) for seed in range(9)]))
    x, labels = make(images).batch(0)
    assert x.shape == (8, 1, SIDE, SIDE) and labels is None


def test_images_need_not_be_square(make: Make) -> None:
    images = PackedImages(np.stack([pixels(seed, 4, 6) for seed in range(9)]))
    x, _ = make(images).batch(0)
    index = Order(9, batch_size=8, seed=5, flip=False, rank=0, world_size=1).indices(0)[0]
    assert torch.equal(x[0], torch.from_numpy(images.array[index].transpose(2, 0, 1)).float() / 255)


@pytest.mark.parametrize(("source", "cache"), [("loaded", "host"), ("mapped", "none"), ("encoded", "none")])
def test_two_ranks_have_the_rows_of_one(
    source: str, cache: str, folder: Path, mapped: ImageSet, loaded: PackedImages, make: Make
) -> None:
    images = {"loaded": loaded, "mapped": mapped, "encoded": open_images(folder)}[source]
    whole = make(loaded, batch_size=16, flip=True)
    ranks = [make(images, batch_size=8, flip=True, cache=cache, rank=rank, world_size=2) for rank in (0, 1)]
    for step in (0, 1, 2, 3, 7):
        x, labels = whole.batch(step)
        parts = [one.batch(step) for one in ranks]
        assert torch.equal(torch.cat([part[0] for part in parts]), x)
        assert labels is not None
        assert torch.equal(torch.cat([part[1] for part in parts if part[1] is not None]), labels)
    assert ranks[0].steps_per_epoch == whole.steps_per_epoch == COUNT // 16


def test_auto_takes_memory_where_the_set_fits_and_the_disk_where_it_does_not(
    folder: Path, mapped: ImageSet, loaded: PackedImages, make: Make
) -> None:
    size = COUNT * SIDE * SIDE * 3
    for images in (mapped, open_images(folder)):
        assert make(images, budget_bytes=size).cache == "host"
        assert make(images, budget_bytes=size - 1).cache == "none"
        assert make(images).cache == "host"
    assert make(loaded, budget_bytes=1).cache == "host"  # it is in memory already


def test_an_encoded_set_is_decoded_once_where_it_is_cached(folder: Path, make: Make) -> None:
    batches = make(open_images(folder))
    assert isinstance(batches.images, PackedImages) and not isinstance(batches.images.array, np.memmap)
    kept = make(open_images(folder), cache="none")
    assert not isinstance(kept.images, PackedImages)


def test_a_cache_that_does_not_fit_is_refused(mapped: ImageSet) -> None:
    with pytest.raises(DataError, match=r"pixels take 5\.7 kB, and cache host has room for 10 bytes; use cache none"):
        ImageBatches(mapped, batch_size=8, seed=0, cache="host", budget_bytes=10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 54}, "has 53 images, fewer than one batch of 54; use a batch size of at most 53"),
        ({"batch_size": 27, "world_size": 2}, "fewer than one batch of 27 on 2 processes; .* at most 26"),
        ({"world_size": 99}, "has 53 images, fewer than one for each of 99 processes"),
        ({"batch_size": 0}, "batch_size = 0"),
        ({"seed": -1}, "seed = -1"),
        ({"rank": 1}, "rank = 1, world_size = 1"),
        ({"dtype": torch.int32}, "dtype = torch.int32: expected a floating-point type"),
        ({"cache": "ram"}, "cache = 'ram': expected auto, device, host or none"),
        ({"workers": 0}, "workers = 0: expected 1 or more"),
        ({"batch_size": 5, "pairs": True}, "batch_size = 5: pairs of images of one class need an even number"),
    ],
)
def test_invalid_arguments_are_refused(loaded: PackedImages, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageBatches(loaded, **{"batch_size": 8, "seed": 0} | options)


@pytest.mark.parametrize(("source", "cache"), SOURCES)
def test_pairs_are_of_one_class_with_every_cache(
    source: str, cache: str, loaded: PackedImages, mapped: ImageSet, folder: Path, make: Make
) -> None:
    images = {"loaded": loaded, "mapped": mapped, "encoded": open_images(folder)}[source]
    batches = make(images, cache=cache, pairs=True)
    for step in range(2 * batches.steps_per_epoch):
        pixels, labels = batches.batch(step)
        assert labels is not None and torch.equal(labels[0::2], labels[1::2])
        rows = batches.numbers(step)
        assert torch.equal(pixels, from_pixels(loaded.array[rows.numpy()]))
        assert rows.unique().numel() == 8


def test_pairs_need_classes(make: Make) -> None:
    with pytest.raises(DataError, match="has no classes, so images cannot be paired"):
        make(PackedImages(np.zeros((8, 8, 8, 3), np.uint8)), pairs=True)


def test_too_few_pairs_are_refused(make: Make) -> None:
    images = PackedImages(np.zeros((9, 8, 8, 3), np.uint8), np.arange(9) // 2, class_names=tuple("abcde"))
    assert make(images, pairs=True).steps_per_epoch == 1  # the ninth has no partner
    with pytest.raises(DataError, match="fewer than one batch of 10; use a batch size of at most 8"):
        make(
            PackedImages(images.array.repeat(2, 0)[:11], np.array([*range(3), *[3] * 8]), class_names=tuple("abcd")),
            batch_size=10,
            pairs=True,
        )


def test_a_negative_step_is_refused(loaded: PackedImages, make: Make) -> None:
    with pytest.raises(ValueError, match="step = -1: expected 0 or more"):
        make(loaded).batch(-1)


# Reading ahead


def test_the_next_steps_are_read_ahead(mapped: ImageSet, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    indices = Order.indices

    def noted(self: Order, step: int) -> np.ndarray:
        read.append(step)
        return indices(self, step)

    monkeypatch.setattr(Order, "indices", noted)
    batches = make(mapped, cache="none", workers=2)
    batches.batch(4)
    end = time.monotonic() + 30
    while len(read) < 4 and time.monotonic() < end:
        time.sleep(0.01)
    assert sorted(read) == [4, 5, 6, 7]


def test_a_resume_inside_an_epoch_continues_with_the_same_batches(mapped: ImageSet, folder: Path, make: Make) -> None:
    straight = make(mapped, cache="none", flip=True)
    expected = [straight.batch(step)[0] for step in range(12)]
    for images in (mapped, open_images(folder)):
        resumed = make(images, cache="none", flip=True)
        for step in range(9, 12):
            assert torch.equal(resumed.batch(step)[0], expected[step])


# Errors and ends


@pytest.mark.parametrize("cache", ["host", "none"])
def test_damaged_images_are_found_before_the_first_batch_or_left_out(tmp_path: Path, make: Make, cache: str) -> None:
    content = pngs([f"{number:03}.png" for number in range(200)])
    for name in ("001.png", "150.png"):  # not among the 64 images that are read first
        content[name] = content[name][:50]
    folder = write_files(tmp_path, content)
    with pytest.raises(
        DamagedImageError, match=r"2 of 200 images of .*001\.png is damaged: .*; .*150\.png is .*restore"
    ):
        make(open_images(folder), cache=cache, workers=2)
    batches = make(open_images(folder, skip_damaged=True), cache=cache, workers=2)
    assert (len(batches.images), batches.images.skipped) == (198, 2)
    kept = np.delete(np.arange(200), [1, 150])
    rows = kept[batches.numbers(3).numpy()]
    assert torch.equal(batches.batch(3)[0], from_pixels(np.stack([pixels(int(row)) for row in rows])))


def test_an_image_that_vanishes_while_batches_are_read_is_named(tmp_path: Path, make: Make) -> None:
    folder = write_files(tmp_path, pngs([f"{number:03}.png" for number in range(16)]))
    batches = make(open_images(folder), cache="none", workers=1)
    (folder / "003.png").unlink()
    with pytest.raises(DataError, match=r"003\.png has vanished .*; it was whole when reading began, so restore it"):
        for step in range(batches.steps_per_epoch):
            batches.batch(step)


def test_an_image_of_another_shape_is_found_before_the_first_batch(tmp_path: Path, make: Make) -> None:
    content = pngs([f"{number:03}.png" for number in range(200)])
    content["001.png"] = encoded(pixels(0, 9, 9))
    with pytest.raises(DataError, match=r"001\.png is 9×9 .*, where the first image is 8×8; bring all to one size"):
        make(open_images(write_files(tmp_path, content)), cache="none", workers=1)


class _InWorkers(ImageSet):
    """Images whose reading in another process than this one does something else first."""

    name, uniform = "eight", True

    def __init__(self, does: Callable[[], object]) -> None:
        self._owner, self._does = os.getpid(), does

    def __len__(self) -> int:
        return 8

    def read(self, index: int) -> np.ndarray:
        if os.getpid() != self._owner:
            self._does()
        return pixels(index)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "SIGKILL; the system may have run out of memory: pack the images with sivae prepare"),
        (signal.SIGSEGV, "SIGSEGV; leave the image out, or pack the others with sivae prepare --skip-damaged"),
    ],
)
def test_a_worker_that_dies_is_an_error_that_names_the_image(number: signal.Signals, words: str, make: Make) -> None:
    def die() -> None:
        faulthandler.disable()  # pytest prints a traceback at a crash
        os.kill(os.getpid(), number)

    batches = make(_InWorkers(die), cache="none", workers=1)
    first = batches.numbers(0)[0]
    with pytest.raises(DataError, match=rf"^a process that reads images has died at image {first} of eight: {words}$"):
        batches.batch(0)


def test_a_worker_that_dies_does_not_interrupt_other_work(folder: Path, make: Make) -> None:
    before = children()
    batches = make(open_images(folder), cache="none", workers=2)
    batches.batch(0)
    for child in children() - before:
        os.kill(child, signal.SIGKILL)
    time.sleep(0.2)  # an error would be raised here
    with pytest.raises(DataError, match=r"has died at .*\.png: SIGKILL"):
        for step in range(1, 10):
            batches.batch(step)


def test_a_worker_goes_on_after_a_signal_to_the_whole_group(folder: Path, loaded: PackedImages, make: Make) -> None:
    before = children()
    batches = make(open_images(folder), cache="none", workers=1)
    batches.batch(0)
    for child in children() - before:
        os.kill(child, signal.SIGTERM)
        os.kill(child, signal.SIGINT)
    for step in range(1, 9):
        assert torch.equal(batches.batch(step)[0], plain(loaded, step, flip=False, low=0.0, high=1.0)[0])


def test_a_worker_that_is_silent_is_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefetch_module, "_PATIENCE_SECONDS", 0.2)
    batches = make(_InWorkers(lambda: time.sleep(60)), cache="none", workers=1)
    with pytest.raises(DataError, match=r"has been silent for 0\.2 seconds, at image \d of eight; check that the disk"):
        batches.batch(0)


def test_a_disk_that_does_not_answer_is_an_error(mapped: ImageSet, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(prefetch_module, "_gather", lambda *_: answers.wait(30))
    for limit in ("_PATIENCE_SECONDS", "_END_SECONDS"):
        monkeypatch.setattr(prefetch_module, limit, 0.2)
    batches = make(mapped, cache="none", workers=1)
    with pytest.raises(DataError, match=r"reading the images of batch 3 has taken more than 0\.2 seconds; check that"):
        batches.batch(3)
    batches.close()
    waiting = [thread for thread in threading.enumerate() if thread.name.startswith("sivae-data")]
    assert waiting and all(thread.daemon for thread in waiting)  # Python exits without daemon threads
    answers.set()
    for thread in waiting:
        thread.join(30)
    assert not any(thread.is_alive() for thread in waiting)


def test_a_worker_out_of_memory_is_an_error(make: Make) -> None:
    def exhaust() -> None:
        raise MemoryError

    batches = make(_InWorkers(exhaust), cache="none", workers=1)
    with pytest.raises(DataError, match="a process that reads images is out of memory; pack the images"):
        batches.batch(0)


def test_an_error_of_the_program_in_a_worker_keeps_its_traceback(make: Make) -> None:
    batches = make(_InWorkers(lambda: {}["a key"]), cache="none", workers=1)  # type: ignore[index]
    with pytest.raises(RuntimeError, match=r"in a process that reads images:(.|\n)*KeyError: 'a key'"):
        batches.batch(0)


@pytest.mark.parametrize("how", ["killed", "without closing"])
def test_workers_end_with_a_process_that_ends_in_any_way(how: str, make: Make) -> None:
    def train() -> None:
        batches = make(_InWorkers(lambda: time.sleep(0.1)), cache="none", workers=2)
        batches.batch(0)
        ours.send(children())
        if how == "killed":
            os.kill(os.getpid(), signal.SIGKILL)

    context = multiprocessing.get_context("fork")
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=train)
    process.start()
    assert theirs.poll(30)
    workers = theirs.recv()
    assert len(workers) == 2
    process.join(30)
    assert process.exitcode == (-signal.SIGKILL if how == "killed" else 0)
    assert wait_until(lambda: not any(_runs(worker) for worker in workers))


def _runs(process: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False


def test_batches_need_no_room_in_dev_shm(folder: Path) -> None:
    script = f"""
import pathlib
from sivae.data.images import ImageBatches, open_images
pathlib.Path("/dev/shm/full").write_bytes(bytes(4096))
with ImageBatches(open_images({str(folder)!r}), batch_size=40, seed=0, cache="none", workers=2) as batches:
    print([batches.batch(step)[0].shape[0] for step in range(6)])
"""
    private = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    tiny = "mount -t tmpfs -o size=4k none /dev/shm"
    if shutil.which("unshare") is None or subprocess.run([*private, tiny], capture_output=True).returncode:
        pytest.skip("this system lets no process mount a file system of its own")
    words = [*private, f'{tiny} && exec "$0" -c "$1"', sys.executable, script]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stdout == "[40, 40, 40, 40, 40, 40]\n", done.stderr


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("sivae")]


def children() -> set[int]:
    listed = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text().split()
    return {int(child) for child in listed}


def wait_until(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + 20
    while not true() and time.monotonic() < end:
        time.sleep(0.01)
    return true()


@pytest.mark.parametrize("how", ["close", "collect"])
def test_threads_and_processes_end_with_the_batches(folder: Path, mapped: ImageSet, how: str) -> None:
    before = children()
    for images in (mapped, open_images(folder)):
        batches = ImageBatches(images, batch_size=8, seed=0, cache="none", workers=2, progress=False)
        batches.batch(0)
        assert threads() or children() - before
        gone = weakref.ref(batches)
        if how == "close":
            batches.close()
            batches.close()
            with pytest.raises(RuntimeError, match="closed"):
                batches.batch(1)
        del batches
        gc.collect()
        assert gone() is None
        assert wait_until(lambda: not threads() and children() == before)


def test_batches_are_a_context(mapped: ImageSet) -> None:
    with ImageBatches(mapped, batch_size=8, seed=0, cache="none") as batches:
        batches.batch(0)
    assert wait_until(lambda: not threads())


def test_the_pixels_go_through_pinned_memory_for_a_gpu(mapped: ImageSet, make: Make) -> None:
    """The part that needs no GPU: buffers are returned and reused."""
    batches = make(mapped, cache="none", workers=1)
    seen = set()
    prefetcher = batches._prefetcher
    assert prefetcher is not None
    for step in range(40):
        buffer = prefetcher.take(step)
        seen.add(buffer.data_ptr())
        prefetcher.give_back(buffer)
    assert len(seen) <= batches_module._AHEAD + 2
