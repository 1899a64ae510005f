"""Draw samples, reconstructions and interpolations of a model of images on one sheet."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sivae.errors import ConfigError
from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training
from sivae.reproduce.markdown import figure, number, table

if TYPE_CHECKING:
    from torch import Tensor

NAME = "images"
SUMMARY = "samples, reconstructions and interpolations of a model of images on one sheet"
NEEDS = "a trained run (--run RUN); or images (--data PATH) to train cifar10's model on; else it trains on digits"
TIME: Mapping[Size, str] = {
    "quick": "with --run seconds; digits: 400 iterations, half a minute on a CPU core; --data: 300 iterations of 32",
    "full": "with --run seconds; digits: 7 minutes on a CPU core; --data: 250 epochs, hours on a GPU",
}

_SHEET = "sheet.png"
_COLUMNS, _SAMPLE_ROWS, _PAIR_ROWS, _PATHS = 10, 5, 2, 4


def trainings(settings: Settings) -> list[Training]:
    """None where a run is given; else one, on digits, or by the preset cifar10 on the images given."""
    if settings.run is None:
        settings.allow("steps", "data", experiment=NAME)
        config = settings.configure_images()
        return [Training(config.preset, config)]
    settings.allow("run", "data", experiment=f"{NAME} with --run")
    from sivae.training.folder import read_config

    if read_config(settings.run).data.SAMPLES == "points":
        raise ConfigError(f"{settings.run} makes points, not images; density-2d shows those")
    return []


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """The sheet, and the run's metrics."""
    import torch

    from sivae.figures.grids import image_grid, write_sheet
    from sivae.machine import find_device
    from sivae.models.base import evaluating
    from sivae.models.latent import generate
    from sivae.models.pixels import image_range
    from sivae.pretrained import from_pretrained
    from sivae.reproduce.shown_images import paths_between, some_images
    from sivae.training.folder import read_config, read_summary

    if any(run.summary is None for run in runs.values()):
        return Report("The only training diverged, so no sheet can be drawn.", [], {}, [])
    run = Path(settings.run) if settings.run is not None else next(iter(runs.values())).folder
    config, summary = read_config(run), read_summary(run)
    model = from_pretrained(run).to(find_device(settings.device))
    x, conditions, source = some_images(model, config, max(_COLUMNS * _PAIR_ROWS, 2 * _PATHS), path=settings.data)

    def given(count: int) -> Tensor | None:
        return None if conditions is None else conditions.repeat(-(-count // len(conditions)), 1)[:count]

    def grid(images: Tensor) -> Any:
        return image_grid(images.cpu(), columns=_COLUMNS, value_range=image_range(model))

    shown = x[: _COLUMNS * _PAIR_ROWS]
    count = _COLUMNS * _SAMPLE_ROWS
    with evaluating(model):
        samples = torch.cat(list(generate(model, count, seed=0, condition=given(count))))
        again = model.reconstruct(shown, condition=given(len(shown)))
        paths = paths_between(model, x, conditions, rows=_PATHS, columns=_COLUMNS)
    pairs = torch.cat(
        [rows for pair in zip(shown.split(_COLUMNS), again.split(_COLUMNS), strict=True) for rows in pair]
    )
    parts = [
        ("samples from the prior", grid(samples)),
        (f"{source}, each row above its reconstructions", grid(pairs)),
        ("from one image to another through the latent space; the originals are at both ends", grid(paths)),
    ]
    step = max((int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()), default=0)
    write_sheet(folder / _SHEET, f"{config.preset}, {config.objective.name}, {step:,} iterations", parts)

    size = " × ".join(map(str, reversed(model.sample_shape)))
    about = (
        f"The model is that of a run of `{config.preset}` ({config.objective.name}) after {step:,} iterations of batch "
        f"{config.batch_size} on {Path(config.data.title).name}, {size}, in eval mode and with the "
        "averaged weights where the run has some."
    )
    caption = (
        f"Samples of the prior; {source} above their reconstructions, decoded from the posterior mean; and spherical "
        f"paths between the posterior means of two images in {_COLUMNS - 2} steps. None was picked by hand."
    )
    metrics = {name: summary[name] for name in summary["metrics"]} if summary else {}
    values = [[name, "–" if value is None else number(float(value))] for name, value in metrics.items()]
    sections = [("Sheet", figure(_SHEET, caption))]
    if values:
        sections.append(("Metrics of the run", table(["metric", "value"], values)))
    return Report(about, sections, {"run": str(run), "step": step, "metrics": metrics}, [_SHEET])
