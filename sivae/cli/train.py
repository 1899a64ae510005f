"""`sivae train`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Folder, Number, Text, Whole, number, one, one_of, several
from sivae.training.config import PLANE_KINDS, Fake, ObjectiveName, RunConfig, Semantics
from sivae.training.errors import ConfigError
from sivae.training.memory import keep_freed_memory
from sivae.training.presets import DEFAULT_OBJECTIVE, PRESETS, preset_config


def _of_preset(text: str) -> Any:
    return arg(help=text, help_behavior_hint="(default: the preset's)")


def _of_objective(text: str) -> Any:
    return arg(help=text, help_behavior_hint="(default: the objective's)")


def _fixed(key: str, text: str, words: str | None = None) -> Any:
    default = next(field.default for field in dataclasses.fields(RunConfig) if field.name == key)
    if isinstance(default, float):
        default = f"{default:.3g}"
    if isinstance(default, tuple):
        default = " ".join(f"{one:.3g}" for one in default)
    return arg(help=text, help_behavior_hint=f"(default: {words or default})")


_PRESET = arg(help=f"What to learn: {', '.join(PRESETS)}.", help_behavior_hint="", metavar="PRESET")
_OUT = arg(
    help="The run's folder; it must be new or empty.",
    help_behavior_hint="(default: runs/PRESET-seedN, or ...-2, ...-3)",
)
_RESUME = arg(
    help="Go on with the run in this folder from its last whole checkpoint, as if it had not stopped. "
    "Its own settings hold; of the options below only --checkpoint-every and --quiet go with it.",
    help_behavior_hint="",
    metavar="DIR",
)


@dataclass
class Arguments:
    """Train a Soft-IntroVAE (or an IntroVAE, or a VAE) on a density in the plane.

    Writes config.json, metrics.jsonl, TensorBoard events, pictures, checkpoints and summary.json into the
    run's folder. Ctrl-C finishes the iteration and writes a checkpoint.

    examples:
      sivae train 8gaussians
      sivae train rings --steps 3000 --seed 7 --out runs/short
      sivae train checkerboard --beta-neg 0.4 --semantics paper --fakes prior
      sivae train 8gaussians --objective intro --margin 5
      sivae train --resume runs/short
    """

    preset: Annotated[Positional[str | None], one(str, "PRESET"), _PRESET] = None
    out: Annotated[Folder, _OUT] = None
    resume: Annotated[Folder, _RESUME] = None
    objective: Annotated[
        str | None,
        one_of(*get_args(ObjectiveName)),
        arg(help="What is minimised.", help_behavior_hint=f"(default: {DEFAULT_OBJECTIVE})"),
    ] = None
    steps: Annotated[Whole, _fixed("steps", "Training iterations.")] = None
    seed: Annotated[Whole, _fixed("seed", "Decides weights, data, noise and the metrics' samples.")] = None
    batch_size: Annotated[Whole, _fixed("batch_size", "Samples per iteration.")] = None
    learning_rate: Annotated[Number, _fixed("learning_rate", "Adam's rate before the first milestone.")] = None
    warmup_fraction: Annotated[
        Number, _fixed("warmup_fraction", "Share of the steps that train a plain VAE first.")
    ] = None
    milestones: Annotated[
        tuple[Any, ...] | None,
        several(number, "X ..."),
        _fixed("milestones", "Shares of the steps after which the rate drops."),
    ] = None
    rate_factor: Annotated[Number, _fixed("rate_factor", "What the rate is multiplied by at a milestone.")] = None
    beta_rec: Annotated[Number, _of_preset("Weight of the reconstruction error.")] = None
    beta_kl: Annotated[Number, _of_preset("Weight of the KL divergence of real samples.")] = None
    beta_neg: Annotated[Number, _of_preset("Weight of the KL divergence of fakes (soft-intro).")] = None
    gamma_r: Annotated[
        Number, _of_objective("Weight of the fakes' reconstruction error in the decoder's update (soft-intro).")
    ] = None
    alpha: Annotated[
        Number, _of_objective("Sharpness of the exponential (soft-intro), or weight of the adversarial terms (intro).")
    ] = None
    scale: Annotated[Number, _of_preset("The constant that multiplies every ELBO (soft-intro).")] = None
    semantics: Annotated[
        str | None,
        one_of(*get_args(Semantics)),
        _of_objective("Whose gradients, where the published code and the paper's Algorithm 1 differ (soft-intro)."),
    ] = None
    fakes: Annotated[
        tuple[Any, ...] | None,
        several(str, "{" + ",".join(get_args(Fake)) + "} ..."),
        _of_objective("What counts as a fake: one or both (soft-intro, intro)."),
    ] = None
    margin: Annotated[
        Number, _of_objective("KL divergence in nats that the encoder gives every fake at least (intro).")
    ] = None
    kind: Annotated[str | None, one_of(*PLANE_KINDS), _of_objective("The reconstruction error.")] = None
    z_dim: Annotated[Whole, _fixed("z_dim", "Latent dimensions.")] = None
    hidden: Annotated[Whole, _fixed("hidden", "Width of the networks' inner layers.")] = None
    layers: Annotated[Whole, _fixed("layers", "Number of inner layers.")] = None
    device: Annotated[Text, _fixed("device", "auto (a GPU when there is one), cpu, cuda, cuda:1 ...")] = None
    ops: Annotated[
        Text, _fixed("ops", "Backend of the fused ops; sivae info lists them.", "the fastest that is there")
    ] = None
    threads: Annotated[Whole, _fixed("threads", "CPU threads.", "torch's choice")] = None
    log_every: Annotated[Whole, _fixed("log_every", "Iterations between two records of the losses.")] = None
    checkpoint_every: Annotated[Whole, _fixed("checkpoint_every", "Iterations between two checkpoints.")] = None
    sample_every: Annotated[
        Whole, _fixed("sample_every", "Iterations between two pictures of samples.", "a tenth of the steps")
    ] = None
    quiet: Annotated[FlagCreatePairsOff[bool], arg(help="Show no progress.", help_behavior_hint="")] = False


_NOT_SETTINGS = ("preset", "out", "resume", "quiet")


def run(arguments: Arguments) -> None:
    """Train, and print the figures and where the pictures are."""
    fields = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Arguments)}
    given = {key: value for key, value in fields.items() if value is not None and key != "quiet"}
    changes = {key: value for key, value in given.items() if key not in _NOT_SETTINGS}
    keep_freed_memory()
    if arguments.resume is not None:
        summary = _resume(arguments.resume, given, not arguments.quiet)
    elif arguments.preset is None:
        raise ConfigError(f"name a preset ({', '.join(PRESETS)}), or a run to go on with by --resume DIR")
    else:
        config = preset_config(arguments.preset, **changes)
        from sivae.training.run import train

        summary = train(config, arguments.out, progress=not arguments.quiet)
    _print_summary(summary)


def _resume(folder: Path, given: dict[str, Any], progress: bool) -> dict[str, Any]:
    from sivae.training.run import RESUME_MAY_CHANGE, read_config, train

    for key in given:
        if key not in ("resume", *RESUME_MAY_CHANGE):
            name = "a preset" if key == "preset" else f"--{key.replace('_', '-')}"
            raise ConfigError(
                f"{name} does not go with --resume, as the run's own settings hold; leave it out, "
                "or start a new run without --resume"
            )
    changes = {key: given[key] for key in RESUME_MAY_CHANGE if key in given}
    config = read_config(folder).replace(**changes) if changes else None
    return train(config, folder, resume=True, progress=progress)


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.console import Console

    from sivae.cli.tables import metrics_table

    console = Console(highlight=False)
    folder = Path(summary["run"])
    metrics = {key: summary[key] for key in summary["metrics"]}
    console.print(metrics_table(f"{summary['preset']}, seed {summary['seed']}, {summary['steps']:,} steps", metrics))
    console.print(
        f"{summary['ms_per_iteration']:.2f} ms per iteration on {summary['device']}, {summary['threads']} CPU threads",
        soft_wrap=True,
    )
    for name in ("samples.png", "density.png", "curves.png"):
        console.print(str(folder / name), soft_wrap=True, markup=False)
