"""`sivae interpolate`: go from one image, or one sample of the prior, to another through the latent space."""

from __future__ import annotations

import argparse
from pathlib import Path

from sivae.cli import clouds
from sivae.cli.generation import (
    CloudModel,
    add_class,
    add_each,
    add_model,
    add_picture,
    add_weights_and_device,
    open_any_model,
    refuse,
)
from sivae.cli.parsing import Parser, add_crop, at_least, file, seed
from sivae.errors import ConfigError

_FRAMES = 48
_AT_ONCE = 16  # images decoded together


def options(parser: Parser) -> None:
    """Add the verb's options."""
    parser.describe(
        """
        Go from one image to another, or from one sample of the prior to another, through the latent space.

        Images are cut to squares (--crop) and resized to the model's size. The path connects
        their posterior means, and the picture shows the originals at its ends. Seed N is the first image that
        sivae sample --seed N draws.
        """,
        [
            "sivae interpolate runs/celebahq256-conv-seed0 me.jpg you.jpg",
            "sivae interpolate runs/cifar10-seed0 --seeds 1 2 --steps 13 --out path.png",
            "sivae interpolate imported/celebahq256 --seeds 4 9 --gif path.gif",
            "sivae interpolate runs/points-shapes-seed0 chair.ply lamp.ply --gif path.gif",
        ],
    )
    add_model(parser)
    parser.add_argument("a", nargs="?", type=Path, metavar="A", help="Image file, or file of a cloud, at the start.")
    parser.add_argument("b", nargs="?", type=Path, metavar="B", help="The same at the end.")
    parser.add_argument("--seeds", nargs=2, type=seed, metavar="N", help="Two samples instead of two images.")
    parser.add_argument(
        "--steps", type=at_least(2), default=9, metavar="N", help="Images on the path, both ends included."
    )
    parser.add_argument(
        "--linear",
        action="store_true",
        help="Follow the straight line. (default: turn by equal angles, and change the length evenly)",
    )
    add_class(parser)
    add_picture(parser, "interpolation-….png", "File of the picture, which shows the path in one row.")
    parser.add_argument("--gif", type=file(".gif"), metavar="FILE.gif", help="Write an animation there and back.")
    parser.add_argument(
        "--frames",
        type=at_least(2),
        metavar="N",
        help=f"Images of the animation from end to end. (default: {_FRAMES}, of clouds {clouds.FRAMES})",
    )
    add_crop(parser)
    add_each(parser)
    add_weights_and_device(parser)


def run(given: argparse.Namespace) -> None:
    """Interpolate, and print where the picture is."""
    images = [path for path in (given.a, given.b) if path is not None]
    seeds = given.seeds or []
    if (len(images), len(seeds)) not in ((2, 0), (0, 2)):
        raise ConfigError("name two files of images or clouds, or two samples by --seeds N N")
    if seeds:
        refuse(given, ["crop"], "is for image files; leave it out")
    if given.frames is not None and given.gif is None:
        raise ConfigError("--frames goes with --gif FILE; leave it out, or name the animation's file")
    opened = open_any_model(given)
    if isinstance(opened, CloudModel):
        clouds.interpolate(given, opened)
        return
    refuse(given, ["each"], "is for models of point clouds; leave it out")
    condition = opened.conditions([given.class_])

    import torch

    from sivae.figures.grids import animation, interpolation_strip
    from sivae.models.latent import lerp, prior_samples, slerp

    ends = None
    if images:
        x = opened.to_model(opened.read_files(images))
        with torch.no_grad():
            mu, _ = opened.model.encode(x, None if condition is None else condition.expand(2, -1))
        ends = (x[0], x[1])
    else:
        mu = torch.cat([prior_samples(opened.model, start, 1) for start in seeds])
    path = lerp if given.linear else slerp

    def decoded(count: int) -> torch.Tensor:
        with torch.no_grad():
            parts = [
                opened.model.render(z, None if condition is None else condition.expand(len(z), -1)).cpu()
                for z in path(mu[0], mu[1], count).split(_AT_ONCE)
            ]
        return torch.cat(parts)

    if images:
        name, labels = f"interpolation-{images[0].stem}-{images[1].stem}.png", (images[0].name, images[1].name)
    else:
        first, last = seeds
        name, labels = f"interpolation-seeds{first}-{last}.png", (f"seed {first}", f"seed {last}")
    out = given.out or opened.beside(name)
    interpolation_strip(out, decoded(given.steps), ends=ends, labels=labels, value_range=opened.value_range)
    print(out)
    if given.gif is not None:
        animation(given.gif, decoded(given.frames or _FRAMES), value_range=opened.value_range)
        print(given.gif)
