"""Train a run from start to finish, or resume one that stopped."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import torch

from sivae import fields, files
from sivae.errors import CheckpointError, ConfigError, DivergenceError, RunFolderError, RunInterrupted
from sivae.fields import AT_LEAST_1, Range, converted, table
from sivae.machine import device_name, versions
from sivae.progress import Progress
from sivae.settings.run import WARM_UP, RunConfig
from sivae.training.callbacks import Callback, Callbacks, RunInfo
from sivae.training.checkpoint import Checkpoint, list_checkpoints, load_latest, save_checkpoint, set_aside_after
from sivae.training.clock import Clock
from sivae.training.diagnosis import Saturation, WeakPush, diagnose
from sivae.training.folder import (
    CHECKPOINTS,
    CONFIG,
    ROLLBACK,
    SAMPLES,
    SUMMARY,
    new_folder,
    read_config,
    read_rollback,
    read_summary,
    way_back,
)
from sivae.training.guard import Trouble
from sivae.training.initial import InitialWeights
from sivae.training.interruption import StopSignals
from sivae.training.loggers import default_loggers
from sivae.training.parallel import Processes, claim_gpu, joined
from sivae.training.recorder import Recorder, checked_record, read_records
from sivae.training.resolved_settings import (
    asks_for_longer,
    changed_keys,
    changes_notice,
    freeze_notice,
    growth_notice,
    prior_notice,
    resolve,
    resumed,
    sample_every,
    threads_notice,
    with_steps,
)
from sivae.training.restart import launch_record, record_launch, started_before
from sivae.training.run_metrics import for_json
from sivae.training.tasks.base import Task, task_to_train
from sivae.training.trainer import Trainer

# The keys of a record that are not losses.
_BESIDE_LOSSES = ("step", "phase", "seconds", "learning_rate", "resolution", "blend", "images")

# The losses on the progress display, with their labels.
_SHOWN = {"rec": "rec", "kl_real": "kl real", "kl_fake": "kl fake", "exp_elbo_fake": "exp-ELBO"}

_STOPPING = "finishing the iteration, then writing a checkpoint; Ctrl-C stops at once"

_SHORTEST = 1e-6  # seconds; a divisor

ROLLBACK_RATE = 0.5  # factor of the learning rate after a divergence


def train(
    config: RunConfig | None = None,
    out: str | os.PathLike[str] | None = None,
    *,
    data: Any = None,
    resume: bool = False,
    progress: bool = True,
    callbacks: Sequence[Callback] | None = None,
) -> dict[str, Any]:
    """Train from a configuration, or resume a run that stopped.

    A run can be stopped at any instant. On the same machine and versions, a resumed run ends with the same weights (bit
    for bit on a CPU) and the same records in `metrics.jsonl`, except times, as a run without a stop. SIGINT and SIGTERM
    finish the iteration and write a checkpoint (when called from the main thread). If `torchrun` started several
    processes, they share each batch, and the first process writes; if it starts them again after a failure
    (`--max-restarts`), the new ones go on with the run.

    Args:
        config: the settings; with `resume` None, or the run's own settings with changes that
            :func:`sivae.settings.run.resumable_keys` or :func:`sivae.settings.run.changeable_keys` allows, or with more
            steps or epochs, see :meth:`sivae.settings.run.RunConfig.for_longer`.
        out: the run's folder; None: `runs/PRESET-seedN`, with `-2`, `-3` … if that name is taken.
        data: a map-style dataset of images, instead of the configuration's path: any object with `len(data)` and
            `data[index]`, whose items are images with or without labels, see
            :func:`sivae.data.images.loading.dataset.read_dataset`; or a dict of two such, "train" and "test". All
            items are read into memory once. A resumed run needs the same dataset again.
        resume: continue the run in `out` from its last whole checkpoint.
        progress: show a bar (on a terminal) or lines (elsewhere) on stderr.
        callbacks: objects that watch the run, see :class:`sivae.training.callbacks.Callback`, loggers of
            :func:`sivae.training.loggers.make_loggers` among them; None: TensorBoard's logger, where its package is
            installed. They are no setting of the run: a resumed run has those of its own call.

    Returns:
        The content of `summary.json` (metrics, final losses, steps, times, versions, device), and the folder as `run`,
        which the file does not contain, because folders may be moved.

    Raises:
        ConfigError: the settings do not fit each other, the machine or the data, or the data is missing; or one of the
            callbacks is none.
        ExchangeError: the processes cannot reach each other, because one has ended for example.
        RunFolderError: the folder is taken, holds no run to resume, or another process trains in it.
        CheckpointError: the run's checkpoints are all damaged.
        DivergenceError: the training diverged twice. The last checkpoint before it is whole.
        RunInterrupted: a signal stopped the run.
    """
    watching = Callbacks(callbacks or [])
    claim_gpu()
    automatic = config is not None and config.precision == "auto" and not resume
    if resume:
        if out is None:
            raise RunFolderError("resume: name the run's folder")
        config = resumed(config, Path(out))
    elif config is None:
        raise ConfigError("train: give a configuration, or resume=True and the folder of a run")
    else:
        config = resolve(config)
    with contextlib.ExitStack() as stack:
        processes = stack.enter_context(joined(config.device))
        show = progress and processes.first

        def say(text: str) -> None:
            if show:
                print(text, file=sys.stderr)

        folder = Path(out) if resume and out is not None else None
        stored = None if folder is None else read_config(folder)
        longer = stored is not None and asks_for_longer(config, stored)
        changed = [] if stored is None else changed_keys(config, stored)
        launch = None if resume else launch_record(config)
        if launch is not None:
            before = started_before(config, out, launch) if processes.first else None
            if name := processes.text_of_first(str(before or "")):
                folder = Path(name)
                config = resumed(None, folder)
                say(f"torchrun has started this training again; it goes on in {folder}")
        if folder is not None:
            if processes.first:
                stack.enter_context(files.locked(folder, "trains in"))
            if not longer and (finished := read_summary(folder, say)):
                if changed:
                    raise ConfigError(
                        f"{changed[0]} = {fields.show(config.value(changed[0]))}: the run is finished after "
                        f"{finished['steps']:,} steps, and a change needs steps to come; give more steps or epochs too"
                    )
                say(_nothing_left(folder, config, finished["steps"]))
                return {**finished, "run": str(folder)}
        last, counted, pace = None, stored, 1.0
        if stored is not None and (longer or changed or config.data != stored.data):
            assert folder is not None
            last = load_latest(folder / CHECKPOINTS, lambda text: None)  # the run says later what is damaged
        trained = 0 if last is None else last.step
        if stored is not None and changed:
            config = config.with_changes_after(trained, stored)
            if config.batch_sizes != stored.batch_sizes and config.epochs is not None:
                counted = stored.with_length_at(trained)  # without what was counted for sizes that are lost
                pace = stored.at(trained + 1).batch_size / config.batch_size
                config = config.with_length_at(trained).replace(steps=None, epochs=config.epochs)
        device = processes.device(config.device)
        notices = [threads_notice(config)]
        task = stack.enter_context(task_to_train(config, device, processes, data=data, show=show))
        config = with_steps(task)
        if last is not None:
            _check_data(task, last)  # raises an error before anything is written
        if stored is not None and counted is not None and (longer or counted is not stored):
            ran = counted.total_steps if counted.changes != stored.changes else _length_of(stored, last)
            lengthened = config.replace(steps=ran, epochs=counted.epochs)
            if longer or pace != 1.0 or lengthened != config:
                config = lengthened.for_longer(config.total_steps, config.epochs, trained, pace=pace)
        del last
        if automatic:
            notices.append(f"precision: {config.precision}, chosen for {config.data.SAMPLES} on this device")
        if changed:
            notices.append(changes_notice(config, trained))
        for text in filter(None, [growth_notice(config), freeze_notice(config), prior_notice(config), *notices]):
            say(text)
        initial = None
        if config.init_from is not None and (folder is None or not list_checkpoints(folder / CHECKPOINTS)):
            # It raises an error before anything is written.
            initial = InitialWeights.read_for(config.init_from, task.build_model, config.freeze)
        if folder is None:
            folder = Path(processes.text_of_first(str(new_folder(config, out)) if processes.first else ""))
            if processes.first:
                stack.enter_context(files.locked(folder, "trains in"))
                if launch is not None:
                    record_launch(folder, launch)
        if longer or changed:
            processes.wait()  # all have read the folder before it changes
            if processes.first:
                (folder / SUMMARY).unlink(missing_ok=True)
        if processes.first:
            files.write_text(folder / CONFIG, config.to_json())
        if not processes.first:
            watching = Callbacks([])
        elif callbacks is None:
            watching = Callbacks(default_loggers(watching.notice))
        run = _Run(config, folder, task, device, processes, show, initial, watching)
        del initial  # the run frees it after the start
        summary = run.complete()
    return {**summary, "run": str(folder)}


_TIME = Range(lambda value: 0 <= value < 1e12, "a time in seconds")


class _State(TypedDict):
    """What a checkpoint has beside the weights and the trainer's state.

    Attributes:
        task: the state of the task.
        scores: of an interval that a stop cut short, for the score at its end.
        record: the last record of the losses.
        train_seconds, wall_seconds: so far.
        total_steps: of the whole run, from which the shares of its schedule count; missing in earlier versions' files.
    """

    task: dict[str, Any]
    scores: list[float]
    record: NotRequired[dict[str, Any] | None]
    train_seconds: Annotated[float, _TIME]
    wall_seconds: Annotated[float, _TIME]
    total_steps: NotRequired[Annotated[int, AT_LEAST_1]]


def _check_data(task: Task, checkpoint: Checkpoint) -> dict[str, Any]:
    """Restore the task's state, which refuses other data than the checkpoint's. Returns all of the state."""
    remedy = "resume with the data and the version that wrote it, or train on other data in a new run by --init-from"
    with checkpoint.fitting(remedy):
        state = table(checkpoint.state, _State)
        task.load_state(state["task"])
        return state


def _length_of(stored: RunConfig, last: Checkpoint | None) -> int:
    """Find the number of iterations that a run has, whatever a hand has written into its `config.json`."""
    after = 0 if last is None else last.step
    recorded = [one["now"] for one in stored.changes if one["key"] == "steps" and one["after"] >= after]
    of_last = None if last is None else last.state.get("total_steps")
    return converted("changes.now", recorded[-1], int) if recorded else of_last or stored.total_steps


class _Diverged(Exception):
    """Ends the loop when the guard has found a divergence."""

    def __init__(self, trouble: Trouble) -> None:
        super().__init__(str(trouble))
        self.trouble = trouble


class _Run:
    """A run, in one of its processes."""

    def __init__(
        self,
        config: RunConfig,
        folder: Path,
        task: Task,
        device: torch.device,
        processes: Processes,
        show: bool,
        initial: InitialWeights | None,
        callbacks: Callbacks,
    ) -> None:
        self.config, self.folder, self.task, self.initial = config, folder, task, initial
        self.callbacks, self.info = callbacks, RunInfo(folder, config, start=0)
        self.device, self.processes, self.show = device, processes, show
        self.steps = config.total_steps
        self.started = time.perf_counter()
        self.wall_before = 0.0
        self.rolled_back = False
        self.record: dict[str, Any] | None = None  # the last one
        self.clock = Clock(device)
        self.checkpoints = folder / CHECKPOINTS

    def complete(self) -> dict[str, Any]:
        """Train from the last checkpoint to the end, then compute the metrics and draw the pictures."""
        summary: dict[str, Any] | None = None
        try:
            summary = self._complete()
            return summary
        finally:
            self.callbacks.end(self.info, summary)

    def _complete(self) -> dict[str, Any]:
        if self.processes.first:
            self.checkpoints.mkdir(exist_ok=True)
            for folder in (self.folder, self.checkpoints, self.folder / SAMPLES):
                files.remove_leftovers(folder)
        self.processes.wait()
        with StopSignals(_STOPPING if self.processes.first else "") as stop:
            while True:
                trainer = Trainer(self.config, self.task, self.device, self.processes)
                try:
                    self._train(trainer, stop)
                    break
                except _Diverged as diverged:
                    del trainer  # frees its memory before the next one is made
                    self._roll_back(diverged.trouble)
                if stop.signal is not None and self.processes.count == 1:
                    self._interrupt("before going back", stop)
        if self.processes.first:
            self._conclude(trainer)
        self.processes.wait()
        summary = read_summary(self.folder)
        assert summary is not None
        return summary

    def _train(self, trainer: Trainer, stop: StopSignals) -> None:
        config, task = self.config, self.task
        with contextlib.ExitStack() as stack:
            notices: list[str] = []
            if self.initial is not None:
                self._begin(trainer, self.initial, notices)
                self.initial = None
            checkpoint = load_latest(self.checkpoints, notices.append)
            start = 0 if checkpoint is None else checkpoint.step
            config.at(start + 1).check_processes(self.processes.count)
            if start > self.steps:
                assert checkpoint is not None
                raise CheckpointError(
                    f"{checkpoint.path} is from after the run's end: {self.folder / CONFIG} has {self.steps:,} steps; "
                    "restore that file as the run wrote it"
                )
            self.record = None
            if checkpoint is not None:
                self._restore(trainer, checkpoint)
            rollback = read_rollback(self.folder)
            if rollback is not None:
                trainer.slowdown = rollback["slowdown"]
            self.info = RunInfo(self.folder, config, start)
            self.processes.wait()
            display = stack.enter_context(Progress(self.folder.name, self.steps, done=start, enabled=self.show))
            recorder: Recorder | None = None
            if self.processes.first:
                if start > 0 and self.show:
                    notices.append(f"{self.folder.name} continues after step {start:,} of {self.steps:,}")
                self.callbacks.notice = display.notice
                for text in notices:
                    display.notice(text)
                set_aside_after(self.checkpoints, start)
                recorded = None if self.record is None else int(self.record["step"])
                recorder = Recorder(self.folder, start, display.notice, last=recorded)
                stack.callback(recorder.close)
            alone = self.processes.count == 1
            watched = (Saturation(), WeakPush())
            scores: list[float] = []
            if checkpoint is not None and start > config.compares_after:
                scores = list(checkpoint.state["scores"])

            logged, logged_seconds = start, self.clock.seconds
            self.clock.start()
            for step in range(start + 1, self.steps + 1):
                losses = trainer.iterate(step, *task.batch(step))

                last = step == self.steps
                logs = last or step % config.log_every == 0
                saves = last or step % config.checkpoint_every == 0
                stops = stop.signal is not None if alone else logs and self._anyone_stops(stop)
                if logs or saves or stops:
                    self._look_for_trouble(trainer, display)
                if logs:
                    losses = self.processes.average_losses(losses)
                    self.clock.lap()
                    milliseconds = 1e3 * (self.clock.seconds - logged_seconds) / (step - logged)
                    logged, logged_seconds = step, self.clock.seconds
                    if recorder is not None:
                        record = recorder.record(
                            step,
                            losses,
                            learning_rate=trainer.rate_at(step),
                            phase=config.phase_at(step),
                            seconds=self.clock.seconds,
                            **_stage_record(config, step),
                        )
                        self.record = record
                        with self.clock.paused():
                            self.callbacks.record(self.info, record)
                        scores += _score(config, record)
                        for one in watched:
                            if one.begins(config.at(step), record):
                                display.notice(f"from step {step:,} on: {one.words(config.at(step), record)}")
                        status = _speed(config, step, milliseconds, images=task.counts_images)
                        display.update(step, status=status, detail=_losses(record))
                # Not during a series of skipped updates: if it becomes a divergence, the run must go back to before it.
                if (saves or stops) and (last or not trainer.guard.in_series):
                    with self.clock.paused():
                        regular = step % config.checkpoint_every == 0
                        if recorder is not None:
                            recorder.sync()
                            self._save(trainer, step, scores, [] if regular else scores)
                        scores = [] if regular else scores
                if stops:
                    self.processes.wait()
                    self._interrupt(f"at step {step:,}", stop)
                if recorder is not None and not last and step % sample_every(config, self.steps) == 0:
                    with self.clock.paused():
                        path = self.folder / SAMPLES / f"{step:0{len(str(self.steps))}d}.png"
                        for picture in task.picture_samples(path, trainer.for_evaluation(), step):
                            name = picture.stem.replace(path.stem, "samples")
                            self.callbacks.picture(self.info, step, name, picture)
            self.clock.stop()

    def _begin(self, trainer: Trainer, initial: InitialWeights, notices: list[str]) -> None:
        """Write the weights that the run starts from as a checkpoint of step 0, so that they are not needed again."""
        if self.processes.first:
            notices.append(trainer.start_from(initial))
            self._save(trainer, 0, [], [])
        self.processes.wait()

    def _interrupt(self, where: str, stop: StopSignals) -> None:
        name = stop.signal.name if stop.signal is not None else "a signal to another process"
        again = f"sivae train --resume {shlex.quote(str(self.folder))}"
        if not self.task.resumes_by_command:
            again = f"sivae.train(out={str(self.folder)!r}, resume=True, data=...), with the same dataset"
        raise RunInterrupted(f"stopped {where} by {name}; go on with: {again}")

    def _anyone_stops(self, stop: StopSignals) -> bool:
        return self.processes.any(stop.signal is not None, self.device)

    def _look_for_trouble(self, trainer: Trainer, display: Progress) -> None:
        trouble = trainer.guard.check()
        if trouble is None:
            return
        if trouble.diverged:
            raise _Diverged(trouble)
        if self.processes.first:
            display.notice(str(trouble))

    def _save(self, trainer: Trainer, step: int, scores: list[float], unfinished: list[float]) -> None:
        averaged = None if trainer.averaged is None else trainer.for_evaluation()
        state = {
            **trainer.state(),
            "task": self.task.state(),
            "scores": unfinished,
            "record": self.record,
            "train_seconds": self.clock.seconds,
            "wall_seconds": self.wall_before + time.perf_counter() - self.started,
            "total_steps": self.steps,
        }
        path = save_checkpoint(
            self.checkpoints,
            step,
            trainer.model,
            state,
            averaged=averaged,
            score=sum(scores) / len(scores) if scores else None,
            keep=self.config.keep_checkpoints,
            compares_after=self.config.compares_after,
        )
        self.callbacks.checkpoint(self.info, step, path)

    def _restore(self, trainer: Trainer, checkpoint: Checkpoint) -> None:
        trainer.restore(checkpoint)
        state = _check_data(self.task, checkpoint)
        with checkpoint.fitting("resume with the version that wrote it"):
            self.clock.seconds = state["train_seconds"]
            if not self.rolled_back:  # else this process has already counted that time
                self.wall_before = state["wall_seconds"]
            self.record = None if state.get("record") is None else checked_record(state["record"])

    def _roll_back(self, trouble: Trouble) -> None:
        """At the first divergence go back to the last checkpoint with a lower rate; at the second, stop."""
        phase = self.config.phase_at(trouble.step)
        # Losses are sums over pixels, so only records at the same resolution compare.
        stage = self.config.stage_at(trouble.step)
        side = None if stage is None else stage.side
        records = [record for record in read_records(self.folder) if record.get("resolution") == side]
        objective = self.config.at(trouble.step).objective
        if phase == WARM_UP:
            objective = objective.for_warm_up()
        diagnosis = diagnose(records, trouble.losses, phase, objective)
        words = f"training diverged in step {trouble.step:,} ({phase}): {trouble}. {diagnosis}"
        again = read_rollback(self.folder) is not None
        checkpoint = load_latest(self.checkpoints, lambda text: None)
        self.processes.wait()  # all processes have read the folder before it changes
        if again:
            raise DivergenceError(
                f"{words} It had already gone back once, with the learning rate halved. {way_back(self.folder)} "
                "docs/tuning.md says more",
                trouble.step,
            )
        self.rolled_back = True
        back_to = 0 if checkpoint is None else checkpoint.step
        if self.processes.first:
            files.write_json(
                self.folder / ROLLBACK,
                {
                    "step": back_to,
                    "from_step": trouble.step,
                    "slowdown": ROLLBACK_RATE,
                    "diagnosis": diagnosis,
                },
            )
            print(f"{words} Going back to step {back_to:,} with half the learning rate", file=sys.stderr, flush=True)
        self.processes.wait()
        if checkpoint is None:
            self.clock.seconds = 0.0
            self.task.start_over()

    def _conclude(self, trainer: Trainer) -> None:
        # This depends only on the last checkpoint, so a run that is killed here can be resumed.
        config = self.config
        if self.show:
            print("computing the metrics, drawing the pictures", file=sys.stderr, flush=True)
        records = read_records(self.folder)
        model = trainer.for_evaluation()
        metrics = for_json(self.task.evaluate(model, config.seed))
        pictures = self.task.picture_run(self.folder, model, records, self.steps)
        for picture in pictures:
            self.callbacks.picture(self.info, self.steps, picture.stem, picture)
        last = self.record or (records[-1] if records else {})  # earlier versions wrote no record to checkpoints
        final = {key: value for key, value in last.items() if key not in _BESIDE_LOSSES}
        summary: dict[str, Any] = {
            "preset": config.preset,
            "objective": config.objective.name,
            "steps": self.steps,
            "seed": config.seed,
            **({"measured_on": self.task.measured_on} if self.task.measured_on else {}),
            "metrics": list(metrics),
            **metrics,
            "ms_per_iteration": 1e3 * self.clock.seconds / self.steps,
            "samples_per_second": config.samples_after(self.steps) / max(self.clock.seconds, _SHORTEST),
            "train_seconds": self.clock.seconds,
            "wall_seconds": self.wall_before + time.perf_counter() - self.started,
            "final": final,
            "pictures": [str(picture.relative_to(self.folder)) for picture in pictures],
            "device": config.device,
            "device_name": device_name(self.device),
            "processes": self.processes.count,
            "ops": config.ops,
            "threads": torch.get_num_threads(),
            "versions": versions(),
        }
        files.write_json(self.folder / SUMMARY, summary)


def _nothing_left(folder: Path, config: RunConfig, done: int) -> str:
    """Describe that a run is finished, and how to train longer where its `config.json` now has more steps."""
    if config.growth.grows:
        return f"{folder} is finished; nothing is left to train"
    if config.steps is None or config.steps <= done:
        return f"{folder} is finished; nothing is left to train; --steps with more than {done:,} trains it for longer"
    return (
        f"{folder} is finished with {done:,} steps, and its {CONFIG} now has {config.steps:,}. To train until step "
        f"{config.steps:,}, delete {folder / SUMMARY} and resume again; for a run of {config.steps:,} steps from the "
        f"start, give --steps {config.steps} without --resume"
    )


def _score(config: RunConfig, record: Mapping[str, Any]) -> list[float]:
    """Return the number that ranks checkpoints, as a list; empty if the record does not compare with others."""
    stage = config.stage_at(record["step"])
    # Only records of the last resolution, without blended images, compare with each other.
    if stage is not None and (not stage.last or stage.blend < 1.0):
        return []
    score = config.at(record["step"]).objective.score(record)
    return [] if score is None else [score]


def _speed(config: RunConfig, step: int, milliseconds: float, *, images: bool) -> str:
    if milliseconds <= 0:
        return ""
    per_step = config.samples_after(step) - config.samples_after(step - 1) if images else 1
    return f"{1e3 * per_step / milliseconds:,.0f} {'images' if images else 'it'}/s"


def _losses(record: Mapping[str, Any]) -> str:
    side = [f"{record['resolution']} x {record['resolution']}"] if "resolution" in record else []
    return "  ".join(
        side + [f"{name} {record[key]:.3g}" for key, name in _SHOWN.items() if record.get(key) is not None]
    )


def _stage_record(config: RunConfig, step: int) -> dict[str, float]:
    stage = config.stage_at(step)
    if stage is None:
        return {}
    return {"resolution": stage.side, "blend": stage.blend, "images": config.samples_after(step)}
