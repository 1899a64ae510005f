"""Labelled grids: images of every side at their places, names beside them, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sivae.evaluation.labelled import labelled_grid, translation_grid

WHITE = (255, 255, 255)


def _noise(count: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    levels = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(seed))
    return levels / 255.0


def _drawn(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def _levels(image: Tensor) -> np.ndarray:
    return (image * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_images_stand_row_by_row(tmp_path: Path) -> None:
    rows = [_noise(2, 96, seed=seed) for seed in range(3)]
    labelled_grid(tmp_path / "new" / "grid.png", rows)
    drawn = _drawn(tmp_path / "new" / "grid.png")
    # Two columns and three rows of 96 pixels, 2 around each, and 12 more between rows, which are groups of one.
    assert drawn.shape == (3 * 98 + 2 + 2 * 12, 2 * 98 + 2, 3)
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            top, left = 2 + row * (98 + 12), 2 + column * 98
            assert (drawn[top : top + 96, left : left + 96] == _levels(image)).all()


def test_groups_of_rows_stand_together(tmp_path: Path) -> None:
    rows = [_noise(1, 96, seed=seed) for seed in range(4)]
    labelled_grid(tmp_path / "grid.png", rows, group=2)
    drawn = _drawn(tmp_path / "grid.png")
    assert drawn.shape[0] == 4 * 98 + 2 + 12
    for row, top in enumerate((2, 100, 210, 308)):
        assert (drawn[top : top + 96, 2:98] == _levels(rows[row][0])).all()


def test_smaller_images_are_enlarged_and_shorter_rows_stand_at_the_right(tmp_path: Path) -> None:
    small, large = _noise(1, 24), _noise(2, 96)
    labelled_grid(tmp_path / "grid.png", [small, large])
    drawn = _drawn(tmp_path / "grid.png")
    assert (drawn[2:98, :98] == WHITE).all()
    assert (drawn[2:98:4, 100:196:4] == _levels(small[0])).all()
    assert (drawn[5:98:4, 103:196:4] == _levels(small[0])).all()
    assert (drawn[112:208, 2:98] == _levels(large[0])).all()


def test_labels_are_written_beside_and_above(tmp_path: Path) -> None:
    rows = [torch.ones(2, 1, 96, 96), torch.ones(2, 1, 96, 96)]
    labelled_grid(tmp_path / "plain.png", rows)
    labelled_grid(tmp_path / "named.png", rows, row_labels=("first", "second"), column_labels=("a", "b" * 99))
    plain, named = _drawn(tmp_path / "plain.png"), _drawn(tmp_path / "named.png")
    assert (plain == 255).all()
    left, above = named.shape[1] - plain.shape[1], named.shape[0] - plain.shape[0]
    assert left > 16 and above > 16
    assert (named[above:, left:] == 255).all()  # what is written stays outside the images
    for part in (named[above : above + 98, :left], named[-98:, :left], named[:above, left : left + 98]):
        assert (part < 128).any()


def test_the_value_range_is_that_of_the_model(tmp_path: Path) -> None:
    labelled_grid(tmp_path / "a.png", [_noise(1, 96)])
    labelled_grid(tmp_path / "b.png", [_noise(1, 96) * 2 - 1], value_range=(-1.0, 1.0))
    assert (_drawn(tmp_path / "a.png") == _drawn(tmp_path / "b.png")).all()


def test_a_large_grid_is_shrunk(tmp_path: Path) -> None:
    labelled_grid(tmp_path / "grid.png", [_noise(9, 1024, 1)], row_labels=("x",))
    assert max(_drawn(tmp_path / "grid.png").shape) < 4096 + 100


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([], {}, "rows of at least one image"),
        ([torch.zeros(0, 1, 4, 4)], {}, "rows of at least one image"),
        ([torch.zeros(1, 2, 4, 4)], {}, r"images are \[1, 2, 4, 4\], expected \[N, C, H, W\] with 1 or 3 channels"),
        ([torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 6, 6)], {}, "4 x 4, 6 x 6, expected square ones"),
        ([torch.zeros(1, 1, 4, 8)], {}, "4 x 8, expected square ones"),
        ([torch.zeros(2, 1, 4, 4)], {"row_labels": ["a", "b"]}, "got 2 row labels, expected 1 or none"),
        ([torch.zeros(2, 1, 4, 4)], {"column_labels": ["a"]}, "got 1 column labels, expected 2 or none"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    rows: list[Tensor], labels: dict[str, Sequence[str]], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        labelled_grid(tmp_path / "grid.png", rows, **labels)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


class TestTranslations:
    def test_recombined_images_stand_between_what_gave_content_and_class(self, tmp_path: Path) -> None:
        contents, classes, made = _noise(2, 96, seed=0), _noise(3, 96, seed=1), _noise(6, 96, seed=2)
        translation_grid(tmp_path / "grid.png", contents, classes, made.unflatten(0, (2, 3)))
        drawn = _drawn(tmp_path / "grid.png")
        top, left = (side - count * 98 for side, count in zip(drawn.shape, (3, 4), strict=False))

        def cell(row: int, column: int) -> np.ndarray:
            y, x = top + row * 98, left + column * 98
            return drawn[y : y + 96, x : x + 96]

        assert (cell(0, 0) == WHITE).all()
        for column in range(3):
            assert (cell(0, 1 + column) == _levels(classes[column])).all()
        for row in range(2):
            assert (cell(1 + row, 0) == _levels(contents[row])).all()
            for column in range(3):
                assert (cell(1 + row, 1 + column) == _levels(made[3 * row + column])).all()
        assert (drawn[:top] != WHITE).any() and (drawn[:, :left] != WHITE).any()  # what rows and columns are

    @pytest.mark.parametrize(
        ("contents", "classes", "made"),
        [((2, 3, 8, 8), (3, 3, 8, 8), (3, 2, 3, 8, 8)), ((2, 3, 8, 8), (3, 1, 8, 8), (2, 3, 3, 8, 8))],
    )
    def test_others_are_refused(
        self, contents: Sequence[int], classes: Sequence[int], made: Sequence[int], tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=r"expected \[R, K, C, S, S\] for \[R, C, S, S\] and \[K, C, S, S\]"):
            translation_grid(tmp_path / "grid.png", *(torch.zeros(*shape) for shape in (contents, classes, made)))
