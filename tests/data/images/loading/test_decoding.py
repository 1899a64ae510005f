"""A set is loaded into memory: shape, order, damage, budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sivae.data.images import FittedImages, PackedImages, at_resolution, load_packed, open_images
from sivae.data.images.pixels import fit
from sivae.errors import DamagedImageError, DataError
from tests.data.images.samples import encoded, pixels, pngs, write_files


def test_every_image_is_decoded_into_its_place(tmp_path: Path) -> None:
    names = [f"{'ab'[number % 2]}/{number:03}.png" for number in range(50)]
    source = open_images(write_files(tmp_path, pngs(names)))
    loaded = load_packed(source, workers=3, progress=False)
    assert isinstance(loaded, PackedImages)
    assert np.array_equal(loaded.array, [source.read(index) for index in range(50)])
    assert loaded.labels is not None and loaded.labels.tolist() == [source.label(index) for index in range(50)]
    assert (loaded.class_names, loaded.skipped, loaded.resolution, loaded.channels) == (("a", "b"), 0, 8, 3)


def test_images_are_resized_and_cropped_as_fit_does(tmp_path: Path) -> None:
    source = open_images(write_files(tmp_path, pngs(["1.png", "2.png"], height=20, width=30)))
    loaded = load_packed(source, resolution=8, channels=1, crop="center", progress=False)
    expected = [
        fit(Image.fromarray(pixels(seed, 20, 30)), resolution=8, crop="center", channels=1, where="") for seed in (0, 1)
    ]
    assert np.array_equal(loaded.array, expected)


def test_a_set_is_rgb_where_one_image_is_and_grey_where_none_is(tmp_path: Path) -> None:
    grey, rgb = encoded(pixels(0, channels=1)), encoded(pixels(1))
    mixed = open_images(write_files(tmp_path / "mixed", {"1.png": grey, "2.png": rgb}))
    loaded = load_packed(mixed, progress=False)
    assert loaded.channels == 3 and np.array_equal(loaded.array[0], pixels(0, channels=1).repeat(3, axis=2))
    greys = open_images(write_files(tmp_path / "grey", {"1.png": grey, "2.png": grey}))
    assert load_packed(greys, progress=False).channels == 1
    assert load_packed(greys, channels=3, progress=False).channels == 3


def test_a_colour_image_that_comes_late_is_named(tmp_path: Path) -> None:
    """64 images, evenly spread, are read first; of 200 grey ones the second is not among them."""
    content = dict.fromkeys((f"{number:03}.png" for number in range(200)), encoded(pixels(0, 2, 2, 1)))
    content["001.png"] = encoded(pixels(0, 2, 2))
    with pytest.raises(DataError, match=r"001\.png is RGB, where the images before it are grey; .*--channels 3"):
        load_packed(open_images(write_files(tmp_path, content)), progress=False)


def test_without_a_resolution_all_images_have_to_be_of_one_size(tmp_path: Path) -> None:
    content = {"1.png": encoded(pixels(0)), "2.png": encoded(pixels(1, 9, 9))}
    with pytest.raises(DataError, match=r"2\.png is 9×9 .* where the first image is 8×8; .*sivae prepare"):
        load_packed(open_images(write_files(tmp_path, content)), progress=False)


def test_memory_that_is_short_at_the_moment_leaves_no_image_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"1.png": encoded(pixels(0)), "2.png": encoded(pixels(1, 16, 16))}
    source = open_images(write_files(tmp_path, content), skip_damaged=True)
    monkeypatch.setattr("sivae.data.images.pixels.fits_memory", lambda size: size <= 8 * 8 * 16)
    with pytest.raises(DataError, match=r"2\.png has 16×16 pixels, .* more than half of the free memory"):
        load_packed(source, resolution=8, progress=False)
    monkeypatch.undo()
    assert len(load_packed(source, resolution=8, progress=False)) == 2


def test_a_damaged_image_is_named_or_skipped_and_counted(tmp_path: Path) -> None:
    content = pngs([f"{'ab'[number // 3]}/{number}.png" for number in range(6)])
    content["a/1.png"] = content["a/1.png"][:50]
    content["b/4.png"] = b""
    folder = write_files(tmp_path, content)
    with pytest.raises(DamagedImageError, match=r"^2 of 6 images of .*a/1\.png is damaged.*b/4\.png is empty; restore"):
        load_packed(open_images(folder), progress=False)
    loaded = load_packed(open_images(folder, skip_damaged=True), progress=False)
    assert (len(loaded), loaded.skipped) == (4, 2)
    assert np.array_equal(loaded.array, [pixels(seed) for seed in (0, 2, 3, 5)])
    assert loaded.labels is not None and loaded.labels.tolist() == [0, 0, 1, 1]


def test_of_many_damaged_images_the_first_are_named(tmp_path: Path) -> None:
    content = pngs(["1.png"]) | dict.fromkeys((f"{number}.png" for number in range(2, 9)), b"")
    folder = write_files(tmp_path, content)
    with pytest.raises(DamagedImageError, match=r"^7 of 8 .*2\.png is empty; .*6\.png is empty; and 2 more; restore"):
        load_packed(open_images(folder), progress=False)
    said: list[str] = []
    load_packed(open_images(folder, skip_damaged=True), progress=False, notice=said.append)
    assert len(said) == 1 and said[0].startswith(f"{folder.name}: damaged images left out: 7 (")


def test_images_that_stay_on_the_disk_are_the_same_without_the_damaged_ones(tmp_path: Path) -> None:
    content = pngs([f"{'ab'[number // 3]}/{number}.png" for number in range(6)])
    content["a/1.png"] = b""
    images = open_images(write_files(tmp_path, content), skip_damaged=True)
    loaded, fitted = load_packed(images, progress=False), FittedImages(images)
    assert (len(fitted), fitted.skipped, fitted.resolution) == (5, 1, 8)
    assert np.array_equal(loaded.array, [fitted.read(index) for index in range(5)])
    assert loaded.labels is not None and fitted.labels is not None
    assert np.array_equal(loaded.labels, fitted.labels) and fitted.where(1).endswith("2.png")
    with pytest.raises(DamagedImageError, match=r"a/1\.png is empty; restore"):
        FittedImages(open_images(tmp_path))


def test_a_set_of_damaged_images_only(tmp_path: Path) -> None:
    source = open_images(write_files(tmp_path, {"1.png": b"x", "2.png": b"y"}), skip_damaged=True)
    with pytest.raises(DataError, match="none of its 2 images can be read"):
        load_packed(source, resolution=8, progress=False)


def test_a_set_over_the_budget_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    source = open_images(write_files(tmp_path, pngs(["1.png", "2.png"])))
    with pytest.raises(DataError, match=r"2 images of 8×8×3 take 384 bytes, more than the 383 bytes .* sivae prepare"):
        load_packed(source, budget_bytes=383, progress=False)


def test_what_is_in_memory_already_is_not_copied() -> None:
    source = PackedImages(pixels(0)[None])
    assert load_packed(source, progress=False) is source
    assert load_packed(source, resolution=8, channels=3, progress=False) is source
    assert load_packed(source, resolution=4, progress=False).resolution == 4


def test_contents_are_kept_beside_the_classes(tmp_path: Path) -> None:
    named = {"class_names": ("a", "b"), "contents": np.array([2, 0, 1]), "content_names": ("x", "y", "z")}
    images = PackedImages(np.stack([pixels(seed) for seed in range(3)]), np.array([0, 1, 1]), **named)
    smaller = load_packed(images, resolution=4, progress=False)
    fitted = FittedImages(images, resolution=4)
    for one in (images, smaller, at_resolution(images, 2), fitted, fitted.halved(1)):
        assert [one.content(index) for index in range(3)] == [2, 0, 1]
        assert one.content_names == ("x", "y", "z")
    assert PackedImages(images.array).content(0) is None and PackedImages(images.array).content_names is None
