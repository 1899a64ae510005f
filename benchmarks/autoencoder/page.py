"""Write the page of the comparison: a table, a picture and the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.autoencoder.comparison import METHODS, TITLES, Comparison, Method, method_of
from benchmarks.autoencoder.measured import Measured, Reference, measured, not_finite, some_images, with_fitted_prior
from benchmarks.autoencoder.speed import Speed, iterations
from sivae.figures.grids import image_grid, write_sheet
from sivae.files import write_json, write_text
from sivae.machine import device_name, git_commit, versions
from sivae.models import VAEModel
from sivae.models.base import evaluating
from sivae.models.latent import generate
from sivae.models.pixels import image_range
from sivae.progress import measuring
from sivae.reproduce.experiment import Trained
from sivae.reproduce.markdown import duration, figure, for_json, mean, mean_and_spread, number, over_seeds, table
from sivae.reproduce.trainings import describe
from sivae.words import listed, plural

PAGE, RESULTS, SHEET = "page.md", "results.json", "sheet.png"
_COLUMNS, _SAMPLE_ROWS = 10, 3
# The tables: title, and for each column the key of a measured value and its name.
_QUALITY: Mapping[str, Mapping[str, str]] = {
    "Reconstructions": {
        "mse": "MSE",
        "psnr": "PSNR",
        "ssim": "SSIM",
        "kl": "kl (nats)",
        "reconstructions_kid": "KID",
        "reconstructions_precision": "precision",
        "reconstructions_recall": "recall",
    },
    "Samples": {
        "samples_kid": "KID",
        "samples_precision": "precision",
        "samples_recall": "recall",
        "prior_kid": "KID of N(0, 1)",
        "prior_precision": "precision of N(0, 1)",
        "prior_recall": "recall of N(0, 1)",
    },
}


def write_page(
    comparison: Comparison, speed: Speed, runs: Mapping[str, Trained], folder: Path, *, command: str, show: bool
) -> list[Path]:
    """Measure the trainings and write the page; return the files.

    Args:
        comparison: the settings.
        speed: of the iterations.
        runs: all trainings by name.
        folder: of the comparison.
        command: that was called.
        show: show progress.
    """
    reference = _Once(next(iter(runs.values())), comparison.count)
    found: dict[Method, list[Measured]] = {method: [] for method in METHODS}
    shown: dict[Method, VAEModel] = {}
    with measuring("measuring", len(runs), enabled=show) as display:
        for run in runs.values():
            if run.summary is not None:
                method = method_of(run.name)
                display.begin(run.name)
                found[method].append(measured(run, folder, reference, comparison.components))
                if method not in shown:
                    shown[method] = with_fitted_prior(run, folder)
            display.advance()
    files = [folder / PAGE, folder / RESULTS]
    sections = [_about(comparison, runs, command), "## Cost", _cost(comparison, speed, runs, found)]
    for title, columns in _QUALITY.items():
        sections += [f"## {title}", _quality(found, columns)]
    sections.append(
        f"{over_seeds(len(comparison.seeds)).capitalize()}. {title_of(comparison, reference)} KID, precision and "
        f"recall are by EfficientNet-Lite0. *Samples* are of a mixture of {comparison.components} Gaussians that was "
        "fitted to the latents of training images; those of N(0, 1) are of the model's own prior. MSE, PSNR and SSIM "
        "are of values in [0, 1]."
    )
    if shown:
        _draw(folder / SHEET, comparison, shown, reference())
        files.append(folder / SHEET)
        caption = (
            f"Images spread over the set, and first samples, of seed {comparison.seeds[0]}; none was picked by hand."
        )
        sections += ["## Pictures", figure(SHEET, caption)]
    facts: dict[str, Any] = {
        "command": command,
        "device_name": device_name(torch.device("cpu")),
        "versions": versions(),
        "commit": git_commit(),
        "milliseconds": dict(speed),
        "findings": {TITLES[method]: values for method, values in found.items()},
        "runs": describe(runs),
    }
    write_json(folder / RESULTS, for_json(facts))
    write_text(folder / PAGE, "\n\n".join(["# One autoencoder, trained in three ways", *sections]) + "\n")
    return files


class _Once:
    """Returns the reference, which is made at the first call."""

    def __init__(self, run: Trained, count: int) -> None:
        self._config, self._count = run.config, count
        self._made: Reference | None = None

    def __call__(self) -> Reference:
        if self._made is None:
            self._made = Reference(self._config, self._count)
        return self._made


def title_of(comparison: Comparison, reference: _Once) -> str:
    """Return a sentence about the images that models are measured on."""
    return f"Models are measured on {plural(len(reference().pixels), reference().name.removesuffix('s'))}."


def _about(comparison: Comparison, runs: Mapping[str, Trained], command: str) -> str:
    config = next(iter(runs.values())).config
    version = ", ".join(f"{name} {value}" for name, value in versions().items())
    widths = listed(map(str, config.value("widths")))
    diverged = [run.name for run in runs.values() if run.summary is None]
    words = [
        f"`{command}` on {device_name(torch.device('cpu'))}. {version}, commit {git_commit() or 'unknown'}.",
        f"Three ways to train the networks of the preset `autoencoder-small`, widths {widths}, "
        f"on {Path(comparison.data).name} at {comparison.resolution} x {comparison.resolution}, batch "
        f"{comparison.batch_size}, precision {config.precision}, from the same weights. Every training has "
        f"{duration(comparison.seconds)} of one core. The error is L1 + (1 - MS-SSIM) for all. Both critics begin "
        f"after {comparison.critic_start:.0%} of the iterations. The PatchGAN has {comparison.critic_width} channels "
        f"after its first convolution. The weight of the KL divergence is 1e-6, and {comparison.beta_kl:g} with the "
        "encoder as the critic.",
    ]
    if diverged:
        words.append(f"Training diverged and stopped: {listed(diverged)}.")
    return "\n\n".join(words)


def _cost(
    comparison: Comparison, speed: Speed, runs: Mapping[str, Trained], found: Mapping[Method, Sequence[Measured]]
) -> str:
    steps = iterations(comparison, speed)
    rows = []
    for method in METHODS:
        mine = [run for run in runs.values() if method_of(run.name) == method]
        first = next(iter(found[method]), None)
        broken = sum(run.summary is None or run.went_back or not_finite(run.folder) > 0 for run in mine)
        rows.append(
            [
                TITLES[method],
                f"{steps[method]:,}",
                number(speed[method] / 1e3),
                duration(mean(run.metric("train_seconds") for run in mine)),
                "–" if first is None else f"{first['parameters']:,}",
                "–" if first is None else f"{first['critic_parameters']:,}",
                f"{broken} of {len(mine)}",
                f"{sum(not_finite(run.folder) for run in mine):,}",
            ]
        )
    header = ["", "iterations", "seconds of a core each", "wall time of training", "parameters", "of the critic"]
    words = (
        f"Before its critic begins, an iteration takes {number(speed['patchgan_waiting'] / 1e3)} seconds with the "
        f"PatchGAN, and {number(speed['encoder_waiting'] / 1e3)} with the encoder as the critic. They are seconds of a "
        "core, measured in turns before the trainings; the wall time is longer where others ran. *Broken*: runs "
        "with a loss that is not finite, or that diverged. *Not finite*: iterations with such a loss."
    )
    return "\n\n".join([table([*header, "broken", "not finite"], rows), words])


def _quality(found: Mapping[Method, Sequence[Measured]], columns: Mapping[str, str]) -> str:
    def cell(key: str, group: Sequence[Measured]) -> str:
        numbers = [values["values"].get(key) for values in group]
        return mean_and_spread([float("nan") if value is None else value for value in numbers])

    rows = [[TITLES[method], *(cell(key, group) for key in columns)] for method, group in found.items() if group]
    return table(["", *columns.values()], rows)


def _draw(path: Path, comparison: Comparison, models: Mapping[Method, VAEModel], reference: Reference) -> None:
    any_model = next(iter(models.values()))
    x = some_images(reference, any_model, _COLUMNS)

    def grid(images: Tensor) -> Any:
        return image_grid(images, columns=_COLUMNS, value_range=image_range(any_model))

    again, samples = [], []
    for method, model in models.items():
        with evaluating(model):
            again.append(model.reconstruct(x))
            images = torch.cat(list(generate(model, _COLUMNS * _SAMPLE_ROWS, seed=0)))
        samples.append((f"samples of a mixture of {comparison.components} Gaussians: {TITLES[method]}", grid(images)))
    rows = f"{reference.name}, and reconstructions: {listed(TITLES[method] for method in models)}"
    title = f"{Path(comparison.data).name}, {duration(comparison.seconds)} of a core each"
    write_sheet(path, title, [(rows, grid(torch.cat([x, *again]))), *samples])
