"""Run the iterations of a training: networks, optimizers, steps, the guard and the averaged copy."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NotRequired, TypedDict

import torch
from torch import Tensor, nn

from sivae.fields import table
from sivae.method.base import Distance, Metrics, StepOptions
from sivae.method.kl_average import ErrorAverage, KLAverage
from sivae.method.objectives import ENDLESS_EPOCH, GAUSSIAN
from sivae.method.target import TargetDecoder
from sivae.models import VAEModel
from sivae.models.priors import VampPrior
from sivae.settings.run import WARM_UP, RunConfig
from sivae.training.averaging import AveragedModel
from sivae.training.checkpoint import Checkpoint
from sivae.training.graph import GraphedCall
from sivae.training.guard import UpdateGuard
from sivae.training.initial import InitialWeights
from sivae.training.optimizers import load_state, make_optimizers, set_rate
from sivae.training.parallel import Processes
from sivae.training.seeds import derived_seed, global_seed
from sivae.training.tasks.base import Task

_GRAPHED_UP_TO = 64 * 64  # pixels of an image; for larger ones computing costs more than launching
_ROUNDING = 1e-9  # of a quotient of epochs


class _Optimizer(TypedDict):
    state: dict[int, dict[str, Tensor]]


class _State(TypedDict):
    optimizers: dict[str, _Optimizer]
    noise: Tensor
    guard: dict[str, Any]
    kl_average: NotRequired[dict[str, Any]]
    error_average: NotRequired[dict[str, Any]]
    target_decoder: NotRequired[dict[str, Tensor]]
    starts_prior: NotRequired[bool]


class Trainer:
    """The state of a training, and its iterations.

    Args:
        config: the run's settings, resolved.
        task: the run's task; it builds the model.
        device: device to train on.
        processes: the processes that share each batch.

    Raises:
        ConfigError: settings do not fit each other.
    """

    def __init__(self, config: RunConfig, task: Task, device: torch.device, processes: Processes) -> None:
        self.config = config
        self.device = device
        self.slowdown = 1.0  # factor of the learning rate after a divergence
        with global_seed(derived_seed(config.seed, "weights")):
            model = task.build_model()
        place(model.train(), config, device)
        if processes.count > 1 and model.mixes_samples:
            model.encoder = nn.SyncBatchNorm.convert_sync_batchnorm(model.encoder)
            model.decoder = nn.SyncBatchNorm.convert_sync_batchnorm(model.decoder)
        if config.checkpoint_activations:
            model.checkpoint_activations = True  # type: ignore[assignment] # the configuration allows only such models
        self.model = model
        half_life = config.ema_half_life
        self.averaged = None if half_life is None else AveragedModel(model, half_life)
        self.target = None if config.objective.target_every is None else TargetDecoder(model)
        self._processes = processes
        self._starts_prior = isinstance(model.prior, VampPrior)  # from the first batch
        self._task = task
        if config.compile:
            model.encoder.compile(dynamic=False)
            model.decoder.compile(dynamic=False)
            if self.target is not None:
                self.target.model.decoder.compile(dynamic=False)

        self.graphed = self._wants_graph(processes)
        rate = config.learning_rate
        self.optimizers = make_optimizers(
            model, torch.tensor(rate, device=device) if self.graphed else rate, capturable=self.graphed
        )
        self.guard = UpdateGuard(
            self.optimizers.values(), model.buffers(), reduce=processes.average if processes.count > 1 else None
        )
        self.generator = torch.Generator(device).manual_seed(derived_seed(config.seed, "noise"))
        self.kl_average = (
            KLAverage(processes.average if processes.count > 1 else None)
            if any(version.objective.follows_kl for _, version in config.versions)
            else None
        )
        self.error_average = (
            ErrorAverage(processes.average if processes.count > 1 else None)
            if config.objective.kind == GAUSSIAN
            else None
        )
        self._frozen: str | None = None
        self._options = StepOptions(
            autocast=torch.bfloat16 if config.precision == "bf16" else None,
            fresh_passes=config.decoder_passes == "fresh",
            rank=processes.rank,
            world_size=processes.count,
            data_size=task.data_size,
            augment=config.augment,
        )
        self._distance: Distance | None = None if task.distance is None else task.distance.to(device)
        self._steps: dict[_Kind, Callable[..., Metrics]] = {}
        self._graphs: dict[_Kind, GraphedCall] = {}

    def iterate(self, step: int, batch: Tensor, condition: Tensor | None) -> Metrics:
        """Run iteration `step`, counted from 1, on this process's rows of the batch, without waiting for the device."""
        for optimizer in self.optimizers.values():
            set_rate(optimizer, self.rate_at(step))
        if self._starts_prior:
            self._start_prior(batch, step)
        kind = self._kind_of(step)
        before = self._kind_of(step - 1) if step > 1 else kind
        at_step(self.model, self.config, step)
        if kind.frozen != self._frozen:
            self._freeze(kind.frozen)
        if self.target is not None:
            self.target.follow()
            if kind.phase != before.phase or self._copies_after(step - 1) > self._copies_after(step - 2):
                self.target.copy()
        if kind.lod != before.lod:
            for optimizer in self.optimizers.values():
                optimizer.state.clear()
        if kind.scale_of_loss != before.scale_of_loss:
            self.guard.start_over()
        if self.kl_average is not None and self._follows_kl(kind) and not self._follows_kl(before):
            self.kl_average.start_over()  # as a run that resumes here has it
        if kind != before:
            self._graphs.clear()
            self._steps.clear()
        if not self.graphed:
            return self._iteration(kind, batch, condition)
        if kind not in self._graphs:
            self._graphs[kind] = GraphedCall(lambda x, c: self._iteration(kind, x, c), generators=[self.generator])
        return self._graphs[kind](batch, condition)

    def _start_prior(self, batch: Tensor, step: int) -> None:
        """Make the first process's samples the pseudo-inputs of all processes; those of a batch may be fewer.

        Equal pseudo-inputs have equal gradients and would stay equal, so each batch replaces what the earlier ones
        did not fill.
        """
        assert isinstance(self.model.prior, VampPrior)
        first = (step - 1) * len(batch)
        if first >= len(self.model.prior.inputs):
            self._starts_prior = False
            return
        self.model.prior.start_from(batch, first)
        self._processes.copy_from_first([self.model.prior.inputs.data])
        if self.averaged is not None and self.averaged.model.prior is not None:
            self.averaged.model.prior.load_state_dict(self.model.prior.state_dict())

    def _kind_of(self, step: int) -> _Kind:
        stage, phase = self.config.stage_at(step), self.config.phase_at(step)
        frozen, version = self.config.frozen_at(step), self.config.version_at(step)
        if stage is None:
            return _Kind(phase, self.config.versions[version][1].batch_size, frozen, version)
        return _Kind(phase, stage.batch_size, frozen, version, stage.lod, stage.blend < 1.0, stage.beta_neg_factor)

    def _follows_kl(self, kind: _Kind) -> bool:
        return self.config.versions[kind.version][1].objective.follows_kl

    def _freeze(self, frozen: str | None) -> None:
        """Freeze one network, or none. In eval mode, batch norm is the same function for all batches."""
        for side in ("encoder", "decoder"):
            getattr(self.model, side).requires_grad_(side != frozen).train(side != frozen)
        self._frozen = frozen

    def _copies_after(self, steps: int) -> int:
        """Count the copies of the decoder that are due after `steps` iterations."""
        config, steps = self.config, max(0, steps)
        if config.growth.grows:
            assert self._task.data_size is not None
            epochs = config.samples_after(steps) / self._task.data_size
        else:
            passes = self._task.passes
            epochs = steps / ENDLESS_EPOCH if passes is None else passes.epochs_after(steps)
        assert config.objective.target_every is not None
        return math.floor(epochs / config.objective.target_every + _ROUNDING)

    def _iteration(self, kind: _Kind, batch: Tensor, condition: Tensor | None) -> Metrics:
        if kind not in self._steps:
            self._steps[kind] = self._make_step(kind)
        losses = self._steps[kind](batch, condition=condition)
        self.guard.watch(losses)
        if self.averaged is not None:
            self.averaged.update(kind.batch_size)
        return losses

    def _make_step(self, kind: _Kind) -> Callable[..., Metrics]:
        config = self.config.versions[kind.version][1]
        return config.objective.make_step(
            self.model,
            self.optimizers["encoder"],
            self.optimizers["decoder"],
            warm_up=kind.phase == WARM_UP,
            neg_factor=kind.beta_neg_factor,
            generator=self.generator,
            options=replace(self._options, accumulate=config.accumulate),
            apply=self.guard.apply,
            distance=self._distance,
            kl_average=self.kl_average if config.objective.follows_kl else None,
            error_average=self.error_average,
            target=self.target,
            prior_optimizer=self.optimizers.get("prior"),
        )

    def rate_at(self, step: int) -> float:
        """Return the learning rate in iteration `step`."""
        return self.config.learning_rate_at(step) * self.slowdown

    def for_evaluation(self) -> VAEModel:
        """Return the averaged copy if the run keeps one, else the model."""
        if self.averaged is None:
            return self.model
        self.averaged.take_buffers(self.model)
        self.averaged.model.follow(self.model)
        return self.averaged.model

    def start_from(self, initial: InitialWeights) -> str:
        """Take the weights of a trained model, as far as they fit. Returns a sentence about those that do not."""
        prior = copy.deepcopy(self.model.prior)
        words = initial.load_into(self.model, self.config.freeze)
        if isinstance(prior, VampPrior) and isinstance(self.model.prior, VampPrior):
            self._starts_prior = torch.equal(prior.inputs, self.model.prior.inputs)  # it was not among the weights
        if self.averaged is not None:
            self.averaged.model.load_state_dict(self.model.state_dict())
        if self.target is not None:
            self.target.copy()
        return words

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs in addition to the weights."""
        state: dict[str, Any] = {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "noise": self.generator.get_state(),
            "guard": self.guard.state(),
        }
        if self.kl_average is not None:
            state["kl_average"] = self.kl_average.state()
        if self.error_average is not None:
            state["error_average"] = self.error_average.state()
        if self.target is not None:
            state["target_decoder"] = self.target.state()
        if isinstance(self.model.prior, VampPrior):
            state["starts_prior"] = self._starts_prior
        return state

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the weights and the state of a checkpoint.

        Raises:
            CheckpointError: the checkpoint does not fit.
        """
        at_step(self.model, self.config, max(1, checkpoint.step))
        checkpoint.restore(self.model)
        self.model.take_carried(checkpoint.hyperparameters)
        if self.averaged is not None:
            checkpoint.restore_averaged(self.averaged.model)
        with checkpoint.fitting("resume with the version that wrote it"):
            state = table(checkpoint.state, _State)
            for name, optimizer in self.optimizers.items():
                load_state(optimizer, state["optimizers"][name]["state"])
            self.generator.set_state(state["noise"])
            self.guard.load_state(state["guard"], checkpoint.step)
            if self.kl_average is not None and self.config.at(max(1, checkpoint.step)).objective.follows_kl:
                self.kl_average.load_state(state["kl_average"])
            if self.error_average is not None:
                self.error_average.load_state(state["error_average"])
            if self.target is not None:
                self.target.load_state(state["target_decoder"])
            self._starts_prior = state.get("starts_prior", self._starts_prior)
        self._graphs.clear()  # the optimizers' state is in other memory now

    def _wants_graph(self, processes: Processes) -> bool:
        choice = self.config.cuda_graph
        if choice == "off" or self.device.type != "cuda":
            return False
        shape = self.model.sample_shape
        small = len(shape) < 3 or shape[1] * shape[2] <= _GRAPHED_UP_TO
        return choice == "on" or (small and processes.count == 1 and not self.config.compile)


@dataclass(frozen=True)
class _Kind:
    """The values that select a step. Iterations with equal values share one step, or one captured graph."""

    phase: str
    batch_size: int
    frozen: str | None
    version: int
    lod: int | None = None
    blending: bool = False
    beta_neg_factor: float = 1.0

    @property
    def scale_of_loss(self) -> tuple[object, ...]:
        """What the usual size of a gradient depends on."""
        return self.phase, self.lod, self.frozen, self.version


def at_step(model: VAEModel, config: RunConfig, step: int) -> None:
    """Set a growing model to the stage of iteration `step`, counted from 1."""
    stage = config.stage_at(step)
    if stage is not None:
        model.grow(stage.lod, stage.blend)


def place(model: VAEModel, config: RunConfig, device: torch.device) -> None:
    """Move a model to a device, its weights in the memory format of the run's images."""
    model.to(device)
    if config.memory_format == "channels-last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
