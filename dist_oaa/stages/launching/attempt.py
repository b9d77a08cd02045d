"""One attempt at a run: begun, watched, stopped, and its outcome written down."""

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.processes import (
    Launch,
    Machine,
    Process,
    describe_exit,
    failure_lines,
    last_line,
)


@dataclass
class Attempt:
    """A started run.

    Attributes:
        resumed: goes on from a checkpoint of an earlier attempt.
        offset: where in the log its own output begins, in bytes.
    """

    run: PlannedRun
    record: records.Record
    process: Process
    resumed: bool
    offset: int
    clock: Callable[[], float]
    began: float

    @property
    def log(self) -> Path:
        """What all attempts at the run printed."""
        return self.run.folder / records.LOG

    @property
    def seconds(self) -> float:
        """Its age."""
        return self.clock() - self.began

    def line(self) -> str:
        """The last line that it printed."""
        return last_line(self.log, self.offset)

    def code(self, wait_s: float = 0.0) -> int | None:
        """Its exit code, None if it has none within `wait_s` seconds."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(wait_s)
        return None

    def stop(self, grace_s: float) -> None:
        """Asks it to stop, and ends it with all its processes after `grace_s` seconds."""
        self.process.terminate()
        deadline = time.monotonic() + grace_s
        while self.code(0.05) is None and time.monotonic() < deadline:
            pass
        self.kill()

    def kill(self) -> None:
        """Ends it and every process that it started, at once."""
        pid = getattr(self.process, "pid", None)
        # torchrun puts its workers into sessions of their own: no group holds them all.
        family = descendants(pid) if pid else []
        self.process.kill()
        for each in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self.process.wait()

    def conclude(self, code: int, must_measure: bool) -> str:
        """Writes down how it ended; returns why it failed, or an empty string.

        Args:
            must_measure: a run that ends well without any figure has failed; without it, what a
                run wrote is enough.
        """
        record, folder = self.record, self.run.folder
        record.seconds += self.seconds
        measured = records.measurements(folder, self.run.stage)
        problem = f"{describe_exit(code)}; see {self.log}" if code else ""
        if not problem and must_measure and not measured:
            problem = f"it ended well but measured nothing; see {self.log}"
        if not problem:
            text = self.log.read_text(encoding="utf-8", errors="replace")
            record.images, record.supervision = records.said(text)
            record.metrics, record.finished = measured, True
        records.save_record(folder, record)
        return problem

    def failure_lines(self) -> list[str]:
        """Why it failed, in its own words."""
        return failure_lines(self.log, self.offset)


def begin(
    run: PlannedRun,
    line: Callable[[bool], Sequence[str]],
    workers: int,
    machine: Machine,
    launch: Launch,
    clock: Callable[[], float] = time.monotonic,
) -> Attempt:
    """Starts a run, from its checkpoint where it has one, else anew.

    Args:
        line: the command line, given whether to resume.
        workers: its processes, for the record.
        launch: starts a command; see `launch`.
    """
    resume = records.can_resume(run.folder)
    if not resume:
        records.clear(run.folder)
    run.folder.mkdir(parents=True, exist_ok=True)
    command = list(line(resume))
    record = records.load_record(run.folder) or new_record(run)
    record = replace(
        record,
        settings=run.settings,
        attempts=record.attempts + 1,
        workers=workers,
        command=command,
        machine=str(machine),
        versions=machine.versions,
    )
    records.save_record(run.folder, record)
    log = run.folder / records.LOG
    with open(log, "ab") as file:
        file.write(f"$ {shlex.join(command)}\n".encode())
    offset = log.stat().st_size
    began = clock()
    return Attempt(run, record, launch(command, log), resume, offset, clock, began)


def new_record(run: PlannedRun) -> records.Record:
    """The record of a run that has never been started."""
    return records.Record(run.name, run.stage, run.seed, run.identity, run.settings)


def descendants(parent: int) -> list[int]:
    """Process ids of all children, their children, and so on (Linux; none elsewhere)."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{parent}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                found += [child, *descendants(child)]
    return found
