"""Complete a run's settings by what the machine, its folder and its data decide."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from sivae import ops
from sivae.errors import ConfigError
from sivae.fields import about, plain, show
from sivae.machine import find_device, multiplies_bfloat16
from sivae.settings.growth import SMALLEST, Growing
from sivae.settings.run import (
    OF_LENGTH,
    Precision,
    RunConfig,
    changeable_keys,
    found_keys,
    placed_settings,
    resumable_keys,
)
from sivae.training.folder import read_config
from sivae.training.tasks.base import Task


def resolve(config: RunConfig) -> RunConfig:
    """Fill in device, ops, precision and threads, and make the path `init_from` absolute.

    Settings that depend on the data stay open.

    Raises:
        ConfigError: the device or the backend is missing, or a setting needs another device.
    """
    device = find_device(config.device)
    if config.cuda_graph == "on" and device.type != "cuda":
        raise ConfigError(f"cuda_graph = 'on': CUDA graphs need a GPU, and the device is {device}; leave it out")
    status = ops.backend_status()
    if config.ops is not None and config.ops not in status:
        raise ConfigError(f"ops = {config.ops!r}: expected one of {', '.join(status)}")
    available = ops.available_backends(device)
    if config.ops is not None and config.ops not in available:
        reason = status[config.ops].get(device.type) or f"it has no kernels for {device}"
        raise ConfigError(f"ops = {config.ops!r} is not available: {reason}; or choose one of {', '.join(available)}")
    return config.replace(
        init_from=None if config.init_from is None else os.path.abspath(config.init_from),
        device=str(device),
        ops=config.ops or available[0],
        precision=_precision_on(device, config) if config.precision == "auto" else config.precision,
        threads=config.threads or config.model.THREADS or torch.get_num_threads(),
    )


def _precision_on(device: torch.device, config: RunConfig) -> Precision:
    """What the precision "auto" stands for."""
    # The small networks of points wait for launches on a GPU, and casts are more of them.
    pays = config.data.SAMPLES != "points" or device.type == "cpu"
    return "bf16" if pays and multiplies_bfloat16(device) else "fp32"


def resumed(changed: RunConfig | None, folder: Path) -> RunConfig:
    """Complete the settings of a run that is resumed.

    Args:
        changed: the run's settings with changes; None: as they are in its folder. A value that the run had before a
            change that `changed` does not list is no change.
        folder: the run's.

    Raises:
        ConfigError: a setting was changed that a resumed run must keep, or as :func:`resolve` says.
    """
    stored = read_config(folder)
    if changed is None:
        return resolve(stored)
    precision = stored.precision if changed.precision == "auto" else changed.precision
    config = resolve(changed.replace(threads=changed.threads or stored.threads, precision=precision))
    mine, theirs = _values(config), _values(stored)
    growth = config.growth.completed_by(stored.growth)
    mine |= {key: getattr(growth, key) for key in growth.key_names()}
    if growth.grows:
        mine["batch_size"] = stored.batch_size
    longer = asks_for_longer(config, stored)
    if longer:
        stored.check_longer(config.steps, config.epochs)
    before = _before_changes(config, stored)
    theirs |= {key: value for key, value in before.items() if key not in changeable_keys()}
    asked = {
        key
        for key in changeable_keys()
        if key in mine and plain(mine[key]) not in (plain(theirs.get(key)), before.get(key, plain(theirs.get(key))))
    }
    for key in (*theirs, *(key for key in mine if key not in theirs)):
        left_open = key in found_keys() and mine.get(key) is None
        allowed = left_open or key in (*resumable_keys(), *changeable_keys()) or (longer and key in ("steps", "epochs"))
        if plain(mine.get(key)) != plain(theirs.get(key)) and not allowed:
            raise ConfigError(
                f"{key} = {show(plain(mine.get(key)))}: it cannot change in a resumed run, which has "
                f"{show(plain(theirs.get(key)))}; leave it out, or start a new run, with --init-from if it should have "
                "this run's weights"
            )
    for placed in placed_settings(config, effective=False):
        need = about(placed.field).need
        if placed.field.name in asked and need is not None and not need.holds(config):
            raise ConfigError(f"{placed.field.name}: {need.why_not.format(config=config)}; leave it out")
    found = {"batch_size": stored.batch_size, "growth": stored.growth} if stored.growth.grows else {}
    kept = {key: getattr(stored, key) for key in (*OF_LENGTH, "changes", "sample_every")}
    kept |= {key: stored.value(key) for key in changeable_keys() if key in theirs and key not in asked}
    if longer:
        kept |= {"steps": config.steps, "epochs": config.epochs}
    return config.replace(**{**kept, **found})


def asks_for_longer(config: RunConfig, stored: RunConfig) -> bool:
    """Tell whether settings for a resumed run have another length than the run, in iterations or in epochs."""
    if config.steps is not None:
        return config.steps != stored.steps
    return config.epochs != stored.epochs


def changed_keys(config: RunConfig, stored: RunConfig) -> list[str]:
    """Return the settings that a resumed run changes for the iterations to come."""
    return [key for key in changeable_keys() if stored.has(key) and config.value(key) != stored.value(key)]


def _before_changes(config: RunConfig, stored: RunConfig) -> dict[str, Any]:
    """Return what the run had, by key, before the changes that `config` does not list; empty if it lists others."""
    known = len(config.changes)
    if config.changes != stored.changes[:known]:
        return {}
    before = {one["key"]: one["before"] for one in reversed(stored.changes[known:])}
    return {
        **{key: value for key, value in before.items() if key not in ("steps", "epochs")},
        "changes": config.changes,
    }


def _values(config: RunConfig) -> dict[str, Any]:
    """Collect all settings by their keys, and the kinds of the parts by their labels."""
    values = {placed.field.name: placed.value for placed in placed_settings(config, effective=False)}
    return {"preset": config.preset, **{label: part.name for label, part in config.parts.items()}, **values}


def with_steps(task: Task) -> RunConfig:
    """Complete the settings by the number of iterations, and by the number of iterations between pictures."""
    config = task.config
    steps = config.growth.total_steps if isinstance(config.growth, Growing) else config.steps
    if steps is None:
        assert config.epochs is not None
        assert task.passes is not None  # endless data has no epochs
        steps = max(1, task.passes.steps_of(config.epochs))
    return config.replace(steps=steps, epochs=config.epochs, sample_every=sample_every(config, steps))


def sample_every(config: RunConfig, steps: int) -> int:
    """Iterations between two pictures of samples."""
    return config.sample_every or max(1, steps // 10)


def growth_notice(config: RunConfig) -> str:
    """Describe that a growing run ends before its last stage; empty for other runs."""
    growth = config.growth
    if not isinstance(growth, Growing) or growth.stage_steps is None:
        return ""
    stage, sides = growth.stage_at(config.total_steps), [SMALLEST << lod for lod in range(len(growth.stage_steps))]
    if stage.last:
        return ""
    return (
        f"the run ends at {stage.side}x{stage.side}: {config.epochs:g} epochs with {growth.epochs_per_stage:g} at each "
        f"resolution do not reach {sides[-1]}x{sides[-1]}; give more epochs, or fewer to each"
    )


def freeze_notice(config: RunConfig) -> str:
    """Describe that a network is frozen with its first, random weights; empty for other runs."""
    if config.freeze is None or config.init_from is not None:
        return ""
    return f"the {config.freeze} keeps random weights while it is frozen; --init-from names trained ones"


def prior_notice(config: RunConfig) -> str:
    """Describe that pseudo-inputs train badly in an introspective objective, and what to do; empty for other runs."""
    if config.model.prior != "vamp" or not config.objective.SHARES_PASSES:
        return ""
    return (
        f"the prior vamp trains badly with the objective {config.objective.name} (docs/priors.md): train it by "
        "--objective vae, then a mixture that starts from that run, by --prior mixture --prior-components "
        f"{config.model.prior_components} --init-from RUN"
    )


def changes_notice(config: RunConfig, after: int) -> str:
    """Describe what a resumed run changes after `after` iterations; empty if nothing."""
    changes = []
    for one in config.changes:
        if one["after"] == after and one["key"] in changeable_keys():
            words = f"{one['key']} {show(one['now'])} instead of {show(one['before'])}"
            rate = config.learning_rate_at(after + 1)
            if one["key"] == "learning_rate" and rate != one["now"]:
                words += f" (by the schedule it is {rate:.4g} now)"
            changes.append(words)
    return f"from step {after + 1:,} on: {', '.join(changes)}" if changes else ""


def threads_notice(config: RunConfig) -> str:
    """Describe that a run on the CPU uses fewer threads than torch would; empty for other runs."""
    assert config.threads is not None
    usual = torch.get_num_threads()
    if config.device != "cpu" or config.threads >= usual:
        return ""
    return f"CPU threads: {config.threads} of {usual}; --threads chooses another number for a new run"
