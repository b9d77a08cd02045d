"""Real processes for tests: a command with a time limit that never leaves anything running."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import warm_processes

REPOSITORY = Path(__file__).resolve().parents[1]


def environment() -> dict[str, str]:
    """A quiet environment with one thread a process and the package on the path."""
    env = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    return env | {
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(REPOSITORY),
        "PYTHONUNBUFFERED": "1",
        "COLUMNS": "80",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }


def torchrun(ranks: int, *arguments: str) -> list[str]:
    """The command line of a run of `dist_oaa` on several processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, "--nproc-per-node", str(ranks), *arguments]


def alone(*arguments: str) -> list[str]:
    """The command line of a run as a world of one."""
    return [sys.executable, "-m", "dist_oaa", *arguments]


STARTED: list["Running"] = []
"""What has been started, so that a test that fails leaves nothing running either."""


class Running:
    """A started command, in a process group of its own, with its output in a file.

    Args:
        fresh: as a new process with an interpreter of its own; by default Python's commands are
            forked off one that has done the imports (`warm_processes`).
        variables: of its environment, besides `environment()`.
    """

    def __init__(
        self, command: Sequence[str], log: Path, fresh: bool = False, **variables: str
    ) -> None:
        self.log = log
        env = environment() | variables
        with open(log, "wb") as file:
            warm = None if fresh else warm_processes.start(command, env, REPOSITORY, file)
            self.process = warm or subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=env,
                cwd=REPOSITORY,
                start_new_session=True,
            )
        STARTED.append(self)

    def text(self) -> str:
        """Everything printed so far."""
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits for a condition; fails when it does not come true or the command ends first."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, f"ended too early:\n{self.text()}"
            assert time.monotonic() < deadline, f"waited {seconds} s in vain:\n{self.text()}"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL to the launcher and all its descendants, as when a node loses power."""
        os.kill(self.process.pid, signal.SIGSTOP)  # it must not react to its workers' end
        family = descendants(self.process.pid)
        for pid in [*family, self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_until_gone(family, seconds=10)

    def wait(self, seconds: float) -> int:
        """The exit code; on a time-out everything is killed and the test fails."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"hung for {seconds} s:\n{self.text()}") from None


def run(
    command: Sequence[str], log: Path, seconds: float = 120, fresh: bool = False, **variables: str
) -> tuple[int, str]:
    """Runs a command to its end; arguments as for `Running`; exit code and output."""
    started = Running(command, log, fresh, **variables)
    return started.wait(seconds), started.text()


def two_ranks(arguments: Sequence[str], folder: Path, **variables: str) -> tuple[list[int], str]:
    """Exit codes and joint output of two ranks that no launcher ends when one of them does."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_PORT": port}
    place |= {"MASTER_ADDR": "127.0.0.1"} | variables
    command = [sys.executable, *arguments]
    ranks = [
        Running(command, folder / f"{r}.log", RANK=str(r), LOCAL_RANK=str(r), **place)
        for r in range(2)
    ]
    codes = [rank.wait(100) for rank in ranks]
    return codes, "".join(rank.text() for rank in ranks)


def end_started(since: int) -> list[str]:
    """Kills what was started from a number of `STARTED` on and still runs; names it."""
    left = [run for run in STARTED[since:] if run.process.poll() is None]
    del STARTED[since:]
    for run in left:
        run.kill()
    return [str(run.log) for run in left]


def children(parent: int) -> list[int]:
    """Process ids of the direct children; none when the process is gone."""
    try:
        tasks = list(Path(f"/proc/{parent}/task").iterdir())
        return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]
    except FileNotFoundError:
        return []


def descendants(parent: int) -> list[int]:
    """Process ids of all children, their children, and so on (torchrun's are in other groups)."""
    return [pid for child in children(parent) for pid in (child, *descendants(child))]


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: Sequence[int], seconds: float) -> None:
    """Waits for processes to end; fails when some do not."""
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if is_running(pid)]:
        assert time.monotonic() < deadline, f"still running after {seconds} s: {alive}"
        time.sleep(0.02)
