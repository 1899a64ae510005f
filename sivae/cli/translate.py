"""`sivae translate`: combine the content of some images with the class of others."""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from sivae.cli.generation import (
    ImageModel,
    add_data_set,
    add_model,
    add_picture,
    add_weights_and_device,
    check_grid,
    open_model,
    refuse,
)
from sivae.cli.parsing import Parser, add_crop
from sivae.cli.printing import notice
from sivae.errors import ConfigError
from sivae.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.data.images import ImageSet
    from sivae.models.translation import TranslationVAE

_COUNT = 6
_LONGEST = 100  # bytes of a name; a file's name has two


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Recombine images: each has the content of its row's image and the class of its column's image.

        Images are files, which are cut to squares (--crop) and resized to the model's size; or
        images of a data set, of a different class in each column. They are decoded from posterior means, so that the
        result does not depend on chance.
        """,
        [
            "sivae translate runs/translation-shapes-seed0",
            "sivae translate runs/translation-cars3d-seed0 --content front.png side.png --class red.png van.png",
            "sivae translate runs/translation-shapes-seed0 --count 8 --seed 3 --out grid.png --separate recombined",
        ],
    )
    add_model(parser)
    parser.add_argument(
        "--content", nargs="+", type=Path, metavar="IMAGE", help="Image files that give the content, one for each row."
    )
    parser.add_argument(
        "--class",
        dest="class_files",
        nargs="+",
        type=Path,
        metavar="IMAGE",
        help="Image files that give the class, one for each column.",
    )
    add_data_set(
        parser,
        "any that sivae train reads, or shapes. (default: the run's data)",
        "test",
        f"Number of contents, and of classes, of the data set. (default: {_COUNT})",
    )
    add_picture(parser, "translation….png")
    parser.add_argument(
        "--separate",
        type=Path,
        metavar="DIR",
        help="Also write each recombined image into this folder, as CONTENT-as-CLASS.png.",
    )
    add_crop(parser)
    add_weights_and_device(parser)


class _Chosen(NamedTuple):
    """Images, uint8 [N, H, W, C] of the model's size, and a name for each."""

    pixels: Tensor
    names: list[str]


def run(given: argparse.Namespace) -> None:
    """Recombine, and print where the pictures are."""
    of_files = bool(given.content or given.class_files)
    if of_files and not (given.content and given.class_files):
        named, missing = ("--content", "--class") if given.content else ("--class", "--content")
        raise ConfigError(f"{named} goes with {missing} IMAGE ...; name image files by both, or by neither")
    if of_files:
        words = "is for images of a data set, not for image files; leave it out"
        refuse(given, ["data", "split", "count", "seed"], words)
    count, seed = given.count or _COUNT, given.seed or 0
    rows, columns = (len(given.content), len(given.class_files)) if of_files else (count, count)
    check_grid(rows, columns)
    opened = open_model(given)
    model = _translation_model(opened)
    if of_files:
        contents, classes = (
            _Chosen(opened.read_files(paths), [path.stem for path in paths])
            for paths in (given.content, given.class_files)
        )
    else:
        contents, classes = _choose(_open(given, opened), count, seed, opened)

    from sivae.figures.grids import translation_grid

    if given.separate is not None:
        given.separate.mkdir(parents=True, exist_ok=True)  # or fails, before anything is written
    x_content, x_class = (opened.to_model(chosen.pixels) for chosen in (contents, classes))
    made = model.translations(x_content, x_class).cpu()
    out = given.out or opened.beside("translation.png" if of_files else f"translation-seed{seed}.png")
    translation_grid(out, x_content.cpu(), x_class.cpu(), made, value_range=opened.value_range)
    print(out)
    if given.separate is not None:
        _write_each(given.separate, made.flatten(0, 1), file_names(contents.names, classes.names), opened)


def _translation_model(opened: ImageModel) -> TranslationVAE:
    if not opened.model.tells_class:
        raise ConfigError(
            f"sivae translate is for a translation model; this one is {opened.model.name!r}, which does not "
            "separate class and content; train one by sivae train translation-shapes"
        )
    return cast("TranslationVAE", opened.model)


def _open(given: argparse.Namespace, opened: ImageModel) -> ImageSet:
    """The images to choose from."""
    from sivae.data.images.builtin.shapes import open_shapes
    from sivae.detection.sets import open_set
    from sivae.training.folder import run_of

    split, source = given.split, given.data
    if source is None:
        refuse(given, ["crop"], "is for image files and --data; the run's own images are cut as in its training")
        config = run_of(opened.source)
        if config is None:
            raise ConfigError(
                f"{opened.source} is a model without a run; name images by --content and --class, or by --data PATH"
            )
        config.data.check_is_named(config.preset)
        train, test = config.data.open_parts(for_training=split == "train", show=True)
        if split == "test" and train is test:
            raise ConfigError(f"--split test: the data of {opened.source} has no test images; leave it out")
        return train if split == "train" and train is not None else test
    if str(source) == "shapes" and not source.exists():
        return open_shapes(split or "test", resolution=opened.side)
    return open_set(source, split=split, notice=notice).images


def _choose(images: ImageSet, count: int, seed: int, model: ImageModel) -> tuple[_Chosen, _Chosen]:
    """The images that give the content, and those that give the class."""
    from sivae.evaluation.translation import example_rows

    if not len(images):
        raise ConfigError(f"{images.name} holds no images")
    labels, contents = images.labels, images.contents
    of_both = ((contents, images.content_names), (labels, images.class_names))
    chosen = []
    for rows, (numbers, names) in zip(example_rows(len(images), labels, contents, count, seed), of_both, strict=True):
        called = [f"image {row}" for row in rows.tolist()]
        if numbers is not None and names is not None:
            called = [names[number] for number in numbers[rows].tolist()]
        chosen.append(_Chosen(model.read_rows(images, rows.tolist()), called))
    return chosen[0], chosen[1]


def _write_each(folder: Path, images: Tensor, names: Sequence[str], opened: ImageModel) -> None:
    from sivae.figures.grids import write_image

    for name, image in zip(names, images, strict=True):
        write_image(folder / name, image, value_range=opened.value_range)
    print(f"{folder} ({plural(len(names), 'file')})")


def file_names(contents: Sequence[str], classes: Sequence[str]) -> list[str]:
    """`CONTENT-as-CLASS.png` for each class of each content in turn; no two are equal, also without regard to case.

    Args:
        contents, classes: names; letters, digits and inner dots are kept, anything else becomes a hyphen.
    """
    taken: set[str] = set()
    names = []
    for content in map(_slug, contents):
        for of_class in map(_slug, classes):
            stem, number = f"{content}-as-{of_class}", 1
            name = stem
            while name.casefold() in taken:
                number += 1
                name = f"{stem}-{number}"
            taken.add(name.casefold())
            names.append(f"{name}.png")
    return names


def _slug(name: str) -> str:
    kept = re.sub(r"[^\w.]+", "-", name).encode()[:_LONGEST].decode(errors="ignore")
    return kept.strip("-.") or "image"
