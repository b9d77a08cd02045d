"""The training loop that every training stage runs in: it knows nothing of what is trained.

One optimiser step, on all ranks:
  1. ranks sum their image counts, stop requests and problems, and whether their part of a
     checkpoint is written; a problem ends all of them;
  2. forward and backward, each rank's loss weighted so that DDP's mean over ranks is the mean
     over the images of the step, whatever each rank's share (gradients.py); with
     `optim.exact_elastic` in parts that are summed without rounding (exact_step.py);
  3. ranks sum losses and counters; a CAM, loss or gradient that is not finite ends all of them,
     or leaves the step out on all of them, before the optimiser steps (non_finite.py);
  4. the optimiser steps; now and then a checkpoint is begun, which is a copy of what it holds;
     it is written and published while the next steps run (saver.py).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import CheckpointConfig
from dist_oaa.runtime.checkpoint import Checkpoint, host_copy, save_checkpoint
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.faults import fault_point
from dist_oaa.runtime.files import remove_leftovers
from dist_oaa.runtime.gradients import Gradients
from dist_oaa.runtime.non_finite import NonFiniteGuard
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.protocols import MicroBatches, Stage
from dist_oaa.runtime.relaunch import launcher, note_launchers
from dist_oaa.runtime.saver import Saver, open_saver
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.runtime.watching.pulse import TRAINING


@dataclass
class Loop:
    """Runs a stage from a position to its end."""

    world: World
    stage: Stage
    trainable: Trainable
    plan: Plan
    optim: OptimConfig
    run_dir: Path
    checkpoints: CheckpointConfig
    stop: StopFlag
    reporter: Reporter
    tracker: Tracker | None
    log_every: int
    position: Position
    save_before_end: bool = False
    """What `end_epoch` does after the last step takes long: a checkpoint is published before it."""
    saver: Saver = field(init=False)
    guard: NonFiniteGuard = field(init=False)
    gradients: Gradients = field(init=False)
    unlogged: str | None = None
    """Why rank 0 could not log a step."""
    unmeasured_said: bool = False
    """That the metric of checkpoint.keep_best is missing has been said."""

    def __post_init__(self) -> None:
        self.guard = NonFiniteGuard(self.world, self.run_dir, self.optim)
        self.gradients = Gradients(
            self.world, self.stage, self.trainable, self.plan.micro_batches, self.optim.clip_norm
        )

    def run(self) -> dict[str, float]:
        """Trains to the end and returns the last measurements.

        Raises:
            Interrupted: after a signal; a checkpoint has been published.
            RunError: on a CAM, loss or gradient that is not finite, as `optim` says.
            UserError: when a stage's check fails or a checkpoint cannot be written.
        """
        metrics: dict[str, float] = {}
        self.guard.resume_at(self.position.step)
        launchers = self.world.gather(launcher())
        self.world.only_first(lambda: note_launchers(self.run_dir, launchers))
        self.world.only_first(lambda: remove_leftovers(self.run_dir))
        self.reporter.start(self.plan.total_steps, self.position.step)
        self.world.heartbeat.run_dir = self.run_dir
        with self.world.pulse.doing(TRAINING), open_saver(self.world) as self.saver:
            try:
                while not self._finished():
                    trained = self._steps_left()
                    self._train_epoch()
                    if trained and self.save_before_end:
                        self._save_before_end()
                    metrics = self._close_epoch()
                self._say_waiting()
            finally:
                self.reporter.stop()
        return metrics

    def _say_waiting(self) -> None:
        if self.saver.waited_s > 1:
            self.reporter.say(
                f"training waited {self.saver.waited_s:.0f} s for checkpoints that were still "
                "being written when the next one was due: raise checkpoint.every_steps"
            )

    def _finished(self) -> bool:
        # An epoch whose last step is done still has to be measured and closed.
        started = self.position.step_in_epoch > 0
        return self.position.step >= self.plan.total_steps and not started

    def _save_before_end(self) -> None:
        if self.position.step < self.plan.total_steps:
            return
        waited_s = self.saver.waited_s
        self._checkpoint()
        self.saver.finish()
        self.saver.waited_s = waited_s  # this wait is meant

    def _steps_left(self) -> int:
        in_epoch = self.plan.steps_per_epoch - self.position.step_in_epoch
        return min(in_epoch, self.plan.total_steps - self.position.step)

    def _train_epoch(self) -> None:
        left = self._steps_left()
        self.reporter.restart_clock()
        self.world.pulse.restart()
        if left:
            at = self.position
            for batch in self._loaded(self.stage.batches(at.epoch, at.step_in_epoch)):
                asked_to_stop = self._step(batch)
                left -= 1
                every = self.checkpoints.every_steps
                if asked_to_stop:
                    self._stop()
                elif left and every and at.step % every == 0:
                    self._checkpoint()
                if not left:
                    break
        if self.saver.sum([bool(self.stop.reason)])[0]:
            self._stop()

    def _loaded(self, batches: Iterator[MicroBatches]) -> Iterator[MicroBatches]:
        """The batches; where one cannot be loaded, all ranks end in place of the next step."""
        try:
            yield from batches
        except RunError as error:
            self.saver.sum([0, 0, 1, 0])
            self.world.raise_first(error)

    def _step(self, batch: MicroBatches) -> bool:
        at = self.position
        problem = self.stage.check(batch) or self.unlogged
        request = [len(batch), bool(self.stop.reason), problem is not None, len(batch.bad)]
        images, stops, problems, bad = self.saver.sum(request)
        if problems:
            self.world.raise_first(problem)
        if bad:
            at.skipped += [s for part in self.world.gather(batch.bad) for s in part]
        rate = self.stage.before_step(at.step, self.plan.total_steps)
        self.guard.keep(self.trainable.model)
        sums, found, finite = self.gradients.compute(batch, at.epoch, images)
        if not finite:
            self._leave_out(batch, found)
            sums, images = [0.0] * len(sums), 0
        elif images:
            fault_point("loop.step.before")
            self.gradients.apply()
            fault_point("loop.step.after")
        at.step += 1
        at.step_in_epoch += 1
        for name, value in zip(("images", "loss", *self.stage.counters), sums, strict=True):
            at.totals[name] = at.totals.get(name, 0) + value
        self.world.pulse.step_done(at.epoch, at.step, len(batch))
        self.reporter.step(at.epoch, at.step, images, self.stage.shown(at.totals))
        if self.tracker is not None and at.step % self.log_every == 0 and images:
            loss = {"train/loss": sums[1] / images, "train/learning_rate": rate}
            self._log_step(loss)
        return stops > 0

    def _log_step(self, values: dict[str, float]) -> None:
        """Logs on rank 0; where its disk refuses, all ranks stop at the next step."""
        try:
            self.tracker.log(self.position.epoch, self.position.step, values)
        except UserError as error:
            self.unlogged = str(error)

    def _leave_out(self, batch: MicroBatches, found: list[str]) -> None:
        at = self.position
        said = self.guard.leave_out(at.epoch + 1, at.step + 1, batch.ids, found)
        self.gradients.drop()
        self.stage.forget_step()
        self.reporter.say(said)
        at.left_out += 1
        self.guard.check_share(at.left_out, self.plan.steps_per_epoch)

    def _close_epoch(self) -> dict[str, float]:
        at = self.position
        fault_point("loop.epoch.before")
        with self.world.pulse.doing(f"measuring after epoch {at.epoch + 1}"):
            metrics = self.stage.end_epoch(at)
        if self.guard.skips:
            metrics = metrics | {"train/skipped_steps": float(at.left_out)}
        if at.left_out:
            steps = self.plan.steps_per_epoch
            self.reporter.say(f"epoch {at.epoch + 1}: left out {at.left_out} of {steps} steps")
        at.totals, at.left_out = {}, 0
        at.epoch += 1
        at.step_in_epoch = 0
        self.world.agree(lambda: self._log_epoch(metrics))
        fault_point("loop.epoch.after")
        self._checkpoint(metrics)
        return metrics

    def _log_epoch(self, metrics: dict[str, float]) -> None:
        if self.unlogged:
            raise UserError(self.unlogged)
        if self.tracker is not None:
            at = self.position
            self.tracker.log(at.epoch - 1, at.step, metrics, True)
            if at.step >= self.plan.total_steps:
                self.tracker.compare(metrics, at.step)
            self.tracker.flush()

    def _stop(self) -> None:
        self._checkpoint()
        self.saver.finish()
        reason = next(r for r in self.world.gather(self.stop.reason) if r)
        raise Interrupted(
            f"stopped by {reason} in epoch {self.position.epoch + 1} after "
            f"{self.position.step} steps; a checkpoint was written, continue with --resume"
        )

    def _checkpoint(self, metrics: dict[str, float] | None = None) -> None:
        """Begins a checkpoint of this instant, once the one before is published.

        Args:
            metrics: what was measured at this instant, where something was.
        """
        self.saver.finish()
        self.position.generation += 1
        write = self.stage.snapshot(self.position.generation)
        self.saver.begin(write, self._publication(metrics or {}) if self.world.is_first else None)
        self.world.pulse.restart()

    def _publication(self, metrics: dict[str, float]) -> Callable[[], None]:
        """What rank 0 does when all maps are durable; holds a copy of weights and optimiser."""
        at, trainable = self.position, self.trainable
        checkpoint = Checkpoint(
            host_copy(trainable.model.state_dict()),
            host_copy(trainable.optimizer.state_dict()),
            asdict(at) | {"scaler": trainable.scaler.state_dict()},
            at.generation,
            self.checkpoints.keep_best,
            self._score(metrics),
        )
        # The generation makes the name unique: a published checkpoint is never overwritten.
        folder, name = self.run_dir / "checkpoints", f"step-{at.step:08d}-g{at.generation:06d}"

        def publish() -> None:
            if self.tracker is not None:
                self.tracker.flush()  # what is logged before a checkpoint is never logged again
            save_checkpoint(folder, name, checkpoint, self.checkpoints.keep)

        return publish

    def _score(self, metrics: dict[str, float]) -> float | None:
        """The metric of checkpoint.keep_best, None where it was not measured."""
        name = self.checkpoints.keep_best
        if metrics and name and name not in metrics and not self.unmeasured_said:
            self.unmeasured_said = True
            measured = ", ".join(sorted(n for n in metrics if not n.startswith("per_class/")))
            self.reporter.say(
                f"checkpoint.keep_best {name} was not measured in this epoch, only {measured}"
            )
        score = metrics.get(name, math.nan)
        return float(score) if math.isfinite(score) else None
