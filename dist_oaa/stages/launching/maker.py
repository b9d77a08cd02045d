"""Makes runs one after another, goes on where they were cut off, and stops well."""

import fcntl
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.planned import PlannedRun, command
from dist_oaa.stages.launching.processes import (
    PATIENCE_S,
    Launch,
    Machine,
    Process,
    describe_exit,
    failure_lines,
    last_line,
)
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
            Interrupted: when the stop flag rose; what ran has written a checkpoint if it could.
        """
        outcome = Outcome()
        outcome.finished = {r.identity for r in wanted if records.finished_record(r) is not None}
        todo = [run for run in wanted if run.identity not in outcome.finished]
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
        resume = records.can_resume(run.folder)
        if not resume:
            records.clear(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        line = command(run, self.workers, resume)
        record = records.load_record(run.folder) or new_record(run)
        record = replace(
            record,
            settings=run.settings,
            attempts=record.attempts + 1,
            workers=self.workers,
            command=line,
            machine=str(self.machine),
            versions=self.machine.versions,
        )
        records.save_record(run.folder, record)
        log = run.folder / records.LOG
        with open(log, "ab") as file:
            file.write(f"$ {shlex.join(line)}\n".encode())
        start = log.stat().st_size
        self.progress.started(run, resume)
        code, seconds = self._watch(self.launch(line, log), log, start)
        record.seconds += seconds
        return self._conclude(run, record, code, start)

    def _watch(self, process: Process, log: Path, start: int) -> tuple[int, float]:
        """Waits for a process and hands a stop on to it; returns exit code and seconds."""
        began, asked = self.clock(), False
        try:
            while True:
                try:
                    return process.wait(self.pause_s), self.clock() - began
                except subprocess.TimeoutExpired:
                    self.progress.show(self.clock() - began, last_line(log, start))
                if self.stop.reason and not asked:
                    asked = True
                    self.progress.say(f"{self.stop.reason}: waiting for the run's checkpoint")
                    process.terminate()
                    deadline = self.clock() + PATIENCE_S + 10
                if asked and self.clock() > deadline:
                    process.kill()
        except BaseException:  # a second Ctrl-C, or a fault of ours: nothing stays behind
            process.kill()
            process.wait()
            raise

    def _conclude(self, run: PlannedRun, record: records.Record, code: int, start: int) -> str:
        log = run.folder / records.LOG
        measured = records.measurements(run.folder, run.stage)
        if code == 0 and (measured or not self.must_measure):
            text = log.read_text(encoding="utf-8", errors="replace")
            record.images, record.supervision = records.said(text)
            record.metrics, record.finished = measured, True
            records.save_record(run.folder, record)
            self.progress.finished(run, record)
            return ""
        records.save_record(run.folder, record)
        if self.stop.reason:
            raise Interrupted(self._goodbye())
        problem = f"{describe_exit(code)}; see {log}"
        if code == 0:
            problem = f"it ended well but measured nothing; see {log}"
        self.progress.failed(run, problem, failure_lines(log, start))
        return problem

    def _goodbye(self) -> str:
        return (
            f"stopped by {self.stop.reason}; nothing that is finished is lost, and the same "
            "command goes on from here"
        )


def new_record(run: PlannedRun) -> records.Record:
    """The record of a run that has never been started."""
    return records.Record(run.name, run.stage, run.seed, run.identity, run.settings)


def stranger(run: PlannedRun) -> str:
    """Why what lies in the run's folder is not this run, or an empty string."""
    record = records.load_record(run.folder)
    changed = records.differing_settings(record, run) if record else []
    if not changed:
        return ""
    shown = "; ".join(changed[:3]) + ("; ..." if len(changed) > 3 else "")
    return f"{run.folder} was made with other settings ({shown}): move it away to make it anew"
