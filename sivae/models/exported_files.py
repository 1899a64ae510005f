"""Write a model's encoder and decoder as programs that run without this package, with a description.

encoder.onnx, decoder.onnx   from samples to mu and logvar, and from latents to samples, for batches of any size;
                             or encoder.pt2 and decoder.pt2, which torch.export.load opens
prior.npz                    weights [K], mu and logvar [K, L] of a learned prior
export.json                  {"format": 1, "model": …, shapes, the values' range, inputs and outputs, comparisons}
"""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from sivae import files
from sivae.errors import ConfigError, ModelFileError
from sivae.models.base import VAEModel, evaluating
from sivae.models.exporting import Method, example_inputs, export_program
from sivae.progress import measuring

Form = Literal["onnx", "torch.export"]
NoiseChoice = Literal["fixed", "drawn", "inputs"]

ABOUT, PRIOR = "export.json", "prior.npz"
_ENDINGS: dict[Form, str] = {"onnx": ".onnx", "torch.export": ".pt2"}
_PARTS = ("encoder", "decoder")
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_FORMAT = 1
_CHECKED_ROWS = (1, 2, 64, 300)
_CHECKED_VALUES = 1 << 24  # of a batch of samples; activations of a larger one would take many GB
# Another order of the sums changes the last digits, which a norm over few values enlarges; a wrong program differs by
# much more.
_TOLERANCE = 1e-3

Run = Callable[[Mapping[str, Tensor]], Sequence[Tensor]]


@dataclass(frozen=True)
class Exported:
    """What was checked of a program.

    Attributes:
        file: its name.
        rows: the batch sizes at which it was compared with the model.
        deviation: largest difference from the model, relative to the largest value; None: the program draws noise, and
            only its shapes were compared.
    """

    file: str
    rows: tuple[int, ...]
    deviation: float | None


def check_packages() -> None:
    """Make sure that ONNX can be written and checked.

    Raises:
        ConfigError: a package is missing.
    """
    missing = [package for package in _PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise ConfigError(f"ONNX needs {', '.join(missing)}, which pip install 'soft-intro-vae[onnx]' brings")


def export_model(
    folder: str | os.PathLike[str],
    model: VAEModel,
    form: Form = "onnx",
    *,
    noise: NoiseChoice = "fixed",
    about: Mapping[str, Any] | None = None,
    show: bool = False,
) -> list[Exported]:
    """Write a folder of programs, whole or not at all, each compared with the model.

    Args:
        folder: is made; one that holds an export alone is replaced.
        model: on the CPU, in float32 or float64. It runs in eval mode, and gets its own mode back.
        form: "onnx", or "torch.export".
        noise: of a style-based model's decoder: "fixed" maps, so that an image depends on its latent alone; "drawn" by
            the program in each call; or "inputs" of it, noise0, noise1, …
        about: what else export.json says, in types of JSON.
        show: whether to show progress.

    Raises:
        ConfigError: the folder holds other files, a package is missing, or the model has no noise.
        ModelFileError: a program does not give the model's values.
        OSError: the folder cannot be written.
    """
    if noise != "fixed" and not model.has_styles:
        raise ConfigError(f"noise {noise!r}: the model {model.name!r} has no noise; leave it out")
    if form == "onnx":
        check_packages()
    folder = Path(os.path.abspath(folder))
    if not files.holds_only(folder, {ABOUT, PRIOR, *(part + end for part in _PARTS for end in _ENDINGS.values())}):
        raise ConfigError(f"{folder} holds other files than an export; choose another folder, or empty it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    methods: dict[str, Method] = {"encoder": "encode", "decoder": "render" if noise == "fixed" else "decode"}
    done: list[Exported] = []
    described: dict[str, Any] = {}
    with files.atomic_folder(folder) as temporary, measuring("exporting", 2, enabled=show) as progress:
        for part, method in methods.items():
            progress.begin(part)
            noise_inputs = part == "decoder" and noise == "inputs"
            one = example_inputs(model, method, 1, noise_inputs=noise_inputs)
            outputs = ["mu", "logvar"] if part == "encoder" else ["x"]
            path = temporary / f"{part}{_ENDINGS[form]}"
            with _quiet():
                program = export_program(model, method, noise_inputs=noise_inputs)
                run = _write(program, path, form, list(one), outputs)
            random = part == "decoder" and noise == "drawn"
            done.append(_compare(run, model, method, path.name, noise_inputs=noise_inputs, random=random))
            inputs = {name: ["batch", *value.shape[1:]] for name, value in one.items()}
            described[part] = {"file": path.name, "inputs": inputs, "outputs": outputs}
            described[part] |= {"compared_at": list(done[-1].rows), "largest_deviation": done[-1].deviation}
            progress.advance()
        components = model.prior_components()
        if components is not None:
            arrays = {name: value.detach().cpu().numpy() for name, value in components._asdict().items()}
            files.write_npz(temporary / PRIOR, arrays)
        files.write_json(temporary / ABOUT, _description(model, form, described) | dict(about or {}))
    return done


def _description(model: VAEModel, form: Form, programs: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "format": _FORMAT,
        "form": form,
        "model": model.name,
        "sample_shape": list(model.sample_shape),
        "value_range": None if model.value_range is None else list(model.value_range),
        "latent_shape": list(model.latent_shape),
        "prior": "N(0, 1)" if model.prior is None else PRIOR,
        **programs,
    }


def _write(
    program: torch.export.ExportedProgram, path: Path, form: Form, inputs: Sequence[str], outputs: Sequence[str]
) -> Run:
    """Write a program, and return what runs the written file."""
    if form == "torch.export":
        torch.export.save(program, path)
        module = torch.export.load(path).module()

        def run_torch(given: Mapping[str, Tensor]) -> Sequence[Tensor]:
            result = module(*given.values())
            return (result,) if isinstance(result, Tensor) else tuple(result)

        return run_torch
    import onnxruntime

    torch.onnx.export(
        program, f=path, input_names=list(inputs), output_names=list(outputs), external_data=False, verbose=False
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run_onnx(given: Mapping[str, Tensor]) -> Sequence[Tensor]:
        results = session.run(None, {name: value.numpy() for name, value in given.items()})
        return tuple(torch.from_numpy(np.asarray(result)) for result in results)

    return run_onnx


def _compare(run: Run, model: VAEModel, method: Method, file: str, *, noise_inputs: bool, random: bool) -> Exported:
    sizes = [rows for rows in _CHECKED_ROWS if rows <= 2 or rows * math.prod(model.sample_shape) <= _CHECKED_VALUES]
    deviation = 0.0
    with evaluating(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for rows in sizes:
            inputs = example_inputs(model, method, rows, noise_inputs=noise_inputs)
            expected: Any
            if noise_inputs:
                z, *maps = inputs.values()
                expected = model.decode(z, noise=maps)  # type: ignore[call-arg]
            else:
                expected = getattr(model, method)(*inputs.values())
            for mine, theirs in zip(
                run(inputs), (expected,) if isinstance(expected, Tensor) else expected, strict=True
            ):
                if mine.shape != theirs.shape:
                    raise ModelFileError(f"{file}: {rows} rows give {list(mine.shape)}, the model {list(theirs.shape)}")
                if not random:
                    apart = float((mine - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
                    deviation = max(deviation, apart) if apart == apart else math.nan
    if not random and not deviation <= _TOLERANCE:
        raise ModelFileError(
            f"{file} differs from the model by {deviation:.2g} of its largest value, expected {_TOLERANCE:g} at most; "
            "write another form, and please report this"
        )
    return Exported(file, tuple(sizes), None if random else deviation)


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch's exporter says about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
