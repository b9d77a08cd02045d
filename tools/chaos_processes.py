"""Runs as processes of this machine, to be attacked: how they are started, found and ended."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from dist_oaa.runtime.signals import die_with_parent

REPOSITORY = Path(__file__).resolve().parents[1]
START_S = 120.0


@dataclass(frozen=True)
class Start:
    """What is started."""

    argv: list[str]
    """A command of `oaa` with its settings."""
    ranks: int
    log: Path
    temporary: Path
    """TMPDIR of its processes."""
    fault: str = ""
    """OAA_FAULT of its processes; empty for none."""

    @property
    def variables(self) -> dict[str, str]:
        """What its environment has beside ours."""
        return {
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(REPOSITORY),
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "TMPDIR": str(self.temporary),
            "OAA_FAULT": self.fault,
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "30",
        }


class Node:
    """A launcher with its ranks and their children; what is common to both ways of starting."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.launcher = 0
        """Process id of the launcher."""
        self.seen: set[tuple[int, int]] = set()
        """All that was ever found below the launcher, and itself: process ids with start times,
        since an id may by now be a stranger's."""

    def poll(self) -> int | None:
        """Exit code of the launcher, None while it runs."""
        raise NotImplementedError

    def ranks(self) -> list[int]:
        """Process ids of the ranks in their order; fewer while they are being started."""
        raise NotImplementedError

    def text(self) -> str:
        """Everything printed so far."""
        return self.start.log.read_text(errors="replace") if self.start.log.exists() else ""

    def family(self) -> list[int]:
        """Process ids of all that live below the launcher."""
        found = descendants(self.launcher)
        self.note([self.launcher, *found])
        return found

    def note(self, pids: Iterable[int]) -> None:
        """Remembers processes."""
        self.seen |= {(pid, start) for pid in pids if (start := started_at(pid)) is not None}

    def wait(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Waits for the end of the launcher, or for something else; False on a time-out."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.poll() is not None or until():
                return True
            time.sleep(0.01)
        return False

    def send(self, number: signal.Signals, pids: Iterable[int]) -> None:
        """A signal to each process that is still there."""
        self.family()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def kill(self) -> None:
        """SIGKILL to everything, as when a node loses power."""
        if self.poll() is None:
            self.send(signal.SIGSTOP, [self.launcher])  # it must not react to its workers' end
            self.send(signal.SIGKILL, [*self.family(), self.launcher])
        self.wait(START_S)

    def left_over(self, seconds: float = 10.0) -> list[int]:
        """Processes of this start that outlive the launcher by so long; they are killed then."""
        deadline = time.monotonic() + seconds
        while (alive := still_running(self.seen)) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.send(signal.SIGKILL, alive)
        return alive


class Torchrun(Node):
    """A run under the real torchrun."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        ranks = ["--nproc-per-node", str(start.ranks), "-m", "dist_oaa"]
        with open(start.log, "ab") as file:
            self._process = subprocess.Popen(
                [*launcher, *ranks, *start.argv],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=clean_environment() | start.variables,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        self.launcher = self._process.pid

    def poll(self) -> int | None:
        """Exit code of torchrun, None while it runs."""
        return self._process.poll()

    def ranks(self) -> list[int]:
        """torchrun's own children with a RANK in their environment."""
        places = {rank_of(pid): pid for pid in children(self.launcher)}
        self.family()
        return [places[rank] for rank in sorted(places) if rank >= 0]


class Forked(Node):
    """A run whose processes are forked from one that has everything imported."""

    def __init__(self, start: Start, preloaded: "Preloaded") -> None:
        super().__init__(start)
        self._preloaded, self._code = preloaded, None
        self._state = start.log.with_suffix(".json")
        self._state.unlink(missing_ok=True)
        self.launcher = preloaded.ask(
            start={
                "argv": start.argv,
                "ranks": start.ranks,
                "env": start.variables,
                "log": str(start.log),
                "state": str(self._state),
            }
        )["pid"]

    def poll(self) -> int | None:
        """Exit code of the launcher, None while it runs."""
        if self._code is None:
            self._code = self._preloaded.ask(poll=self.launcher)["code"]
        return self._code

    def ranks(self) -> list[int]:
        """What the launcher says of its ranks."""
        self.family()
        pids = self._said("pids")
        self.note(pids)
        return pids

    def codes(self) -> list[int | None]:
        """Exit codes of the ranks, negative for a signal, None while they run."""
        return self._said("codes")

    def _said(self, what: str) -> list:
        return json.loads(self._state.read_bytes())[what] if self._state.exists() else []


class Preloaded:
    """The process that forks; ends with the block that it is used in."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "tools" / "chaos_node.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment() | {"PYTHONPATH": str(REPOSITORY)},
        )
        self._ready = False

    def __enter__(self) -> "Preloaded":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def ask(self, **request: object) -> dict:
        """Sends a request and returns the answer."""
        if not self._ready:  # its imports run beside what we do before the first request
            self._read()
            self._ready = True
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"chaos_node.py ended with code {self._process.wait(10)}")
        return json.loads(line)


@dataclass
class Launchers:
    """The two ways of starting a run."""

    preloaded: Preloaded
    started: list[Node] = field(default_factory=list)

    def __call__(self, start: Start, real: bool) -> Node:
        """Starts a run, under the real torchrun if so asked."""
        start.temporary.mkdir(parents=True, exist_ok=True)
        node = Torchrun(start) if real else Forked(start, self.preloaded)
        self.started.append(node)
        return node

    def close(self) -> None:
        """Ends what still runs, as after Ctrl-C or a failure of ours."""
        for node in self.started:
            if node.poll() is None:
                node.kill()


def clean_environment() -> dict[str, str]:
    """Our environment without what would make a process a rank of ours, or fail."""
    ours = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "OAA_FAULT")
    return {k: v for k, v in os.environ.items() if k not in ours}


def children(parent: int) -> list[int]:
    """Process ids of the direct children; none when the process is gone."""
    try:
        tasks = list(Path(f"/proc/{parent}/task").iterdir())
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(parent: int) -> list[int]:
    """Process ids of all children, their children, and so on."""
    return [pid for child in children(parent) for pid in (child, *descendants(child))]


def rank_of(pid: int) -> int:
    """RANK in the environment that a process was started with; -1 when it has none."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError):
        return -1
    return next((int(v[5:]) for v in variables if v.startswith(b"RANK=")), -1)


def started_at(pid: int) -> int | None:
    """When a process was started, in ticks; None when there is none, or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def still_running(processes: Iterable[tuple[int, int]]) -> list[int]:
    """Process ids of those (id, start time) that have not ended."""
    return [pid for pid, start in processes if started_at(pid) == start]
