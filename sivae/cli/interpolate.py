"""`sivae interpolate`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.generation import Class, Device, Model, Raw, check_at_least, check_seed, file, open_model, read_files
from sivae.cli.options import Whole, one, several, whole
from sivae.errors import ConfigError

_STEPS, _FRAMES = 9, 48
_AT_ONCE = 16

_A = arg(help="Image file at the start.", help_behavior_hint="", metavar="A")
_B = arg(help="Image file at the end.", help_behavior_hint="", metavar="B")


@dataclass
class Arguments:
    """Go from one image to another, or from one sample of the prior to another, through the latent space.

    Images are cut to the largest square in their middle and brought to the model's size; the path leads between their
    posterior means, and the originals stand at its ends. Seed N is the first image that sivae sample --seed N draws.

    examples:
      sivae interpolate runs/celebahq256-conv-seed0 me.jpg you.jpg
      sivae interpolate runs/cifar10-seed0 --seeds 1 2 --steps 13 --out path.png
      sivae interpolate imported/celebahq256 --seeds 4 9 --gif path.gif
    """

    model: Model = None
    a: Annotated[
        Positional[Path | None],
        one(Path, "A"),
        arg(help="Image file at the start.", help_behavior_hint="", metavar="A"),
    ] = None
    b: Annotated[
        Positional[Path | None], one(Path, "B"), arg(help="Image file at the end.", help_behavior_hint="", metavar="B")
    ] = None
    seeds: Annotated[
        tuple[Any, ...] | None,
        several(whole, "N N"),
        arg(help="Two samples instead of two images.", help_behavior_hint=""),
    ] = None
    steps: Annotated[
        Whole, arg(help="Images on the path, both ends included.", help_behavior_hint=f"(default: {_STEPS})")
    ] = None
    spherical: Annotated[
        FlagCreatePairsOff[bool],
        arg(help="Turn at equal angles, through latents of the ends' lengths.", help_behavior_hint="(default)"),
    ] = False
    linear: Annotated[FlagCreatePairsOff[bool], arg(help="Go straight instead.", help_behavior_hint="")] = False
    class_: Class = None
    out: Annotated[
        Path | None,
        file(".png"),
        arg(
            help="The picture: the path in one row.",
            help_behavior_hint="(default: interpolation….png in the run's folder, or beside a model's)",
        ),
    ] = None
    gif: Annotated[
        Path | None, file(".gif"), arg(help="An animation that goes there and back.", help_behavior_hint="")
    ] = None
    frames: Annotated[
        Whole, arg(help="Images of the animation from end to end.", help_behavior_hint=f"(default: {_FRAMES})")
    ] = None
    raw_weights: Raw = False
    device: Device = None


def run(arguments: Arguments) -> None:
    """Interpolate, and print where the picture is."""
    images = [path for path in (arguments.a, arguments.b) if path is not None]
    if (len(images), len(arguments.seeds or ())) not in ((2, 0), (0, 2)):
        raise ConfigError("name two image files, or two samples by --seeds N N")
    if arguments.spherical and arguments.linear:
        raise ConfigError("--spherical and --linear exclude each other; give one, or none for spherical")
    steps = check_at_least("--steps", _STEPS if arguments.steps is None else arguments.steps, 2)
    if arguments.frames is not None and arguments.gif is None:
        raise ConfigError("--frames goes with --gif FILE; leave it out, or name the animation's file")
    frames = check_at_least("--frames", _FRAMES if arguments.frames is None else arguments.frames, 2)
    for seed in arguments.seeds or ():
        check_seed("--seeds", seed)
    opened = open_model(arguments.model, raw=arguments.raw_weights, device=arguments.device, chosen=arguments.class_)
    condition = opened.conditions([arguments.class_])

    import torch

    from sivae.figures.grids import animation, interpolation_strip
    from sivae.models.latent import lerp, prior_noise, slerp

    ends = None
    if images:
        x = opened.to_model(read_files(images, opened))
        with torch.no_grad():
            mu, _ = opened.model.encode(x, None if condition is None else condition.expand(2, -1))
        ends = (x[0], x[1])
    else:
        assert arguments.seeds is not None
        mu = torch.cat([prior_noise(seed, 1, opened.model.z_dim) for seed in arguments.seeds]).to(opened.device)
    path = lerp if arguments.linear else slerp

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
        first, last = arguments.seeds or ()
        name, labels = f"interpolation-seeds{first}-{last}.png", (f"seed {first}", f"seed {last}")
    out = opened.beside(name) if arguments.out is None else arguments.out
    interpolation_strip(out, decoded(steps), ends=ends, labels=labels, value_range=opened.value_range)
    print(out)
    if arguments.gif is not None:
        animation(arguments.gif, decoded(frames), value_range=opened.value_range)
        print(arguments.gif)
