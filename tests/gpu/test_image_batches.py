"""Batches on a GPU: equal to the CPU's to the bit, and safe while the GPU lags behind or records a graph."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sivae.data.images import ImageBatches, ImageSet, PackedImages, open_images

pytestmark = pytest.mark.gpu

COUNT, SIDE = 101, 32


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    path = tmp_path_factory.mktemp("images") / "images.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8))
    np.save(path.parent / "labels.npy", np.arange(COUNT) % 7)
    return open_images(path)


class _Unmapped(ImageSet):
    """A set that only processes can read ahead."""

    name, class_names, uniform = "unmapped", tuple("0123456"), True

    def __init__(self, images: ImageSet) -> None:
        self._images, self.labels = images, images.labels

    def __len__(self) -> int:
        return len(self._images)

    def read(self, index: int) -> np.ndarray:
        return self._images.read(index)


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-1.0, 1.0), (-0.3, 1.7)])
@pytest.mark.parametrize("source", ["mapped", "unmapped"])
@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_every_cache_gives_the_cpu_s_bits(
    mapped: ImageSet, cache: str, source: str, bounds: tuple[float, float]
) -> None:
    images = mapped if source == "mapped" else _Unmapped(mapped)
    options = {"batch_size": 16, "seed": 3, "flip": True, "value_range": bounds, "workers": 2}
    with (
        ImageBatches(mapped, cache="host", **options) as reference,  # type: ignore[arg-type]
        ImageBatches(images, cache=cache, device="cuda", **options) as batches,  # type: ignore[arg-type]
    ):
        assert batches.cache == cache
        for step in (0, 1, 2, 5, 6, 7, 30, 3):
            x, labels = batches.batch(step)
            expected, expected_labels = reference.batch(step)
            assert x.is_cuda and x.is_contiguous(memory_format=torch.channels_last)
            assert torch.equal(x.cpu(), expected)
            assert labels is not None and expected_labels is not None and torch.equal(labels.cpu(), expected_labels)


def test_auto_puts_a_small_set_on_the_gpu(mapped: ImageSet) -> None:
    with ImageBatches(mapped, batch_size=8, seed=0, device="cuda") as batches:
        assert batches.cache == "device"
    with ImageBatches(mapped, batch_size=8, seed=0, device="cuda", budget_bytes=10) as batches:
        assert batches.cache == "none"


@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_a_gpu_that_lags_behind_still_gets_every_batch(mapped: ImageSet, cache: str) -> None:
    """The host asks for 60 batches while the GPU is busy: memory that goes round must not be written too early."""
    with (
        ImageBatches(mapped, batch_size=16, seed=3, cache="host") as reference,
        ImageBatches(mapped, batch_size=16, seed=3, cache=cache, device="cuda") as batches,  # type: ignore[arg-type]
    ):
        torch.cuda._sleep(200_000_000)
        sums = [batches.batch(step)[0].double().sum() for step in range(60)]
        for step, total in enumerate(sums):
            # Two orders of 49,152 exact float64 addends below 1: each sum is off by at most 49,152² · 2⁻⁵³.
            expected = reference.batch(step)[0].double().sum().item()
            assert abs(total.item() - expected) < 2 * 49_152**2 * 2.0**-53


def test_reading_ahead_does_not_disturb_a_graph_that_is_recorded(mapped: ImageSet) -> None:
    with ImageBatches(mapped, batch_size=16, seed=3, cache="none", device="cuda", workers=2) as batches:
        x = batches.batch(0)[0].clone()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = x * 2
        graph.replay()
        assert torch.equal(y, x * 2)


def test_a_set_beyond_2_to_the_31_bytes(mapped: ImageSet) -> None:
    """The last image of 2.2 GB of pixels is found."""
    free, _ = torch.cuda.mem_get_info()
    if free < 3 * 2**30:
        pytest.skip(f"needs 3 GiB of GPU memory, {free / 2**30:.1f} are free")
    count = 2_200_000_000 // (64 * 64 * 3)
    array = np.zeros((count, 64, 64, 3), np.uint8)
    array[-1] = 255
    with ImageBatches(PackedImages(array), batch_size=count, seed=0, device="cuda", cache="device") as batches:
        assert batches._data is not None
        assert batches._data.index_select(0, torch.tensor([count - 1, 0], device="cuda")).float().mean(
            (1, 2, 3)
        ).tolist() == [255, 0]
