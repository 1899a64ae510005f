"""Encode a set of samples, and write the latents to a folder, for a model of latents that is trained elsewhere.

mu.npy, logvar.npy     parameters of the posteriors, float32 [N, *latent_shape], to be mapped into memory
names.json             the name of each sample
labels.npy             the class of each sample, int64 [N], where the set has classes
latents.json           {"format": 1, "count": …, "latent_shape": …, "std": …, "classes": …, and the origin:
                        "model_folder", "raw_weights", "data_path", "split" …}
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from torch import Tensor

from sivae import files
from sivae.errors import ConfigError
from sivae.json_files import read_json
from sivae.models import VAEModel
from sivae.models.base import evaluating

MU, LOGVAR, NAMES, LABELS, ABOUT = "mu.npy", "logvar.npy", "names.json", "labels.npy", "latents.json"
_FORMAT = 1


class _About(TypedDict):
    """The keys of latents.json that name the origin; earlier versions wrote some of them."""

    model_folder: NotRequired[str]
    raw_weights: NotRequired[bool]
    data_path: NotRequired[str]
    split: NotRequired[str | None]


def check_folder(folder: Path) -> Path:
    """Refuse a folder that latents cannot be written to, and return its absolute path.

    Raises:
        ConfigError: it holds other files.
    """
    folder = Path(os.path.abspath(folder))  # a relative path, such as ".", may have no name
    if not files.holds_only(folder, {MU, LOGVAR, NAMES, LABELS, ABOUT}):
        raise ConfigError(f"{folder} holds other files than latents; choose another folder, or empty it")
    return folder


def replaced(folder: Path, about: Mapping[str, Any]) -> str:
    """Say which other latents a folder has, that new ones replace; empty if it has none, or those of the same origin.

    Args:
        folder: of the latents.
        about: what the new latents.json says of the origin.
    """
    try:
        there = read_json(folder / ABOUT, _About, error=ConfigError, remedy="empty the folder")
    except (FileNotFoundError, ConfigError):
        return ""
    if all(there.get(key) == about.get(key) for key in _About.__annotations__):
        return ""
    part = f", part {there['split']}" if there.get("split") else ""
    data = there.get("data_path") or there.get("data") or "unknown data"
    return f"the latents of {data}{part} by {there.get('model_folder') or 'an unknown model'} in {folder} are replaced"


def write_latents(
    folder: Path,
    model: VAEModel,
    batches: Iterable[tuple[Tensor, Tensor | None]],
    names: Sequence[str],
    *,
    labels: NDArray[np.int64] | None = None,
    classes: Sequence[str] = (),
    about: Mapping[str, Any] | None = None,
) -> float:
    """Write a folder of latents, whole or not at all. Only one batch is in memory at a time.

    Args:
        folder: is made; one that holds latents alone is replaced.
        model: runs in eval mode and gets its own mode back. Its latents are in units of the prior.
        batches: samples [B, *sample_shape] in the model's values, on its device, and their conditions.
        names: of all samples, in their order.
        labels: int64 [N], or None.
        classes: names by label.
        about: what else latents.json says, in types of JSON.

    Returns:
        Standard deviation of all values of draws from the posteriors. A latent model wants values of about 1, so it
        divides by this.

    Raises:
        ConfigError: there are no samples, the folder holds other files, or latents or variances are not finite.
        ValueError: there are more or fewer samples than names.
        OSError: the folder cannot be written.
    """
    folder = check_folder(folder)
    if not names:
        raise ConfigError("there are no samples to encode; name a set that has some")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.atomic_folder(folder) as temporary:
        shape = (len(names), *model.latent_shape)
        arrays = [open_memmap(temporary / name, mode="w+", dtype=np.float32, shape=shape) for name in (MU, LOGVAR)]
        total = squares = 0.0
        done = end = 0
        for x, condition in batches:
            with evaluating(model):
                mu, logvar = (values.double() for values in model.encode(x, condition))
            end = done + len(mu)
            if end > len(names):
                break
            total += float(mu.sum())
            squares += float((mu.square() + logvar.exp()).sum())
            if not (math.isfinite(squares) and bool(logvar.isfinite().all())):
                raise ConfigError(
                    f"a latent of {names[done]} to {names[end - 1]}, or its variance, is not finite; take an earlier "
                    "model"
                )
            for array, values in zip(arrays, (mu, logvar), strict=True):
                array[done:end] = values.float().cpu().numpy()
            done = end
        if end != len(names):
            raise ValueError(f"write_latents: {end:,} samples came, expected {len(names):,}, as many as names")
        for array in arrays:
            array.flush()
        mean = total / math.prod(shape)
        std = math.sqrt(max(0.0, squares / math.prod(shape) - mean**2))
        if labels is not None:
            np.save(temporary / LABELS, labels)
        files.write_json(temporary / NAMES, list(names))
        content = {"format": _FORMAT, "count": len(names), "latent_shape": list(model.latent_shape), "std": std}
        content |= {"model": model.name, "sample_shape": list(model.sample_shape), "prior_std": model.prior_std}
        if "pipeline" in model.hyperparameters:
            content["pipeline"] = model.hyperparameters["pipeline"]
        files.write_json(temporary / ABOUT, content | {"classes": list(classes)} | dict(about or {}))
    return std
