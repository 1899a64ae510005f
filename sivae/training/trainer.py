"""What a run trains, and one iteration of it: networks, optimisers, steps, the guard and the averaged copy."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from sivae import ops
from sivae.models import ConvVAE, VAEModel
from sivae.models.norm import switches_seen_by_compiler
from sivae.objectives import IntroObjective, SoftIntroObjective, VAEObjective
from sivae.training.averaging import AveragedModel
from sivae.training.checkpoint import STATE, Checkpoint
from sivae.training.config import RunConfig
from sivae.training.errors import CheckpointError, ConfigError
from sivae.training.graph import GraphedCall
from sivae.training.guard import UpdateGuard
from sivae.training.parallel import Processes
from sivae.training.seeds import derived_seed, global_seed
from sivae.training.step import IntroStep, Metrics, SoftIntroStep, StepOptions, VAEStep

_GRAPHED_UP_TO = 64 * 64  # pixels of an image, up to which launching costs more than computing


class Trainer:
    """The state of a training.

    Args:
        config: the run's, resolved.
        build: makes the model on the CPU from the global generator.
        device: where to train.
        processes: which share the batch.

    Raises:
        ConfigError: the settings do not go together, here.
    """

    def __init__(
        self, config: RunConfig, build: Callable[[], VAEModel], device: torch.device, processes: Processes
    ) -> None:
        self.config = config
        self.device = device
        self.slowdown = 1.0  # what a divergence leaves of the schedule's rate
        with global_seed(derived_seed(config.seed, "weights")):
            model = build()
        place(model.train(), config, device)
        if processes.count > 1 and model.mixes_samples:
            if device.type != "cuda":
                raise ConfigError(
                    "norm = 'batch': several processes share its statistics only on GPUs; choose --norm group or none"
                )
            model.encoder = nn.SyncBatchNorm.convert_sync_batchnorm(model.encoder)
            model.decoder = nn.SyncBatchNorm.convert_sync_batchnorm(model.decoder)
        if config.checkpoint_activations:
            assert isinstance(model, ConvVAE)  # the configuration allows no other
            model.checkpoint_activations = True
        self.model = model
        half_life = config.ema_half_life
        self.averaged = None if half_life is None else AveragedModel(model, half_life, config.batch_size)
        if config.compile:
            model.encoder.compile(dynamic=False)
            model.decoder.compile(dynamic=False)

        self.graphed = self._wants_graph(processes)
        self.optimizers = {name: self._adam(getattr(model, name)) for name in ("encoder", "decoder")}
        self.guard = UpdateGuard(
            self.optimizers.values(), model.buffers(), reduce=processes.average if processes.count > 1 else None
        )
        self.generator = torch.Generator(device).manual_seed(derived_seed(config.seed, "noise"))
        options = StepOptions(
            accumulate=config.accumulate,
            autocast=torch.bfloat16 if config.precision == "bf16" else None,
            rank=processes.rank,
            world_size=processes.count,
        )
        shared: dict[str, Any] = {"generator": self.generator, "options": options, "apply": self.guard.apply}
        pair = (model, self.optimizers["encoder"], self.optimizers["decoder"])
        objective = config.objective.build()
        warm_up = VAEObjective(beta_rec=objective.beta_rec, beta_kl=objective.beta_kl, kind=objective.kind)
        self._steps: dict[str, Callable[..., Metrics]] = {"warm-up": VAEStep(*pair, warm_up, **shared)}
        if isinstance(objective, SoftIntroObjective):
            self._steps["soft-intro"] = SoftIntroStep(*pair, objective, **shared)
        elif isinstance(objective, IntroObjective):
            self._steps["intro"] = IntroStep(*pair, objective, **shared)
        else:
            self._steps["vae"] = self._steps["warm-up"]
        self._graphs: dict[str, GraphedCall] = {}

    def iterate(self, step: int, batch: Tensor, condition: Tensor | None) -> Metrics:
        """Iteration `step`, counted from 1, on this process's share of the batch. Does not wait for the device."""
        rate = self.rate_at(step)
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate
        phase = self.config.phase_at(step)
        if step > 1 and phase != self.config.phase_at(step - 1):
            self.guard.start_over()
            self._graphs.clear()
        if not self.graphed:
            return self._iteration(phase, batch, condition)
        if phase not in self._graphs:
            self._graphs[phase] = GraphedCall(lambda x, c: self._iteration(phase, x, c), generators=[self.generator])
        return self._graphs[phase](batch, condition)

    def _iteration(self, phase: str, batch: Tensor, condition: Tensor | None) -> Metrics:
        losses = self._steps[phase](batch, condition=condition)
        self.guard.watch(losses)
        if self.averaged is not None:
            self.averaged.update()
        return losses

    def rate_at(self, step: int) -> float:
        """Adam's rate in iteration `step`."""
        return self.config.learning_rate_at(step) * self.slowdown

    def for_evaluation(self) -> VAEModel:
        """The averaged copy where there is one, else the model."""
        if self.averaged is None:
            return self.model
        self.averaged.take_buffers(self.model)
        return self.averaged.model

    def state(self) -> dict[str, Any]:
        """What a resumed run needs beside the weights."""
        return {
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers.items()},
            "noise": self.generator.get_state(),
            "guard": self.guard.state(),
        }

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take over the weights and the state of a checkpoint.

        Raises:
            CheckpointError: it does not fit.
        """
        checkpoint.restore(self.model)
        if self.averaged is not None:
            checkpoint.restore_averaged(self.averaged.model)
        try:
            for name, optimizer in self.optimizers.items():
                rates = [group["lr"] for group in optimizer.param_groups]
                optimizer.load_state_dict(checkpoint.state["optimizers"][name])
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate  # set anew in each iteration, in the place where a captured graph looks for it
            self.generator.set_state(checkpoint.state["noise"])
            self.guard.load_state(checkpoint.state["guard"], checkpoint.step)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"{checkpoint.path / STATE} does not fit this run or this version of sivae ({error}); "
                "resume with the version that wrote it"
            ) from None
        self._graphs.clear()  # the optimisers' state lies elsewhere now

    def _wants_graph(self, processes: Processes) -> bool:
        choice = self.config.cuda_graph
        if choice == "off" or self.device.type != "cuda":
            return False
        shape = self.model.sample_shape
        small = len(shape) < 3 or shape[1] * shape[2] <= _GRAPHED_UP_TO
        return choice == "on" or (small and processes.count == 1 and not self.config.compile)

    def _adam(self, network: nn.Module) -> torch.optim.Optimizer:
        rate: float | Tensor = self.config.learning_rate
        if self.graphed:
            rate = torch.tensor(rate, device=self.device)
        try:
            return torch.optim.Adam(network.parameters(), lr=rate, fused=True, capturable=self.graphed)
        except RuntimeError:  # not every device has the fused kernel
            return torch.optim.Adam(network.parameters(), lr=rate)


def place(model: VAEModel, config: RunConfig, device: torch.device) -> None:
    """Bring a model to a device, its weights in the order that the run's images have in memory."""
    model.to(device)
    if config.memory_format == "channels-last":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@contextlib.contextmanager
def settings_of(config: RunConfig) -> Iterator[None]:
    """The run's threads, ops backend and precision inside, the caller's afterwards."""
    threads = torch.get_num_threads()
    rounded = config.precision != "fp32"
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark
    assert config.ops is not None
    with contextlib.ExitStack() as stack:
        stack.enter_context(ops.use_backend(config.ops))
        if config.compile:
            # The step goes through some graphs twice, which compiled ones allow only without donated buffers.
            from torch._functorch import config as functorch

            stack.enter_context(functorch.patch(donated_buffer=False))
            stack.enter_context(switches_seen_by_compiler())
        torch.set_num_threads(config.threads or threads)
        products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark = rounded, rounded, True
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            products.allow_tf32, convolutions.allow_tf32, convolutions.benchmark = before
