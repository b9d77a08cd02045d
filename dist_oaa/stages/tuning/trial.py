"""One trial: an ordinary run of the launcher, and what it reports while it goes on.

`look` never waits long, so that a trial can be stopped at any moment. What an earlier attempt has
measured is reported again first: whoever decides on trials sees the same figures after a restart.
"""

import fcntl
import re
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.attempt import Attempt, begin
from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.processes import Launch, Machine
from dist_oaa.stages.tuning.sweep import PIPELINE, Sweep, epochs_of

KILLED = re.compile(r"exitcode\s*:\s*-\d+|Signal \d+ \(SIG\w+\) received|signal: -?\d+")
"""How torchrun says that a worker was killed."""
INTERRUPTED = 75
"""Exit code of a run that a signal stopped (sysexits.h, EX_TEMPFAIL)."""


class Trial:
    """A run as a sweep sees it.

    Args:
        line: its command line, given whether to resume.
        launch: starts a command; see `launch`.
        on_begin: called before each attempt.
    """

    def __init__(
        self,
        sweep: Sweep,
        run: PlannedRun,
        machine: Machine,
        line: Callable[[bool], list[str]],
        launch: Launch,
        on_begin: Callable[[], None] = lambda: None,
        pause_s: float = 0.1,
    ) -> None:
        self.sweep, self.run, self.machine = sweep, run, machine
        self._line, self._launch, self._on_begin = line, launch, on_begin
        self._pause_s = pause_s
        self._attempt: Attempt | None = None
        self._lock = None
        self._reported, self._retries = 0, 0
        self._last: dict[str, Any] = {"epoch": 0}

    def look(self, wait_s: float) -> dict[str, Any]:
        """What is new, after at most `wait_s` seconds.

        Returns:
            the figures of the oldest epoch that has not been reported, with `epoch` (epochs done)
            and `state`: `running`, `stopped` (in an earlier sitting), `finished` or `failed`; with
            no new epoch the last ones again, as a sign of life. `line` is the last line that the
            run printed, `problem` and `lines` are why it failed.
        """
        deadline = time.monotonic() + wait_s
        while True:
            closed = records.closed_epochs(self.run.folder, self.run.stage)
            if len(closed) > self._reported:
                return self._report(closed[self._reported])
            done = self._step()
            if done:
                return self._last | done
            if time.monotonic() > deadline:
                line = self._attempt.line() if self._attempt else ""
                return self._last | {"state": "running", "line": line}

    def stop(self) -> None:
        """Ends the run within the sweep's grace; its checkpoint stays."""
        if self._attempt is not None:
            self._attempt.stop(self.sweep.grace_s)
            record = records.load_record(self.run.folder)
            if record is not None:
                record.seconds += self._attempt.seconds
                records.save_record(self.run.folder, record)
            self._attempt = None
        self._unlock()

    def _report(self, entry: dict[str, Any]) -> dict[str, Any]:
        self._reported += 1
        figures = {k: v for k, v in records.figures(entry).items() if v is not None}
        self._last = figures | {"epoch": self._reported}
        return self._last | {"state": "running"}

    def _step(self) -> dict[str, Any] | None:
        """Begins, waits a moment or ends; the last report where the trial is over."""
        if self._attempt is None:
            return self._begin()
        code = self._attempt.code(self._pause_s)
        if code is None:
            return None
        if len(records.closed_epochs(self.run.folder, self.run.stage)) > self._reported:
            return None  # epochs come before the end; asked again, the code is the same
        return self._end(self._attempt, code)

    def _begin(self) -> dict[str, Any] | None:
        record = records.load_record(self.run.folder)
        if record is not None and record.finished:
            return self._finished(record)
        if record is not None and record.stopped_epoch:
            return {"state": "stopped"}
        if not self._locked():
            # Another trial of the same settings is at it: its result will be this one's too.
            time.sleep(self._pause_s)
            return None
        if record is not None and record.problem:
            records.save_record(self.run.folder, replace(record, problem=""))
        self._on_begin()
        workers = self.sweep.workers * self.sweep.nodes
        self._attempt = begin(self.run, self._line, workers, self.machine, self._launch)
        return None

    def _end(self, attempt: Attempt, code: int) -> dict[str, Any] | None:
        attempt.kill()  # workers that outlived a killed torchrun
        problem = attempt.conclude(code, must_measure=self.run.stage != PIPELINE)
        self._attempt = None
        if not problem:
            self._unlock()
            return self._finished(attempt.record)
        lines = attempt.failure_lines()
        if was_killed(code, attempt) and self._retries < self.sweep.retries:
            self._retries += 1
            return None
        problem = lines[-1].removeprefix("oaa: error: ") if lines else problem
        records.save_record(self.run.folder, replace(attempt.record, problem=problem))
        self._unlock()
        return {"state": "failed", "problem": problem, "lines": lines, "log": str(attempt.log)}

    def _finished(self, record: records.Record) -> dict[str, Any]:
        figures = {k: v for k, v in record.metrics.items() if v is not None}
        return figures | {"epoch": max(self._reported, epochs_of(self.run)), "state": "finished"}

    def _locked(self) -> bool:
        """Takes the run directory for this trial; False while another process has it."""
        if self._lock is None:
            path = Path(self.sweep.out) / "trials" / f".{self.run.identity}.lock"
            path.parent.mkdir(parents=True, exist_ok=True)
            file = open(path, "w", encoding="utf-8")  # noqa: SIM115
            try:
                # The kernel lets go of it however this process ends.
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
                return False
            self._lock = file
        return True

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def was_killed(code: int, attempt: Attempt) -> bool:
    """Whether the run was ended from outside and not by itself."""
    if code < 0 or code == INTERRUPTED:
        return True
    text = attempt.log.read_bytes()[attempt.offset :].decode(errors="replace")
    return "oaa: error:" not in text and KILLED.search(text) is not None
