"""The loaders of images: all are timed, and all deliver the same images."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import loaders
from benchmarks.baselines import dataloader
from benchmarks.loaders import LoaderCase, Turns

CPU = torch.device("cpu")


def test_the_plain_loader_delivers_every_image_once_an_epoch(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
    for number, image in enumerate(array):
        Image.fromarray(image).save(tmp_path / f"{number:02}.png")
    for dataset in (dataloader.ArrayDataset(array), dataloader.FileDataset(tmp_path)):
        delivered = dataloader.batches(dataset, batch_size=4, workers=0, device=CPU)
        x = torch.cat(list(itertools.islice(delivered, 3)))
        assert x.shape == (12, 3, 8, 8) and x.dtype == torch.float32

        def key(image: torch.Tensor) -> tuple[float, ...]:
            return tuple(sorted(image.flatten().tolist()))  # whichever way it is mirrored

        expected = torch.from_numpy(array.transpose(0, 3, 1, 2)).float() / 255
        assert sorted(map(key, x)) == sorted(map(key, expected))


def test_every_contender_delivers_batches_of_one_shape(tmp_path: Path) -> None:
    case = LoaderCase(side=16, count=40, files=20, batch_size=4)
    with ExitStack() as closing:
        for name, call in loaders.contenders(case, tmp_path, CPU, closing).items():
            batch = call()
            x = batch[0] if isinstance(batch, tuple) else batch
            assert isinstance(x, torch.Tensor) and x.shape == (4, 3, 16, 16), name
            assert 0 <= x.min() < 0.2 and 0.8 < x.max() <= 1, name


def test_a_table_has_a_line_for_each_loader(capsys) -> None:
    case = LoaderCase(side=16, count=40, files=20, batch_size=4)
    results = loaders.run([case], Turns(rounds=2, seconds=0.0, uncounted=1), CPU)
    assert all(len(taken) == 2 and min(taken) > 0 for taken in results[case].values())
    table = loaders.table(case, results[case])
    assert len(table.lines) == len(results[case]) == 6
    assert capsys.readouterr().err.count("cache host") == 2
