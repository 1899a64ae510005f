"""`sivae train`."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

from tyro.conf import FlagCreatePairsOff, Positional, arg

from sivae.cli.options import Folder, Number, Text, Whole, number, one, one_of, several, switch, whole
from sivae.errors import ConfigError
from sivae.training.config import (
    Automatic,
    Cache,
    ErrorKind,
    Fake,
    MemoryFormat,
    Norm,
    ObjectiveName,
    Passes,
    Precision,
    RunConfig,
    Semantics,
    Supervision,
)
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


_PRESET = arg(
    help=f"What to learn: {', '.join(PRESETS)}. sivae presets tells more.", help_behavior_hint="", metavar="PRESET"
)
_OUT = arg(
    help="The run's folder; it must be new or empty.",
    help_behavior_hint="(default: runs/PRESET-seedN, or ...-2, ...-3)",
)
_RESUME = arg(
    help="Go on with the run in this folder from its last whole checkpoint, as if it had not stopped. "
    "Its own settings hold; of the options below only --checkpoint-every, --keep-checkpoints, --data (where the same "
    "images are now), --cache and --quiet go with it.",
    help_behavior_hint="",
    metavar="DIR",
)


@dataclass
class Arguments:
    """Train a Soft-IntroVAE (or an IntroVAE, or a VAE) on images, or on a density in the plane.

    Writes config.json, metrics.jsonl, TensorBoard events, pictures, checkpoints and summary.json into the
    run's folder. Ctrl-C finishes the iteration and writes a checkpoint.

    examples:
      sivae train digits
      sivae train cifar10 --data cifar-10-python.tar.gz --epochs 20
      sivae train celebahq256-conv --data faces256 --precision bf16 --norm group
      torchrun --nproc-per-node 4 -m sivae train ffhq256-conv --data ffhq256 --batch-size 32
      sivae train ffhq256 --data ffhq --precision bf16
      sivae train style32 --data faces.zip
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
    data: Annotated[
        Path | None,
        one(Path, "PATH"),
        arg(
            help="The images: a folder or archive, a release of CIFAR, MNIST, SVHN, Cars3D or KTH, or what sivae "
            "prepare made.",
            help_behavior_hint="",
        ),
    ] = None
    steps: Annotated[Whole, _of_preset("Training iterations.")] = None
    epochs: Annotated[Number, _of_preset("Passes over the images, instead of --steps.")] = None
    seed: Annotated[Whole, _fixed("seed", "Decides weights, data, noise and the metrics' samples.")] = None
    batch_size: Annotated[Whole, _of_preset("Samples per iteration, of all processes together.")] = None
    learning_rate: Annotated[Number, _fixed("learning_rate", "Adam's rate before the first milestone.")] = None
    warmup_fraction: Annotated[Number, _of_preset("Share of the steps that train a plain VAE first.")] = None
    milestones: Annotated[
        tuple[Any, ...] | None,
        several(number, "X ..."),
        _of_preset("Shares of the steps after which the rate drops."),
    ] = None
    rate_factor: Annotated[Number, _fixed("rate_factor", "What the rate is multiplied by at a milestone.")] = None
    beta_rec: Annotated[Number, _of_preset("Weight of the reconstruction error.")] = None
    beta_kl: Annotated[Number, _of_preset("Weight of the KL divergence of real samples.")] = None
    beta_neg: Annotated[Number, _of_preset("Weight of the KL divergence of fakes (soft-intro).")] = None
    beta_kl_class: Annotated[
        Number,
        _of_preset("Weight of the class's share of the KL divergence; --beta-kl is the content's (translation)."),
    ] = None
    beta_neg_class: Annotated[Number, _of_preset("Likewise of the KL divergence of fakes (translation).")] = None
    gamma_r: Annotated[
        Number, _of_objective("Weight of the fakes' reconstruction error in the decoder's update (soft-intro).")
    ] = None
    gamma: Annotated[Number, _of_objective("Weight of the fakes in the decoder's update (soft-intro).")] = None
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
    kind: Annotated[str | None, one_of(*get_args(ErrorKind)), _of_objective("The reconstruction error.")] = None
    perceptual: Annotated[
        Path | None,
        one(Path, "FILE"),
        arg(
            help="VGG-16's weights (vgg16-397923af.pth), for a perceptual reconstruction error in the place of --kind.",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    content_noise: Annotated[Number, _of_objective("Noise on the content codes (lord).")] = None
    content_decay: Annotated[Number, _of_objective("Weight of the content codes' squared length (lord).")] = None
    code_weight: Annotated[Number, _of_objective("Weight of the encoders' distance from the codes (lord).")] = None
    z_dim: Annotated[Whole, _of_preset("Latent dimensions.")] = None
    content_dim: Annotated[Whole, _of_preset("Latent dimensions of the content (translation).")] = None
    class_dim: Annotated[Whole, _of_preset("Latent dimensions of the class (translation).")] = None
    width: Annotated[Whole, _of_preset("Channels at the images' resolution (translation).")] = None
    supervision: Annotated[
        str | None,
        one_of(*get_args(Supervision)),
        _of_preset("What is known of classes: nothing, or which images are of one (translation)."),
    ] = None
    hidden: Annotated[Whole, _of_preset("Width of the linear layers (points, translation).")] = None
    layers: Annotated[Whole, _of_preset("Number of inner layers (points).")] = None
    widths: Annotated[
        tuple[Any, ...] | None,
        several(whole, "N ..."),
        _of_preset("Channels from the image inwards, halving the resolution at each (images)."),
    ] = None
    norm: Annotated[str | None, one_of(*get_args(Norm)), _of_preset("Normalisation (images).")] = None
    conditional: Annotated[
        bool | None, one(switch, "{on,off}"), _of_preset("Give the networks the class of an image (images).")
    ] = None
    start_channels: Annotated[
        Whole, _of_preset("Width of the outermost blocks, each further one twice as wide (style).")
    ] = None
    max_channels: Annotated[Whole, _of_preset("But no wider than this (style).")] = None
    mapping_layers: Annotated[Whole, _of_preset("Layers from a latent to its style (style).")] = None
    style_mixing: Annotated[
        Number, _of_preset("Share of the training passes over prior samples that mix two styles (style).")
    ] = None
    growth: Annotated[
        str | None,
        one_of("grow", "none"),
        _of_preset("Grow with the images from 4x4 on, or train at the full resolution from the start (style)."),
    ] = None
    epochs_per_stage: Annotated[
        Number, _of_preset("Passes over the images at each resolution; the last has what is left (growing).")
    ] = None
    warmup_epochs: Annotated[Number, _of_preset("Passes, of the first, that train a plain VAE (growing).")] = None
    stage_batches: Annotated[
        tuple[Any, ...] | None,
        several(whole, "N ..."),
        arg(
            help="Samples per iteration at 4, 8, 16 ... pixels, of all processes together (growing).",
            help_behavior_hint="(default: as published for the number of GPUs)",
        ),
    ] = None
    stage_rate_factors: Annotated[
        tuple[Any, ...] | None,
        several(number, "X ..."),
        _of_preset("What the rate is multiplied by at 4, 8, 16 ... pixels (growing)."),
    ] = None
    stage_beta_neg_factors: Annotated[
        tuple[Any, ...] | None,
        several(number, "X ..."),
        _of_preset("What beta_neg is multiplied by at 4, 8, 16 ... pixels, from a stage's second epoch on (growing)."),
    ] = None
    resolution: Annotated[Whole, _of_preset("Side of the images; others are resized.")] = None
    channels: Annotated[Whole, _of_preset("1 (grey) or 3 (colour); images are converted.")] = None
    flip: Annotated[bool | None, one(switch, "{on,off}"), _of_preset("Mirror half of the images at random.")] = None
    skip_damaged: Annotated[
        bool | None,
        one(switch, "{on,off}"),
        _of_preset("Leave out image files that cannot be decoded, instead of stopping."),
    ] = None
    cache: Annotated[
        str | None,
        one_of(*get_args(Cache)),
        _of_preset("Where decoded images live: on the device, in the host's memory, or on disk."),
    ] = None
    ema_half_life: Annotated[
        Number,
        _fixed("ema_half_life", "Images after which a weight's share in the averaged copy has halved.", "no average"),
    ] = None
    precision: Annotated[
        str | None,
        one_of(*get_args(Precision)),
        _fixed("precision", "Of the networks; tf32 rounds products on NVIDIA GPUs, weights stay float32."),
    ] = None
    memory_format: Annotated[
        str | None, one_of(*get_args(MemoryFormat)), _fixed("memory_format", "How images lie in memory.")
    ] = None
    compile: Annotated[
        bool | None, one(switch, "{on,off}"), _fixed("compile", "Compile the networks with torch.compile.", "off")
    ] = None
    cuda_graph: Annotated[
        str | None,
        one_of(*get_args(Automatic)),
        _fixed("cuda_graph", "Run iterations as one CUDA graph; auto: on a GPU, for small images."),
    ] = None
    decoder_passes: Annotated[
        str | None,
        one_of(*get_args(Passes)),
        _fixed(
            "decoder_passes",
            "The decoder's update reuses the encoder's passes, or draws and encodes anew as the authors' style-based "
            "program does.",
        ),
    ] = None
    accumulate: Annotated[
        Whole, _of_preset("Parts that a batch is cut into, so that only one is in memory at a time.")
    ] = None
    checkpoint_activations: Annotated[
        bool | None,
        one(switch, "{on,off}"),
        _of_preset("Keep only each stage's input and compute the rest again in the backward pass: slower, smaller."),
    ] = None
    device: Annotated[Text, _fixed("device", "auto (a GPU when there is one), cpu, cuda, cuda:1 ...")] = None
    ops: Annotated[
        Text, _fixed("ops", "Backend of the fused ops; sivae info lists them.", "the fastest that is there")
    ] = None
    threads: Annotated[Whole, _fixed("threads", "CPU threads.", "torch's choice")] = None
    log_every: Annotated[Whole, _fixed("log_every", "Iterations between two records of the losses.")] = None
    checkpoint_every: Annotated[Whole, _of_preset("Iterations between two checkpoints.")] = None
    keep_checkpoints: Annotated[
        Whole, _fixed("keep_checkpoints", "How many of the last checkpoints stay, beside the best.")
    ] = None
    sample_every: Annotated[
        Whole, _fixed("sample_every", "Iterations between two pictures of samples.", "a tenth of the steps")
    ] = None
    quiet: Annotated[FlagCreatePairsOff[bool], arg(help="Show no progress.", help_behavior_hint="")] = False


_NOT_SETTINGS = ("preset", "out", "resume")
_KEYS = {"data": "path"}  # options whose key in the configuration has another name


def run(arguments: Arguments) -> None:
    """Train, and print the figures and where the pictures are."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Arguments)}
    given = {key: value for key, value in values.items() if value is not None and key != "quiet"}
    changes = {_KEYS.get(key, key): value for key, value in given.items() if key not in _NOT_SETTINGS}
    if arguments.data is not None:
        changes["path"] = str(arguments.data.absolute())  # a resumed run may start elsewhere
    if arguments.perceptual is not None:
        changes["perceptual"] = str(arguments.perceptual.absolute())
    keep_freed_memory()
    if arguments.resume is not None:
        summary = _resume(arguments.resume, given, changes, not arguments.quiet)
    elif arguments.preset is None:
        raise ConfigError(f"name a preset ({', '.join(PRESETS)}), or a run to go on with by --resume DIR")
    else:
        config = preset_config(arguments.preset, **changes)
        config.check_data_is_named()
        from sivae.training.run import train

        summary = train(config, arguments.out, progress=not arguments.quiet)
    if os.environ.get("RANK", "0") == "0":
        _print_summary(summary)


def _resume(folder: Path, given: dict[str, Any], changes: dict[str, Any], progress: bool) -> dict[str, Any]:
    from sivae.training.folder import read_config
    from sivae.training.run import RESUME_MAY_CHANGE, train

    for option in given:
        if option != "resume" and _KEYS.get(option, option) not in RESUME_MAY_CHANGE:
            name = "a preset" if option == "preset" else f"--{option.replace('_', '-')}"
            raise ConfigError(
                f"{name} does not go with --resume, as the run's own settings hold; leave it out, "
                "or start a new run without --resume"
            )
    config = read_config(folder).replace(**changes) if changes else None
    return train(config, folder, resume=True, progress=progress)


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.console import Console

    from sivae.cli.printing import print_metrics

    console = Console(highlight=False)
    folder = Path(summary["run"])
    metrics = {key: summary[key] for key in summary["metrics"]}
    print_metrics(f"{summary['preset']}, seed {summary['seed']}, {summary['steps']:,} steps", metrics)
    console.print(
        f"{summary['ms_per_iteration']:.2f} ms per iteration ({summary['samples_per_second']:,.0f} samples per second) "
        f"on {summary['device']}, {summary['threads']} CPU threads",
        soft_wrap=True,
    )
    for name in summary["pictures"]:
        console.print(str(folder / name), soft_wrap=True, markup=False)
