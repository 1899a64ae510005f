"""`sivae train`: train a preset, or resume a run. Its options are the settings of the preset."""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, Literal

from sivae.cli.parsing import Parser, number, switch, whole
from sivae.cli.printing import notice
from sivae.errors import ConfigError
from sivae.fields import about, alternatives, types_of
from sivae.objectives import OBJECTIVES
from sivae.settings.data import absolute
from sivae.settings.growth import GROWTH_KINDS
from sivae.settings.models import Samples
from sivae.settings.presets import DEFAULT_OBJECTIVE, PRESETS, preset_config
from sivae.settings.run import (
    PARTS,
    Placed,
    RunConfig,
    changeable_keys,
    check_one_length,
    every_setting,
    placed_settings,
    resumable_keys,
)
from sivae.training.callbacks import Callback
from sivae.training.loggers import LOGGERS, make_loggers
from sivae.words import plural

_GROUPS = {
    "run": "training",
    "data": "data",
    "model": "networks",
    "objective": "objective",
    "growth": "growth",
}
_NO_LOGGER = "none"
_FILES = ("path", "perceptual", "lpips", "init_from")  # made absolute, since a resumed run may start in another folder
_EXAMPLES = [
    "sivae train digits",
    "sivae train cifar10 --data cifar-10-python.tar.gz --epochs 20",
    "sivae train celebahq256-conv --data faces256 --precision bf16 --norm group",
    "torchrun --nproc-per-node 4 -m sivae train ffhq256-conv --data ffhq256 --batch-size 32",
    "sivae train style32 --data faces.zip",
    "sivae train style32 --data faces.zip --dry-run",
    "sivae train rings --steps 3000 --seed 7 --out runs/short",
    "sivae train checkerboard --beta-neg 0.4 --semantics paper --fakes prior",
    "sivae train 8gaussians --objective intro --margin 5",
    "sivae train points-shapes --data shapes:chair",
    "sivae train points-chair --data shape_net_core_uniform_samples_2048.zip",
    "sivae train --resume runs/short",
    "sivae train --resume runs/short --steps 6000 --beta-neg 0.6 --learning-rate 1e-4",
]

STOP_REMEDY = "continue a training run with sivae train --resume DIR"
MEMORY_REMEDY = (
    "take a smaller --batch-size, or compute each batch in parts (--accumulate 2, 4 ...); image models also take less "
    "with --checkpoint-activations on"
)


def parse(words: Sequence[str]) -> argparse.Namespace:
    """The arguments of the verb. Those that are not given are None.

    Raises:
        UsageError: the words cannot be understood.
        SystemExit: help was asked for, and printed.
    """
    parser = _parser(every_setting())
    given = parser.parse(_preset_first(parser, [word for word in words if word not in ("-h", "--help")]))
    if not {"-h", "--help"} & set(words):
        return given
    print(help_of(given.preset, given.objective, given.growth, _changes(given)), end="")
    sys.exit(0)


def _preset_first(parser: Parser, words: Sequence[str]) -> list[str]:
    """Move a preset's name to the front where it ends the values of an option that takes a list."""
    lists = {option for action in parser.actions() if action.nargs == "*" for option in action.option_strings}
    in_list = False
    for index, word in enumerate(words):
        if word.startswith("--"):
            in_list = word in lists
        elif in_list and word in PRESETS:
            return [word, *words[:index], *words[index + 1 :]]
    return list(words)


def options(parser: Parser) -> None:
    """Add every option that a preset can have."""
    _add_options(parser, every_setting(), None)


def help_of(
    preset: str | None,
    objective: str | None = None,
    growth: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> str:
    """The help of a preset: the options that have an effect there, with their values. None: what all presets have.

    `changes` are settings that were given before `--help`; they decide which others have an effect.
    """
    if preset is None:
        parser = _parser(placed for placed in every_setting() if placed.part == "run")
        lines = "\n".join(f"  {name:<20}{row.summary}" for name, row in PRESETS.items())
        parser.describe(
            "Train a Soft-IntroVAE, an IntroVAE or a VAE on images, on point clouds, or on points in the plane.\n\n"
            "The run's folder gets config.json, metrics.jsonl, TensorBoard events, pictures, checkpoints and "
            "summary.json. Ctrl-C finishes the iteration and writes a checkpoint.\n\n"
            "sivae train PRESET --help lists all options of a preset, with its values.\n\n"
            f"presets:\n{lines}",
            _EXAMPLES,
        )
        return parser.format_help()
    base = preset_config(preset, objective=objective or DEFAULT_OBJECTIVE, growth=growth)
    config = base
    with contextlib.suppress(ConfigError):  # help is what was asked for
        config = base.replace(**(changes or {}))
    parser = _parser(placed_settings(config), config)
    row = PRESETS[preset]
    notes = f" Note: {row.note}." if row.note else ""
    path = " --data PATH" if "path" in config.data.key_names() else ""
    parser.describe(
        f"Train the preset {preset}: {row.summary} (settings: {row.source}), objective {config.objective.name}.{notes}"
        "\n\nOnly options that have an effect here are listed; what is given beside --help changes the list.",
        [example for example in _EXAMPLES if f" {preset} " in f"{example} "] or [f"sivae train {preset}{path}"],
    )
    return parser.format_help()


def run(given: argparse.Namespace) -> None:
    """Train, and print the figures and the pictures' files."""
    from sivae.training.process_settings import keep_freed_memory

    changes = _changes(given)
    callbacks = _callbacks(given)
    keep_freed_memory()
    if given.resume is not None:
        summary = _resume(given, changes, callbacks)
    elif given.preset is None:
        raise ConfigError(f"name a preset ({', '.join(PRESETS)}), or a run to resume by --resume DIR")
    else:
        config = preset_config(
            given.preset, objective=given.objective or DEFAULT_OBJECTIVE, growth=given.growth, **changes
        )
        _check_effects(config, changes)
        config.data.check_is_named(config.preset)
        if given.dry_run:
            _dry_run(config, progress=not given.quiet)
            return
        from sivae.training.run import train

        summary = train(config, given.out, progress=not given.quiet, callbacks=callbacks)
    if _is_first_process():
        _print_summary(summary)


def _changes(given: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given."""
    changes = {}
    for placed in every_setting():
        key = placed.field.name
        value = getattr(given, key, None) if placed.option else None
        if value is not None:
            if key in _FILES and not value:
                raise ConfigError(f"--{placed.option} is empty; name a file or a folder, or leave it out")
            if key in _FILES:
                value = absolute(value, _samples(given)) if key == "path" else str(Path(value).absolute())
            changes[key] = value
    return changes


def _samples(given: argparse.Namespace) -> Samples:
    """What the preset, or the run to resume, trains on."""
    if given.preset in PRESETS:
        return PRESETS[given.preset].config.data.SAMPLES
    from sivae.training.folder import run_of

    run = None if given.resume is None else run_of(given.resume)
    return "images" if run is None else run.data.SAMPLES


def _parser(settings: typing.Iterable[Placed], config: RunConfig | None = None) -> Parser:
    parser = Parser("sivae train")
    _add_options(parser, settings, config)
    return parser


def _add_options(parser: Parser, settings: typing.Iterable[Placed], config: RunConfig | None) -> None:
    parser.add_argument("preset", nargs="?", metavar="PRESET", help="What to train; sivae presets lists all.")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="The run's folder; it must be new or empty. (default: runs/PRESET-seedN, or ...-2, ...-3)",
    )
    may_change, changeable = (
        ", ".join(f"--{placed.option}" for placed in every_setting() if placed.field.name in keys)
        for keys in (resumable_keys(), changeable_keys())
    )
    parser.add_argument(
        "--resume",
        type=Path,
        metavar="DIR",
        help="Continue the run in this folder from its last whole checkpoint, exactly as if it had not stopped. The "
        f"run's own settings apply; only {may_change}, --log, --quiet, more --steps, or --epochs, and, for the "
        f"iterations to come, other values of {changeable} can be given too.",
    )
    parser.add_argument("--quiet", action="store_true", help="Show no progress.")
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="Train some iterations of each phase, and no run: print the parameters, and the memory, the time to the "
        "end and the disk space that the run will take.",
    )
    parser.add_argument(
        "--log",
        type=_logger,
        nargs="*",
        metavar="{" + ",".join((*LOGGERS, _NO_LOGGER)) + "}",
        help="Where losses and pictures are logged besides the run's folder, one or more. wandb and mlflow log to this "
        "machine only, unless WANDB_MODE or MLFLOW_TRACKING_URI is set. A resumed run logs as this option says, "
        "whatever it was before. (default: tensorboard)",
    )
    groups = {label: parser.add_argument_group(title) for label, title in _GROUPS.items()}
    groups["objective"].add_argument(
        "--objective",
        metavar="{" + ",".join(_fitting(config)) + "}",
        help=f"The loss to minimise. (default: {DEFAULT_OBJECTIVE})",
    )
    if config is None or config.model.GROWS:
        default = "" if config is None else f" (default: {config.growth.name})"
        groups["growth"].add_argument(
            "--growth",
            metavar="{" + ",".join(GROWTH_KINDS) + "}",
            help=f"Grow with the images from 4x4 on, or train at the full resolution from the start.{default}",
        )
    for placed in settings:
        if placed.option:
            _add_setting(groups[placed.part], placed, config)


def _fitting(config: RunConfig | None) -> list[str]:
    """The names of the objectives that fit a run."""
    names = []
    for name in OBJECTIVES:
        with contextlib.suppress(ConfigError):
            if config is not None:
                preset_config(config.preset, objective=name)
            names.append(name)
    return names


def _add_setting(group: Any, placed: Placed, config: RunConfig | None) -> None:
    """Add a setting as an option, whose type follows from the field's."""
    known = about(placed.field)
    kind, metavar = _word_type(_type_of(placed))
    several = typing.get_origin(alternatives(_type_of(placed))[0]) is tuple
    if placed.field.name == "kind" and config is not None:
        metavar = "{" + ",".join(config.objective.kinds_for(config)) + "}"
    default = "" if placed.value is MISSING else f" (default: {_shown(placed)})"
    group.add_argument(
        f"--{placed.option}",
        dest=placed.field.name,
        type=kind,
        nargs="*" if several else None,
        metavar=known.metavar or metavar,
        help=f"{known.help}{default}",
    )


def _logger(word: str) -> str:
    """The name of a logger, or "none"."""
    if word not in (*LOGGERS, _NO_LOGGER):
        raise argparse.ArgumentTypeError(f"{word!r} is no logger; expected some of {', '.join(LOGGERS)}, or none")
    return word


def _callbacks(given: argparse.Namespace) -> list[Callback] | None:
    """The loggers that were asked for; None: the default."""
    names: list[str] | None = given.log
    if names is None:
        return None
    if not names:
        raise ConfigError(f"--log is empty; name some of {', '.join(LOGGERS)}, or none")
    if _NO_LOGGER in names and len(names) > 1:
        raise ConfigError(f"--log {' '.join(names)}: none goes with no other; leave it out, or the others")
    return make_loggers([name for name in dict.fromkeys(names) if name != _NO_LOGGER])


def _type_of(placed: Placed) -> Any:
    owners = (RunConfig,) if placed.part == "run" else PARTS[placed.part].values()
    owner = next(kind for kind in owners if placed.field.name in types_of(kind))
    return types_of(owner)[placed.field.name]


def _word_type(hint: Any) -> tuple[Callable[[str], Any], str]:
    """The function that reads a word, and what stands for a value in the help."""
    hint, *others = alternatives(hint)
    if others:
        (read, metavar), names = _word_type(hint), typing.get_args(others[0])

        def word_or_value(word: str) -> Any:
            try:
                return word if word in names else read(word)
            except argparse.ArgumentTypeError as error:
                raise argparse.ArgumentTypeError(f"{error}, and not {' or '.join(names)}") from None

        return word_or_value, "|".join([metavar, *names])
    if typing.get_origin(hint) is tuple:
        return _word_type(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Literal:
        names = typing.get_args(hint)
        return (whole if isinstance(names[0], int) else str), "{" + ",".join(map(str, names)) + "}"
    return {bool: (switch, "{on,off}"), int: (whole, "N"), float: (number, "X")}.get(hint, (str, "NAME"))


def _shown(placed: Placed) -> str:
    value = placed.value
    if value is None:
        return about(placed.field).unset or "none"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(_number, value)) or "none"
    return _number(value)


def _number(value: Any) -> str:
    """A value exactly as it can be given again: 2048, 0.0015, 1e-08."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else str(value)


def _check_effects(config: RunConfig, changes: dict[str, Any]) -> None:
    """Refuse settings that were given and have no effect."""
    for placed in placed_settings(config, effective=False):
        need = about(placed.field).need
        if placed.field.name in changes and need is not None and not need.holds(config):
            raise ConfigError(f"{placed.field.name}: {need.why_not.format(config=config)}; leave it out")


def _dry_run(config: RunConfig, *, progress: bool) -> None:
    from sivae.cli.printing import print_dry_run
    from sivae.training.dry_run import dry_run

    result = dry_run(config, progress=progress)
    if _is_first_process():
        print_dry_run(result)


def _is_first_process() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _resume(given: argparse.Namespace, changes: dict[str, Any], callbacks: list[Callback] | None) -> dict[str, Any]:
    from sivae.training.folder import read_config
    from sivae.training.run import train

    others = {
        "a preset": given.preset,
        "--out": given.out,
        "--objective": given.objective,
        "--growth": given.growth,
        "--dry-run": given.dry_run or None,
    }
    names = {placed.field.name: f"--{placed.option}" for placed in every_setting()}
    refused = [name for name, value in others.items() if value is not None]
    allowed = (*resumable_keys(), *changeable_keys(), "steps", "epochs")
    refused += [names[key] for key in changes if key not in allowed]
    if refused:
        raise ConfigError(
            f"{refused[0]} does not go with --resume, as the run's own settings apply; leave it out, or start a new "
            "run without --resume (--init-from RUN takes a run's weights)"
        )
    config = None
    if changes:
        stored = read_config(given.resume)
        check_one_length(changes, grows=stored.growth.grows)
        config = stored.replace(**changes)
        _check_effects(config, changes)
    return train(config, given.resume, resume=True, progress=not given.quiet, callbacks=callbacks)


def _print_summary(summary: dict[str, Any]) -> None:
    from rich.console import Console

    from sivae.cli.printing import print_metrics
    from sivae.training.folder import read_config

    metrics = {key: summary[key] for key in summary["metrics"]}
    on = f", on {summary['measured_on']}" if "measured_on" in summary else ""
    print_metrics(f"{summary['preset']}, seed {summary['seed']}, {plural(summary['steps'], 'step')}{on}", metrics)
    console, folder = Console(highlight=False), Path(summary["run"])
    console.print(
        f"{summary['ms_per_iteration']:.2f} ms per iteration ({summary['samples_per_second']:,.0f} samples per second) "
        f"on {summary['device']}, {plural(summary['threads'], 'CPU thread')}",
        soft_wrap=True,
    )
    for name in summary["pictures"]:
        console.print(str(folder / name), soft_wrap=True, markup=False)
    generates = read_config(folder).data.SAMPLES != "points"
    then = "sivae sample {0}, or sivae interpolate {0} --seeds 1 2" if generates else "sivae evaluate {0} --seed 1"
    notice(f"next: {then.format(shlex.quote(str(folder)))}")
