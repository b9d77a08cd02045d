"""Makes runs one after another, goes on where they were cut off, and stops well."""

import fcntl
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.extras import check_extras
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.attempt import Attempt, begin
from dist_oaa.stages.launching.planned import PlannedRun, command
from dist_oaa.stages.launching.processes import PATIENCE_S, Launch, Machine
from dist_oaa.stages.launching.progress import Progress


@dataclass
class Outcome:
    """What became of the wanted runs."""

    finished: set[str] = field(default_factory=set)
    """Identities; those that were finished before are among them."""
    failed: dict[str, str] = field(default_factory=dict)
    """Identity -> one sentence."""


@contextmanager
def only_one(out: Path, command_name: str) -> Iterator[None]:
    """Holds the folder of the runs for this process.

    Raises:
        UserError: when another process makes runs there, or the folder cannot be written.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = open(out / ".lock", "w", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        raise UserError(f"run_dir {out} cannot be written: {error.strerror}") from error
    with file:
        try:
            # The kernel lets go of it however this process ends.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another {command_name} is making runs in {out}; wait for it or choose another "
                "run_dir"
            ) from error
        yield


@dataclass
class Runner:
    """Makes runs.

    Args:
        workers: processes of each run.
        must_measure: a run that ends well without any figure has failed; without it, what a run
            wrote is enough.
        launch: starts a command; tests give their own.
        pause_s: seconds between two looks at a process.
    """

    machine: Machine
    workers: int
    stop: StopFlag
    progress: Progress
    launch: Launch
    pause_s: float = 0.25
    clock: Callable[[], float] = time.monotonic
    must_measure: bool = True

    def make(self, wanted: Sequence[PlannedRun]) -> Outcome:
        """Makes what is not finished, in this order; a failure stops only those that read it.

        Raises:
            UserError: before any run, when one of them needs a package that is not installed.
            Interrupted: when the stop flag rose; what ran has written a checkpoint if it could.
        """
        outcome = Outcome()
        outcome.finished = {r.identity for r in wanted if records.finished_record(r) is not None}
        todo = [run for run in wanted if run.identity not in outcome.finished]
        for run in todo:
            check_extras(run.settings)
        self.progress.begin(len(todo), len(outcome.finished))
        for run in todo:
            if self.stop.reason:
                raise Interrupted(self._goodbye())
            problem = self._blocked(run, wanted, outcome) or self._one(run)
            if problem:
                outcome.failed[run.identity] = problem
            else:
                outcome.finished.add(run.identity)
        return outcome

    def _blocked(self, run: PlannedRun, wanted: Sequence[PlannedRun], outcome: Outcome) -> str:
        failed = [r for r in wanted if r.identity in run.sources and r.identity in outcome.failed]
        if not failed:
            return ""
        problem = f"skipped: it reads {failed[0].folder.name}, which failed"
        self.progress.skipped(run, problem)
        return problem

    def _one(self, run: PlannedRun) -> str:
        """Makes one run; returns why it failed, or an empty string."""
        if problem := stranger(run):
            self.progress.skipped(run, problem)
            return problem
        attempt = begin(
            run,
            lambda resume: command(run, self.workers, resume),
            self.workers,
            self.machine,
            self.launch,
            self.clock,
        )
        self.progress.started(run, attempt.resumed)
        code = self._watch(attempt)
        problem = attempt.conclude(code, self.must_measure)
        if not problem:
            self.progress.finished(run, attempt.record)
            return ""
        if self.stop.reason:
            raise Interrupted(self._goodbye())
        self.progress.failed(run, problem, attempt.failure_lines())
        return problem

    def _watch(self, attempt: Attempt) -> int:
        """Waits for a process and hands a stop on to it; returns the exit code."""
        asked = False
        try:
            while True:
                code = attempt.code(self.pause_s)
                if code is not None:
                    return code
                self.progress.show(attempt.seconds, attempt.line())
                if self.stop.reason and not asked:
                    asked = True
                    self.progress.say(f"{self.stop.reason}: waiting for the run's checkpoint")
                    attempt.process.terminate()
                    deadline = self.clock() + PATIENCE_S + 10
                if asked and self.clock() > deadline:
                    attempt.kill()
        except BaseException:  # a second Ctrl-C, or a fault of ours: nothing stays behind
            attempt.kill()
            raise

    def _goodbye(self) -> str:
        return (
            f"stopped by {self.stop.reason}; nothing that is finished is lost, and the same "
            "command goes on from here"
        )


def stranger(run: PlannedRun) -> str:
    """Why what lies in the run's folder is not this run, or an empty string."""
    record = records.load_record(run.folder)
    changed = records.differing_settings(record, run) if record else []
    if not changed:
        return ""
    shown = "; ".join(changed[:3]) + ("; ..." if len(changed) > 3 else "")
    return f"{run.folder} was made with other settings ({shown}): move it away to make it anew"
