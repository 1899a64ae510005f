"""Compute the metrics of a run's last checkpoint, or of a model folder."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sivae.data.images.crop import parse_crop
from sivae.errors import ConfigError
from sivae.evaluation.against import Against, compare_samples
from sivae.machine import find_device
from sivae.models import VAEModel
from sivae.models.base import one_hot
from sivae.models.storage import DESCRIPTION, load_model
from sivae.settings.data import CloudData, absolute
from sivae.training.folder import CONFIG, read_config
from sivae.training.tasks.base import FeatureFiles
from sivae.training.trained import trained

Notice = Callable[[str], None]


def evaluate(
    path: str | os.PathLike[str],
    *,
    seed: int | None = None,
    device: str | None = None,
    data: str | os.PathLike[str] | None = None,
    crop: str | None = None,
    skip_damaged: bool | None = None,
    fid_weights: str | os.PathLike[str] | None = None,
    fid_count: int = 50_000,
    lpips_weights: tuple[str | os.PathLike[str], str | os.PathLike[str]] | None = None,
    against: Against | None = None,
    notice: Notice = lambda text: None,
) -> dict[str, Any]:
    """Compute metrics of a run's last whole checkpoint, or of a model folder. Writes nothing but what `against` names.

    Args:
        path: a run's folder, or a model folder, an imported checkpoint for instance.
        seed: seed of the metrics' samples; None: the run's seed, which gives the metrics of the training's end (0 for
            a model folder).
        device: device to compute on; None: the run's device ("auto" for a model folder).
        data: the images to measure on; None: the run's.
        crop: the part of each image to keep, "center" or "TOP,LEFT,HEIGHT,WIDTH"; None: the run's (of a model folder:
            images have to be square).
        skip_damaged: leave out images that cannot be decoded, also of `against`; None: as the run did (of a model
            folder: they are an error).
        fid_weights: the file of the Inception network, for FID and KID of images.
        fid_count: number of images at most that FID and KID compare.
        lpips_weights: the files of VGG-16's weights and of LPIPS' own weights, for LPIPS of translations.
        against: the images that samples are compared with, see :func:`sivae.evaluation.against.compare_samples`.
        notice: called with a message for each damaged checkpoint that is skipped, and if another ops backend than the
            run's is used.

    Returns:
        `step` (of a run), `seed`, `measured_on` (of images: words for those of the metrics) and the metrics, None for
        a metric that is not finite.

    Raises:
        RunFolderError: the folder is neither a run nor a model, or the run has no checkpoint yet.
        ConfigError: the run's `config.json` is wrong, the device or the data is missing, or a setting of images is
            given for a model of clouds.
        CheckpointError: the run's checkpoints are all damaged.
        ModelFileError: the model folder or a file of LPIPS is damaged.
        OSError: a file of LPIPS cannot be read.
        FeaturesError: Inception's file is missing or damaged, or the weights for `against` are not installed, or its
            features do not fit.
    """
    folder = Path(path)
    if against is not None and skip_damaged:
        against = dataclasses.replace(against, skip_damaged=True)
    asked = FeatureFiles(
        fid=None if fid_weights is None else Path(fid_weights),
        fid_count=fid_count,
        lpips=None if lpips_weights is None else (Path(lpips_weights[0]), Path(lpips_weights[1])),
        against=against,
    )
    if (folder / DESCRIPTION).is_file() and not (folder / CONFIG).exists():
        return _of_model(folder, seed or 0, device or "auto", data, crop, skip_damaged, asked)
    config = read_config(folder)
    if config.data.SAMPLES == "clouds":
        _refuse_of_images(crop, skip_damaged)
    if data is not None:
        path_of_data = absolute(os.fspath(data), config.data.SAMPLES)
        if isinstance(config.data, CloudData):
            config = config.replace(data=config.data.of(path_of_data))
        else:
            config = config.replace(path=path_of_data)
    if crop is not None:
        config = config.replace(crop=crop)
    if skip_damaged is not None and hasattr(config.data, "skip_damaged"):
        config = config.replace(skip_damaged=skip_damaged)
    if seed is not None:
        config = config.replace(seed=seed)
    if device is not None:
        config = config.replace(device=device)
    if against is not None:
        cut = parse_crop(getattr(config.data, "crop", None))  # data that is built in has neither of the two
        skip = against.skip_damaged or getattr(config.data, "skip_damaged", False)
        against = dataclasses.replace(against, crop=cut or "center", skip_damaged=skip)
        asked = dataclasses.replace(asked, against=against)
    with trained(folder, config, for_training=False, notice=notice) as run:
        metrics = run.task.evaluate(run.model, config.seed, asked)
    on = run.task.measured_on if data is None or config.data.SAMPLES == "clouds" else f"images of {data}"
    step = run.checkpoint.step
    return {"step": step, "seed": config.seed, **({"measured_on": on} if on else {}), **for_json(metrics)}


def is_model(folder: Path) -> bool:
    """Whether :func:`evaluate` takes the folder for a run or a model."""
    return (folder / CONFIG).exists() or (folder / DESCRIPTION).is_file()


def _of_model(
    folder: Path,
    seed: int,
    device: str,
    data: str | os.PathLike[str] | None,
    crop: str | None,
    skip_damaged: bool | None,
    asked: FeatureFiles,
) -> dict[str, Any]:
    from sivae.data.images.parts import open_parts
    from sivae.training.measured_images import MeasuredImages, measure

    where = find_device(device)
    model = load_model(folder).to(where)
    if len(model.sample_shape) == 2:
        _refuse_of_images(crop, skip_damaged)
        return _of_cloud_model(folder, model, seed, data, asked)
    if len(model.sample_shape) != 3:
        raise ConfigError(f"{folder} is a model of points without a run, so its data is unknown; name its run")
    if data is None:
        if asked.against is None or asked.fid is not None or asked.lpips is not None:
            raise ConfigError(f"{folder} is a model without a run; name the images to measure it on by --data PATH")
        return {"seed": seed, **for_json(compare_samples(model, asked.against, seed=seed, conditions=_in_turn(model)))}
    channels, side, _ = model.sample_shape
    try:
        _, images = open_parts(
            str(data),
            resolution=side,
            channels=channels,
            crop=parse_crop(crop),
            skip_damaged=bool(skip_damaged),
            for_training=False,
        )
        measured = MeasuredImages(images, where, conditional=model.condition_dim > 0, value_range=model.value_range)
        return {"seed": seed, "measured_on": f"images of {data}", **for_json(measure(model, measured, seed, asked))}
    except OSError as error:
        raise ConfigError(str(error)) from error


def _refuse_of_images(crop: str | None, skip_damaged: bool | None) -> None:
    """Refuse options that have no effect on point clouds."""
    for name, value in (("crop", crop), ("skip-damaged", skip_damaged)):
        if value is not None:
            raise ConfigError(f"--{name} is for models of images; leave it out")


def _of_cloud_model(
    folder: Path, model: VAEModel, seed: int, data: str | os.PathLike[str] | None, asked: FeatureFiles
) -> dict[str, Any]:
    from sivae.data.clouds import open_clouds
    from sivae.training.measured_clouds import MeasuredClouds, check_files, measure_clouds

    check_files(asked)
    if data is None:
        raise ConfigError(f"{folder} is a model without a run; name the clouds to measure it on by --data PATH")
    try:
        clouds = MeasuredClouds(open_clouds(data, part="test", points=model.sample_shape[0]))
    except OSError as error:
        raise ConfigError(str(error)) from error
    return {"seed": seed, "measured_on": clouds.words, **for_json(measure_clouds(model, clouds, seed))}


def _in_turn(model: VAEModel) -> Callable[[int], Tensor | None]:
    """Conditions of all classes in turn, for a conditional model."""
    classes = model.condition_dim
    return lambda count: one_hot(torch.arange(count) % classes, classes) if classes else None


def for_json(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Replace values that are not finite by None, because JSON cannot express them."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}
