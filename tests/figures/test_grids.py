"""Pictures of images: every pixel where it belongs, and whole files under their names."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sivae.figures.grids import (
    animation,
    image_grid,
    interpolation_strip,
    labelled_grid,
    reconstruction_grid,
    sample_grid,
    to_rgb,
    translation_grid,
    write_image,
    write_sheet,
)

WHITE, MAGENTA = (255, 255, 255), (255, 0, 255)


def flat(*values: float, shape: tuple[int, int, int] = (1, 8, 8)) -> Tensor:
    """Images of one value each."""
    return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, *shape).clone()


def noise(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    return torch.rand(count, *shape, generator=torch.Generator().manual_seed(seed))


def levels(count: int, side: int, channels: int = 3, seed: int = 0) -> Tensor:
    """Square images whose values are those of uint8."""
    values = torch.randint(0, 256, (count, channels, side, side), generator=torch.Generator().manual_seed(seed))
    return values / 255.0


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def to_one(image: Tensor) -> np.ndarray:
    return to_rgb(image[None])[0]


def draw_samples(path: Path, images: Tensor) -> None:
    sample_grid(path, images)


def draw_reconstructions(path: Path, images: Tensor) -> None:
    reconstruction_grid(path, images, images)


def draw_strip(path: Path, images: Tensor) -> None:
    interpolation_strip(path, images, ends=(images[0], images[-1]))


def draw_animation(path: Path, images: Tensor) -> None:
    animation(path, images)


every_picture = pytest.mark.parametrize("draw", [draw_samples, draw_reconstructions, draw_strip, draw_animation])
Draw = Callable[[Path, Tensor], None]


class TestEveryPicture:
    @every_picture
    def test_it_is_one_whole_file_and_replaces_another(self, draw: Draw, tmp_path: Path) -> None:
        target = tmp_path / "new" / "picture"
        images = noise(5, (3, 32, 32))
        draw(target, images)
        content = target.read_bytes()
        assert content.startswith((b"\x89PNG\r\n\x1a\n", b"GIF89a"))
        target.write_bytes(b"old")
        draw(target, images)
        assert target.read_bytes() == content and os.listdir(target.parent) == ["picture"]

    @every_picture
    def test_a_failed_write_leaves_the_old_file_and_nothing_else(
        self, draw: Draw, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        target = tmp_path / "picture"
        target.write_bytes(b"old")

        def fail(self: Image.Image, file: object, **_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(Image.Image, "save", fail)
        with pytest.raises(OSError, match="disk full"):
            draw(target, noise(2, (3, 8, 8)))
        assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["picture"]

    @every_picture
    @pytest.mark.parametrize("shape", [(1, 1, 1), (1, 8, 8), (3, 28, 28), (3, 10, 40), (1, 130, 130)])
    def test_any_size_and_number(self, draw: Draw, shape: tuple[int, int, int], tmp_path: Path) -> None:
        for count in (1, 3):
            draw(tmp_path / "picture", noise(count, shape))
            assert pixels(tmp_path / "picture").ndim == 3

    @every_picture
    def test_broken_values_are_drawn(self, draw: Draw, tmp_path: Path) -> None:
        draw(tmp_path / "picture", flat(math.nan, math.inf, -math.inf, 5.0).requires_grad_())
        assert (pixels(tmp_path / "picture") == MAGENTA).all(axis=2).any()

    @every_picture
    def test_what_is_no_image_is_refused(self, draw: Draw, tmp_path: Path) -> None:
        for images in (torch.zeros(2, 2, 8, 8), torch.zeros(2, 3, 8), torch.zeros(1, 3, 0, 8)):
            with pytest.raises(ValueError, match=r"expected \[N, C, H, W\] with 1 or 3 channels"):
                draw(tmp_path / "picture", images)
        assert not any(tmp_path.iterdir())

    @pytest.mark.parametrize("draw", [draw_samples, draw_reconstructions, draw_animation])
    def test_no_images_are_no_picture(self, draw: Draw, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no image to draw"):
            draw(tmp_path / "picture", torch.zeros(0, 3, 8, 8))


class TestValues:
    def test_they_are_mapped_clipped_and_rounded(self) -> None:
        shown = to_rgb(flat(-1.5, -1.0, 0.0, 1.0, 9.0), (-1.0, 1.0))
        assert shown.shape == (5, 8, 8, 3) and shown.dtype == np.uint8
        assert [set(image.flat) for image in shown] == [{0}, {0}, {128}, {255}, {255}]

    def test_channels_keep_their_order(self) -> None:
        image = torch.zeros(1, 3, 2, 3)
        image[0, 0, 0, 2], image[0, 2, 1, 0] = 1.0, 0.5
        shown = to_rgb(image)[0]
        assert shown[0, 2].tolist() == [255, 0, 0] and shown[1, 0].tolist() == [0, 0, 128]

    def test_a_pixel_with_a_nan_is_magenta_and_its_neighbours_are_not(self) -> None:
        image = flat(0.5, shape=(3, 4, 4))
        image[0, 1, 2, 3] = math.nan
        shown = to_rgb(image)[0]
        assert tuple(shown[2, 3]) == MAGENTA
        assert (shown == MAGENTA).all(axis=2).sum() == 1


class TestGrid:
    def test_images_lie_row_by_row_between_white_lines(self) -> None:
        grid = image_grid(flat(0.0, 0.2, 0.4, 0.6, 0.8, shape=(1, 100, 60)), columns=2, padding=3)
        assert grid.shape == (3 * 103 + 3, 2 * 63 + 3, 3)
        cells = [
            grid[row * 103 + 3 : row * 103 + 103, column * 63 + 3 : column * 63 + 63]
            for row in range(3)
            for column in range(2)
        ]
        assert [set(cell.flat) for cell in cells] == [{0}, {51}, {102}, {153}, {204}, {255}]
        assert (grid[:3] == 255).all() and (grid[:, -3:] == 255).all() and (grid[103:106] == 255).all()

    @pytest.mark.parametrize(("side", "cell"), [(1, 96), (8, 96), (28, 84), (32, 96), (48, 96), (64, 64), (256, 256)])
    def test_tiny_images_are_enlarged_by_whole_factors(self, side: int, cell: int) -> None:
        image = noise(1, (3, side, side))
        grid = image_grid(image, padding=0)
        assert grid.shape == (cell, cell, 3)
        assert (grid[:: cell // side, :: cell // side] == to_rgb(image)[0]).all()
        assert len(np.unique(grid.reshape(-1, 3), axis=0)) <= side * side

    def test_huge_grids_are_shrunk_by_whole_factors(self) -> None:
        image = noise(1, (1, 4, 4)).repeat_interleave(128, 2).repeat_interleave(128, 3)  # 512 pixels, 16 columns
        grid = image_grid(image.expand(16, -1, -1, -1), columns=16, padding=0)
        assert grid.shape == (256, 16 * 256, 3)
        assert (grid[:, :256] == to_rgb(image)[0][::2, ::2]).all()

    @pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (5, 3), (64, 8), (65, 9)])
    def test_grids_are_nearly_square_unless_told(self, count: int, columns: int) -> None:
        assert image_grid(flat(*[0.5] * count), padding=0).shape[1] == 96 * columns

    @pytest.mark.parametrize(("columns", "shape"), [(1, (480, 96)), (2, (288, 192)), (5, (96, 480)), (99, (96, 480))])
    def test_columns_can_be_told(self, columns: int, shape: tuple[int, int]) -> None:
        assert image_grid(flat(*[0.5] * 5), padding=0, columns=columns).shape[:2] == shape

    def test_no_columns_are_refused(self) -> None:
        with pytest.raises(ValueError, match="columns is 0, expected at least 1"):
            image_grid(flat(0.0), columns=0)

    def test_the_file_holds_the_grid(self, tmp_path: Path) -> None:
        images = noise(7, (3, 32, 32)) * 2 - 1
        sample_grid(tmp_path / "a.png", images, columns=4, value_range=(-1.0, 1.0))
        assert (pixels(tmp_path / "a.png") == image_grid(images, columns=4, value_range=(-1.0, 1.0))).all()

    def test_grey_files_have_one_channel(self, tmp_path: Path) -> None:
        sample_grid(tmp_path / "grey.png", noise(2, (1, 8, 8)))
        sample_grid(tmp_path / "nan.png", flat(0.5, math.nan))
        modes = [Image.open(tmp_path / name).mode for name in ("grey.png", "nan.png")]
        assert modes == ["L", "RGB"]


class TestReconstructions:
    def test_each_original_is_over_its_reconstruction(self, tmp_path: Path) -> None:
        originals, again = noise(5, (3, 32, 32)), noise(5, (3, 32, 32), seed=1)
        reconstruction_grid(tmp_path / "a.png", originals, again, columns=3)
        picture = pixels(tmp_path / "a.png")
        left = picture.shape[1] - (3 * 98 + 2)  # the labels' margin
        tall = 2 * 98 + 2  # a row of each, with lines between and around
        assert picture.shape[0] == 2 * tall + 12
        for index in range(5):
            row, column = divmod(index, 3)
            for images, below in ((originals, 0), (again, 98)):
                y, x = row * (tall + 12) + 2 + below, left + 2 + 98 * column
                assert (picture[y : y + 96 : 3, x : x + 96 : 3] == to_rgb(images)[index]).all()
        assert (picture[tall + 2 :, left + 2 + 2 * 98 :] == 255).all()  # the place of a sixth
        words = (picture[:, :left] < 128).all(axis=2).any(axis=1)
        # Dark letters beside the first row, lighter ones beside the second, nothing between the blocks.
        assert (
            words[2:98].any() and (picture[98:196, :left] < 255).any() and not (picture[tall : tall + 12] < 255).any()
        )

    def test_other_shapes_and_columns_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"reconstructions are \[2, 1, 8, 8\], expected \[3, 1, 8, 8\]"):
            reconstruction_grid(tmp_path / "a.png", torch.zeros(3, 1, 8, 8), torch.zeros(2, 1, 8, 8))
        with pytest.raises(ValueError, match="columns is 0"):
            reconstruction_grid(tmp_path / "a.png", torch.zeros(3, 1, 8, 8), torch.zeros(3, 1, 8, 8), columns=0)


class TestStrip:
    def test_it_goes_from_left_to_right(self, tmp_path: Path) -> None:
        path = flat(0.0, 0.2, 0.4)
        interpolation_strip(tmp_path / "a.png", path)
        picture = pixels(tmp_path / "a.png")
        assert picture.shape[1] == 3 * 98 + 2
        assert [int(picture[50, 2 + 98 * index + 48, 0]) for index in range(3)] == [0, 51, 102]
        assert (picture[100:] < 200).any()  # where on the path

    def test_originals_stand_apart_at_both_ends(self, tmp_path: Path) -> None:
        ends = (flat(1.0)[0] * 0.8, flat(1.0)[0] * 0.6)
        interpolation_strip(tmp_path / "a.png", flat(0.0, 0.2), ends=ends, labels=("cat.png", "x" * 500))
        picture = pixels(tmp_path / "a.png")
        assert picture.shape[1] == 100 + 12 + 2 * 98 + 2 + 12 + 100
        assert int(picture[50, 50, 0]) == 204 and int(picture[50, -50, 0]) == 153
        assert (picture[:98, 100:112] == 255).all()
        names = picture[126:]  # below the positions, each in its half
        assert (names[:, :100] < 200).any() and (names[:, -100:] < 200).any()
        middle = picture.shape[1] // 2
        assert (names[:, middle - 2 : middle + 2] == 255).all()


class TestAnimation:
    def test_it_goes_there_and_back_and_rests_at_the_ends(self, tmp_path: Path) -> None:
        animation(tmp_path / "a.gif", flat(0.0, 0.2, 0.4, 0.6), seconds=0.3)
        with Image.open(tmp_path / "a.gif") as picture:
            frames = []
            for index in range(picture.n_frames):
                picture.seek(index)
                frames.append((int(np.asarray(picture.convert("L"))[9, 9]), picture.info["duration"]))
            assert picture.size == (256, 256) and picture.info["loop"] == 0
        assert frames == [(0, 500), (51, 100), (102, 100), (153, 500), (102, 100), (51, 100)]

    def test_colours_are_kept(self, tmp_path: Path) -> None:
        images = noise(2, (3, 8, 8))  # 64 colours: a palette holds them all
        animation(tmp_path / "a.gif", images)
        with Image.open(tmp_path / "a.gif") as picture:
            picture.seek(1)
            shown = np.asarray(picture.convert("RGB"))[::32, ::32].astype(int)
        # A median cut of 64 colours among 256 places still merges neighbours by a level or two.
        assert np.abs(shown - to_rgb(images)[1].astype(int)).max() <= 8

    def test_large_frames_are_shrunk(self, tmp_path: Path) -> None:
        animation(tmp_path / "a.gif", noise(2, (3, 1024, 1024)))
        with Image.open(tmp_path / "a.gif") as picture:
            assert picture.size == (512, 512)


class TestLabelled:
    def test_images_stand_row_by_row(self, tmp_path: Path) -> None:
        rows = [levels(2, 96, seed=seed) for seed in range(3)]
        labelled_grid(tmp_path / "new" / "grid.png", rows)
        drawn = pixels(tmp_path / "new" / "grid.png")
        # Two columns and three rows of 96 pixels, 2 around each, and 12 more between rows, which are groups of one.
        assert drawn.shape == (3 * 98 + 2 + 2 * 12, 2 * 98 + 2, 3)
        for row, images in enumerate(rows):
            for column, image in enumerate(images):
                top, left = 2 + row * (98 + 12), 2 + column * 98
                assert (drawn[top : top + 96, left : left + 96] == to_one(image)).all()

    def test_groups_of_rows_stand_together(self, tmp_path: Path) -> None:
        rows = [levels(1, 96, seed=seed) for seed in range(4)]
        labelled_grid(tmp_path / "grid.png", rows, group=2)
        drawn = pixels(tmp_path / "grid.png")
        assert drawn.shape[0] == 4 * 98 + 2 + 12
        for row, top in enumerate((2, 100, 210, 308)):
            assert (drawn[top : top + 96, 2:98] == to_one(rows[row][0])).all()

    def test_smaller_images_are_enlarged_and_shorter_rows_stand_at_the_right(self, tmp_path: Path) -> None:
        small, large = levels(1, 24), levels(2, 96)
        labelled_grid(tmp_path / "grid.png", [small, large])
        drawn = pixels(tmp_path / "grid.png")
        assert (drawn[2:98, :98] == WHITE).all()
        assert (drawn[2:98:4, 100:196:4] == to_one(small[0])).all()
        assert (drawn[5:98:4, 103:196:4] == to_one(small[0])).all()
        assert (drawn[112:208, 2:98] == to_one(large[0])).all()

    def test_labels_are_written_beside_and_above(self, tmp_path: Path) -> None:
        rows = [torch.ones(2, 1, 96, 96), torch.ones(2, 1, 96, 96)]
        labelled_grid(tmp_path / "plain.png", rows)
        labelled_grid(tmp_path / "named.png", rows, row_labels=("first", "second"), column_labels=("a", "b" * 99))
        plain, named = pixels(tmp_path / "plain.png"), pixels(tmp_path / "named.png")
        assert (plain == 255).all()
        left, above = named.shape[1] - plain.shape[1], named.shape[0] - plain.shape[0]
        assert left > 16 and above > 16
        assert (named[above:, left:] == 255).all()  # what is written stays outside the images
        for part in (named[above : above + 98, :left], named[-98:, :left], named[:above, left : left + 98]):
            assert (part < 128).any()

    def test_the_value_range_is_that_of_the_model(self, tmp_path: Path) -> None:
        labelled_grid(tmp_path / "a.png", [levels(1, 96)])
        labelled_grid(tmp_path / "b.png", [levels(1, 96) * 2 - 1], value_range=(-1.0, 1.0))
        assert (pixels(tmp_path / "a.png") == pixels(tmp_path / "b.png")).all()

    def test_a_large_grid_is_shrunk(self, tmp_path: Path) -> None:
        labelled_grid(tmp_path / "grid.png", [levels(9, 1024, 1)], row_labels=("x",))
        assert max(pixels(tmp_path / "grid.png").shape) < 4096 + 100

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
        self, rows: list[Tensor], labels: dict[str, Sequence[str]], message: str, tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=message):
            labelled_grid(tmp_path / "grid.png", rows, **labels)  # type: ignore[arg-type]
        assert not list(tmp_path.iterdir())


class TestTranslations:
    def test_recombined_images_stand_between_what_gave_content_and_class(self, tmp_path: Path) -> None:
        contents, classes, made = levels(2, 96, seed=0), levels(3, 96, seed=1), levels(6, 96, seed=2)
        translation_grid(tmp_path / "grid.png", contents, classes, made.unflatten(0, (2, 3)))
        drawn = pixels(tmp_path / "grid.png")
        top, left = (side - count * 98 for side, count in zip(drawn.shape, (3, 4), strict=False))

        def cell(row: int, column: int) -> np.ndarray:
            y, x = top + row * 98, left + column * 98
            return drawn[y : y + 96, x : x + 96]

        assert (cell(0, 0) == WHITE).all()
        for column in range(3):
            assert (cell(0, 1 + column) == to_one(classes[column])).all()
        for row in range(2):
            assert (cell(1 + row, 0) == to_one(contents[row])).all()
            for column in range(3):
                assert (cell(1 + row, 1 + column) == to_one(made[3 * row + column])).all()
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


class TestSheet:
    def test_grids_stand_below_each_other_under_their_captions(self, tmp_path: Path) -> None:
        grids = [image_grid(noise(2, (3, 96, 96), seed)) for seed in range(2)]
        write_sheet(tmp_path / "new" / "sheet.png", "title", [("first", grids[0]), ("second", grids[1])])
        drawn = pixels(tmp_path / "new" / "sheet.png")
        height, width, _ = grids[0].shape
        assert drawn.shape[1] == width + 2 * 16
        first, second = (top for top in range(drawn.shape[0] - height + 1) if _at(drawn, top, grids))
        assert second - first - height > 16 and (drawn[first + height : second] < 128).any()  # the second caption
        assert (drawn[:first] < 128).any()

    def test_without_parts_it_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="no grid is given"):
            write_sheet(tmp_path / "sheet.png", "title", [])


def _at(drawn: np.ndarray, top: int, grids: Sequence[np.ndarray]) -> bool:
    height, width, _ = grids[0].shape
    return any((drawn[top : top + height, 16 : 16 + width] == grid).all() for grid in grids)


def test_one_image_is_written_pixel_for_pixel(tmp_path: Path) -> None:
    for shape, mode in (((1, 8, 8), "L"), ((3, 9, 7), "RGB")):
        image = noise(1, shape)
        write_image(tmp_path / "a.png", image[0])
        with Image.open(tmp_path / "a.png") as picture:
            assert picture.mode == mode and picture.size == (shape[2], shape[1])
        assert (pixels(tmp_path / "a.png") == to_rgb(image)[0]).all()
