"""What sample, reconstruct, interpolate, encode and ood do for models of point clouds."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sivae.cli.generation import IMAGES_IN_PICTURE, CloudModel, refuse
from sivae.cli.printing import notice, print_comparison, print_latents, print_metrics
from sivae.errors import ConfigError, NoSuchSplitError
from sivae.words import plural

if TYPE_CHECKING:
    from torch import Tensor

    from sivae.data.clouds import CloudSet
    from sivae.data.clouds.base import Part
    from sivae.detection.clouds import CloudDetector
    from sivae.detection.detector import Scores

SAMPLES, RECONSTRUCTIONS, FRAMES = 32, 8, 24  # by default
_SCORED = 1_000
_IN_A_ROW = 8
_OF_IMAGES = "is for models of images; leave it out"


def sample(given: argparse.Namespace, opened: CloudModel) -> None:
    """Draw clouds from the prior: a picture, files, or an array."""
    refuse(given, ["class_", "truncation"], _OF_IMAGES)
    from sivae.figures.clouds import cloud_grid
    from sivae.files import write_npz
    from sivae.training.measured_clouds import sample_clouds

    count = given.count or SAMPLES
    clouds = sample_clouds(opened.model, count, given.seed)
    out = given.out
    if out is None and given.each is None and given.npz is None:
        out = opened.beside(f"samples-seed{given.seed}.png")
    if out is not None:
        cloud_grid(clouds[:IMAGES_IN_PICTURE], out, columns=given.columns or (_IN_A_ROW if count > _IN_A_ROW else None))
        print(out if count <= IMAGES_IN_PICTURE else f"{out} (the first {IMAGES_IN_PICTURE:,})")
    if given.npz is not None:
        write_npz(given.npz, {"clouds": clouds.numpy()})
        print(given.npz)
    _write_each(given.each, clouds)


def reconstruct(given: argparse.Namespace, opened: CloudModel) -> None:
    """Reconstruct clouds of files or of a set, draw both, and print their distance."""
    refuse(given, ["class_", "every_lod", "crop"], _OF_IMAGES)
    import torch

    from sivae.figures.clouds import cloud_rows
    from sivae.training.measured_clouds import MeasuredClouds, reconstruction_metrics

    if given.data is None:
        originals = torch.cat([_first(opened, path) for path in given.images])
    else:
        clouds = _open(opened, str(given.data), given.split or "test")
        order = torch.randperm(len(clouds), generator=torch.Generator().manual_seed(given.seed or 0)).tolist()
        originals = MeasuredClouds(clouds).some(order[: given.count or RECONSTRUCTIONS])
    metrics = reconstruction_metrics(opened.model, originals)
    again = opened.model.reconstruct(originals.to(opened.device)).cpu()
    out = given.out or opened.beside("reconstructions.png")
    shown = range(0, min(len(originals), IMAGES_IN_PICTURE // 2), _IN_A_ROW)
    rows = [part for start in shown for part in (originals[start:][:_IN_A_ROW], again[start:][:_IN_A_ROW])]
    cloud_rows(rows, out, row_labels=["cloud", "reconstruction"] * len(shown), group=2)
    print_metrics(f"{plural(len(originals), 'cloud')} of {plural(originals.shape[1], 'point')}", metrics)
    print(out)
    _write_each(given.each, again)


def interpolate(given: argparse.Namespace, opened: CloudModel) -> None:
    """Go from one cloud or sample to another: a picture with the path in rows, files, an animation."""
    refuse(given, ["class_", "crop"], _OF_IMAGES)
    import torch

    from sivae.figures.clouds import cloud_gif, cloud_grid
    from sivae.models.latent import lerp, prior_samples, slerp

    model = opened.model
    if given.seeds:
        first, last = map(str, given.seeds)
        name = f"interpolation-seeds{first}-{last}.png"
        ends = torch.cat([prior_samples(model, seed, 1) for seed in given.seeds])
    else:
        name = f"interpolation-{given.a.stem}-{given.b.stem}.png"
        with torch.no_grad():
            ends = torch.cat([model.encode(_first(opened, path).to(opened.device))[0] for path in (given.a, given.b)])
    path = lerp if given.linear else slerp

    def decoded(count: int) -> Tensor:
        with torch.no_grad():
            return model.render(path(ends[0], ends[1], count)).cpu()

    out = given.out or opened.beside(name)
    clouds = decoded(given.steps)
    cloud_grid(clouds, out, columns=given.steps)
    print(out)
    if given.gif is not None:
        cloud_gif(decoded(given.frames or FRAMES), given.gif)
        print(given.gif)
    _write_each(given.each, clouds)


def encode(given: argparse.Namespace, opened: CloudModel, out: Path) -> None:
    """Write the latents of a set of clouds to a folder."""
    refuse(given, ["class_", "crop"], _OF_IMAGES)
    import numpy as np

    from sivae.evaluation.latents import replaced, write_latents
    from sivae.models.base import samples_at_once
    from sivae.progress import counting
    from sivae.training.measured_clouds import MeasuredClouds

    part: Part = given.split or "train"
    clouds = _open(opened, str(given.data), part)
    measured, size = MeasuredClouds(clouds), samples_at_once(opened.model.sample_shape)

    def batches() -> Iterator[tuple[Tensor, None]]:
        with counting("encoding", len(clouds)) as counter:
            for start in range(0, len(clouds), size):
                rows = range(start, min(start + size, len(clouds)))
                yield measured.some(rows).to(opened.device), None
                counter.advance(len(rows))

    about = {"data": clouds.name, **opened.origin(given.data, part)}
    if other := replaced(out, about):
        notice(other)
    std = write_latents(
        out,
        opened.model,
        batches(),
        clouds.names,
        labels=np.asarray(clouds.labels, np.int64),
        classes=clouds.class_names,
        about=about,
    )
    print_latents(out, len(clouds), "cloud", opened.model.latent_shape, std)


def ood(given: argparse.Namespace, opened: CloudModel) -> None:
    """Compare the scores of clouds like the training data and of other clouds."""
    refuse(
        given,
        ["score", "threshold", "csv", "calibrate", "quantile", "skip_damaged", "sigma", "crop"],
        "is for models of images; compare two sets of clouds by --against PATH",
    )
    from sivae.detection.clouds import CloudDetector
    from sivae.detection.comparison import distinct_names, write_comparison
    from sivae.detection.detector import density_of
    from sivae.training.folder import run_of

    if given.against is None:
        raise ConfigError("name clouds of another kind by --against PATH")
    run = run_of(opened.source)
    weights = {"beta_rec": given.beta_rec, "beta_kl": given.beta_kl}
    density = density_of(None if run is None else run.objective, kind="chamfer", notice=notice, **weights)
    detector = CloudDetector(opened.model, density, given.by or "likelihood", given.k or 5, given.seed or 0)
    inside = _in_distribution(opened, given)
    outside = _open(opened, str(given.against), given.against_split or "test")
    folder = given.out or opened.beside("ood")
    folder.mkdir(parents=True, exist_ok=True)  # a folder that cannot be made fails here, not after the scoring
    sets = {"in": inside, "out": outside}
    scores = {which: _scored(detector, clouds, given.count or _SCORED) for which, clouds in sets.items()}
    names = distinct_names(inside.name, outside.name)
    content = write_comparison(folder, detector, names, scores, source=opened.source, samples="clouds")
    print_comparison(content, folder, "clouds")


def _scored(detector: CloudDetector, clouds: CloudSet, count: int) -> Scores:
    """Score clouds spread over a set."""
    import numpy as np

    from sivae.models.base import samples_at_once
    from sivae.progress import counting
    from sivae.training.measured_clouds import MeasuredClouds

    measured = MeasuredClouds(clouds)
    rows = measured.spread(count)
    portions = []
    with counting(f"scoring {clouds.name}", len(rows)) as counter:
        for start in range(0, len(rows), size := samples_at_once(detector.model.sample_shape)):
            chosen = rows[start : start + size]
            portions.append(detector.of_clouds(measured.some(chosen), first=start))
            counter.advance(len(chosen))
    return {score: np.concatenate([portion[score] for portion in portions]) for score in portions[0]}


def _in_distribution(opened: CloudModel, given: argparse.Namespace) -> CloudSet:
    from sivae.settings.data import CloudData
    from sivae.training.folder import run_of

    part: Part = given.in_split or "test"
    if given.in_ is not None:
        return _open(opened, str(given.in_), part)
    run = run_of(opened.source)
    if run is None or not isinstance(run.data, CloudData):
        raise ConfigError(f"{opened.source} is a model without a run; name clouds like its own by --in PATH")
    run.data.check_is_named(run.preset)
    return run.data.open_part(part)


def _open(opened: CloudModel, path: str, part: Part, say: Callable[[str], None] = notice) -> CloudSet:
    """Open clouds of as many points as the model makes, normalised as in its training; of its own data its classes."""
    from sivae.data.clouds import open_clouds
    from sivae.settings.data import CloudData, absolute
    from sivae.training.folder import run_of

    run, points = run_of(opened.source), opened.model.sample_shape[0]
    own = run.data if run is not None and isinstance(run.data, CloudData) else CloudData(points=points)
    data = own.of(absolute(path, "clouds"))
    return open_clouds(
        path, part=part, classes=data.classes or None, points=points, normalize=data.normalize, notice=say
    )


def _first(opened: CloudModel, path: Path) -> Tensor:
    """Read the cloud of a file, [1, N, 3]; of a file of several the first, whichever part it belongs to."""
    from sivae.data.notice import ignore
    from sivae.training.measured_clouds import MeasuredClouds

    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name files in it, or give the folder by --data to reconstruct")
    found: list[tuple[int, CloudSet, int]] = []  # the row in the file, the part, the row in it
    parts: tuple[Part, ...] = ("train", "test")
    for part in parts:
        with contextlib.suppress(NoSuchSplitError):
            clouds = _open(opened, str(path), part, say=ignore)
            found += [(_row_in_file(name), clouds, row) for row, name in enumerate(clouds.names)]
    _, clouds, row = min(found, key=lambda one: one[0])
    return MeasuredClouds(clouds).some([row])


def _row_in_file(name: str) -> int:
    """The number at the end of the name of a cloud of a file of several; 0 of others."""
    row = re.search(r"\[(\d+)\]$", name)
    return int(row[1]) if row else 0


def _write_each(folder: Path | None, clouds: Tensor) -> None:
    """Write each cloud as a .ply file, if a folder is given."""
    if folder is None:
        return
    from sivae.data.clouds import write_ply

    folder.mkdir(parents=True, exist_ok=True)
    for index, cloud in enumerate(clouds):
        write_ply(folder / f"{index:0{len(str(len(clouds) - 1))}d}.ply", cloud)
    print(f"{folder} ({plural(len(clouds), 'file')})")
