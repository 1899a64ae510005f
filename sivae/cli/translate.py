"""`sivae translate`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from tyro.conf import arg

from sivae.cli.generation import (
    Device,
    ImageModel,
    Model,
    Raw,
    check_at_least,
    check_seed,
    file,
    open_model,
    read_files,
)
from sivae.cli.options import Folder, Whole, one, one_of, several
from sivae.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.data.images import ImageSet
    from sivae.models.translation import TranslationVAE

_COUNT, _SEED = 6, 0
_SHOWN = 1024  # in one picture
_WITH_DATA = ("data", "split", "count", "seed")
_LONGEST = 100  # bytes of a name; two of them make a file's


@dataclass
class Arguments:
    """Recombine images: each has the content of its row's image and the class of its column's.

    Images are files, cut to the largest square in their middle and brought to the model's size, or some of a data set,
    whose classes then differ from column to column. They are decoded from posterior means, so the result does not
    depend on chance.

    examples:
      sivae translate runs/translation-shapes-seed0
      sivae translate runs/translation-cars3d-seed0 --content front.png side.png --class red.png van.png
      sivae translate runs/translation-shapes-seed0 --count 8 --seed 3 --out grid.png --separate recombined
    """

    model: Model = None
    content: Annotated[
        tuple[Any, ...],
        several(Path, "IMAGE ..."),
        arg(help="Image files that give the content, a row each.", help_behavior_hint=""),
    ] = ()
    class_: Annotated[
        tuple[Any, ...],
        several(Path, "IMAGE ..."),
        arg(name="class", help="Image files that give the class, a column each.", help_behavior_hint=""),
    ] = ()
    data: Annotated[
        Path | None,
        one(Path, "PATH"),
        arg(
            help="Take images of a data set instead: any that sivae train reads, or shapes.",
            help_behavior_hint="(default: the run's)",
        ),
    ] = None
    split: Annotated[
        str | None,
        one_of("train", "test"),
        arg(help="Which part of the data set.", help_behavior_hint="(default: test, or all where it has no parts)"),
    ] = None
    count: Annotated[
        Whole,
        arg(help="How many contents and how many classes of the data set.", help_behavior_hint=f"(default: {_COUNT})"),
    ] = None
    seed: Annotated[
        Whole, arg(help="Decides which images of the data set.", help_behavior_hint=f"(default: {_SEED})")
    ] = None
    out: Annotated[
        Path | None,
        file(".png"),
        arg(
            help="The picture.",
            help_behavior_hint="(default: translation….png in the run's folder, or beside a model's)",
        ),
    ] = None
    separate: Annotated[
        Folder,
        arg(help="Also write each recombined image, as CONTENT-as-CLASS.png, into this folder.", help_behavior_hint=""),
    ] = None
    raw_weights: Raw = False
    device: Device = None


class _Chosen(NamedTuple):
    """Images, uint8 [N, H, W, C] of the model's size, and what to call each."""

    pixels: Tensor
    names: list[str]


def run(arguments: Arguments) -> None:
    """Recombine, and print where the pictures are."""
    of_files = bool(arguments.content or arguments.class_)
    if of_files and not (arguments.content and arguments.class_):
        named, missing = ("--content", "--class") if arguments.content else ("--class", "--content")
        raise ConfigError(f"{named} goes with {missing} IMAGE ...; name image files by both, or by neither")
    for name in _WITH_DATA:
        if of_files and getattr(arguments, name) is not None:
            raise ConfigError(f"--{name} is for images of a data set, not for image files; leave it out")
    count = check_at_least("--count", _COUNT if arguments.count is None else arguments.count, 1)
    seed = check_seed("--seed", _SEED if arguments.seed is None else arguments.seed)
    rows, columns = (len(arguments.content), len(arguments.class_)) if of_files else (count, count)
    if (rows + 1) * (columns + 1) > _SHOWN:
        raise ConfigError(f"{rows:,} by {columns:,} images are too many for a picture; at most {_SHOWN:,} go into one")
    opened = open_model(arguments.model, raw=arguments.raw_weights, device=arguments.device, chosen=None)
    model = _translating(opened)
    if of_files:
        contents, classes = (
            _Chosen(read_files(paths, opened), [path.stem for path in paths])
            for paths in (arguments.content, arguments.class_)
        )
    else:
        contents, classes = _choose(_open(arguments, opened), count, seed, opened)

    from sivae.figures.grids import translation_grid

    if arguments.separate is not None:
        arguments.separate.mkdir(parents=True, exist_ok=True)  # or fails, before anything is written
    given = [opened.to_model(chosen.pixels) for chosen in (contents, classes)]
    made = model.translations(*given).cpu()
    out = arguments.out
    if out is None:
        out = opened.beside("translation.png" if of_files else f"translation-seed{seed}.png")
    translation_grid(out, given[0].cpu(), given[1].cpu(), made, value_range=opened.value_range)
    print(out)
    if arguments.separate is not None:
        _write_each(arguments.separate, made.flatten(0, 1), file_names(contents.names, classes.names), opened)


def _translating(opened: ImageModel) -> TranslationVAE:
    from sivae.models.translation import TranslationVAE

    if not isinstance(opened.model, TranslationVAE):
        raise ConfigError(
            f"sivae translate is for a translation model; this one is {opened.model.name!r}, which does not tell class "
            "from content; train one by sivae train translation-shapes"
        )
    return opened.model


def _open(arguments: Arguments, opened: ImageModel) -> ImageSet:
    """The images to choose from."""
    from sivae.data.images.builtin.shapes import open_shapes
    from sivae.training.detection import open_set, run_of
    from sivae.training.images import open_parts

    split: Any = arguments.split
    source = arguments.data
    if source is None:
        config = run_of(opened.source)
        if config is None:
            raise ConfigError(
                f"{opened.source} is a model without a run; name images by --content and --class, or by --data PATH"
            )
        config.check_data_is_named()
        train, test = open_parts(config.data, for_training=split == "train", show=True)
        if split == "test" and train is test:
            raise ConfigError(f"--split test: the data of {opened.source} has no test images; leave it out")
        return train if split == "train" and train is not None else test
    if str(source) == "shapes" and not source.exists():
        return open_shapes(split or "test", resolution=opened.side)
    return open_set(source, split=split, notice=lambda text: print(f"sivae: {text}", file=sys.stderr)).images


def _choose(images: ImageSet, count: int, seed: int, model: ImageModel) -> tuple[_Chosen, _Chosen]:
    """What gives the content and what gives the class."""
    import numpy as np
    import torch

    from sivae.data.images.pixels import as_picture, fit
    from sivae.evaluation.translation import example_rows

    if not len(images):
        raise ConfigError(f"{images.name} holds no images")
    labels, contents = images.labels, images.contents
    of_both = ((contents, images.content_names), (labels, images.class_names))
    chosen = []
    for rows, (numbers, names) in zip(example_rows(len(images), labels, contents, count, seed), of_both, strict=True):
        pixels = [
            fit(
                as_picture(images.read(row)),
                resolution=model.side,
                crop="center",
                channels=model.channels,
                where=images.where(row),
            )
            for row in rows.tolist()
        ]
        called = [f"image {row}" for row in rows.tolist()]
        if numbers is not None and names is not None:
            called = [names[number] for number in numbers[rows].tolist()]
        chosen.append(_Chosen(torch.from_numpy(np.stack(pixels)), called))
    return chosen[0], chosen[1]


def _write_each(folder: Path, images: Tensor, names: Sequence[str], opened: ImageModel) -> None:
    from sivae.figures.grids import write_image

    for name, image in zip(names, images, strict=True):
        write_image(folder / name, image, value_range=opened.value_range)
    print(f"{folder} ({len(names):,} files)")


def file_names(contents: Sequence[str], classes: Sequence[str]) -> list[str]:
    """`CONTENT-as-CLASS.png` for each class of each content in turn; no two are the same, whatever the case.

    Args:
        contents, classes: what each is called; letters, digits and inner dots are kept, with a hyphen for anything
            else.
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
