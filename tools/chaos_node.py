"""A process that has everything imported, and makes runs out of itself by fork.

Starting Python and importing torch is nine tenths of the start of a tiny run. Here it is done once.
What is forked before any thread has been started is a process like any other: ranks with process
ids of their own in one process group, below a launcher that does for them what torchrun does: it
holds the store they meet at, hands SIGTERM on, ends the others when one fails, and takes them with
it when it is killed.

Requests and answers are lines of JSON on standard input and output:
    {"start": {"argv", "ranks", "env", "log", "state"}} -> {"pid": the launcher's}
    {"poll": pid}                                        -> {"code": exit code, null while it runs}
`state` is a file in which the launcher keeps {"pids": [...], "codes": [...]} of the ranks.
"""

import contextlib
import importlib
import json
import os
import runpy
import signal
import sys
import time
from pathlib import Path

# One thread a process, also while modules are imported: a fork must find no other thread.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", TOKENIZERS_PARALLELISM="false")

PATIENCE_S = 30.0
"""Seconds between asking the ranks to end and killing them."""
STAGES = ("classify", "integral", "segment", "affinity")
LATE = ("torchmetrics", "docstring_parser", "timm", "torch.distributed")
"""What runs import only as they go."""


def serve() -> list[str] | None:
    """Answers requests until standard input ends.

    Returns:
        in a process that has become a rank: the command that it is to run; else None.
    """
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            pid = os.fork()
            if pid == 0:
                return _launch(**request["start"])
            answer = {"pid": pid}
        else:
            answer = {"code": _poll(request["poll"])}
        print(json.dumps(answer), flush=True)
    return None


def _poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def _launch(argv: list[str], ranks: int, env: dict[str, str], log: str, state: str) -> list[str]:
    """Becomes the launcher, and in its children the ranks, in which alone it returns."""
    from dist_oaa.runtime.signals import die_with_parent

    die_with_parent()
    os.setsid()
    os.environ.update(env)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for stream, file in enumerate((nothing, output, output)):
        os.dup2(file, stream)
    pipes, pids = [], []
    for rank in range(ranks):
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            _become(rank, ranks, read)
            return argv
        pipes.append(write)
        pids.append(pid)
    os._exit(_Launcher(pids, Path(state)).run(pipes))


def _become(rank: int, ranks: int, pipe: int) -> None:
    """The place of a rank, as torchrun says it; waits until there is a store to meet at."""
    from dist_oaa.runtime.signals import die_with_parent

    die_with_parent()
    port = os.read(pipe, 16).decode()
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(ranks),
        LOCAL_WORLD_SIZE=str(ranks),
        GROUP_RANK="0",
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        TORCHELASTIC_USE_AGENT_STORE="True",
        TORCHELASTIC_RESTART_COUNT="0",
        TORCHELASTIC_RUN_ID="chaos",
    )


class _Launcher:
    """What torchrun is to its ranks."""

    def __init__(self, pids: list[int], state: Path) -> None:
        self.pids, self._state = pids, state
        self.codes: list[int | None] = [None] * len(pids)
        self._asked_at = 0.0
        signal.signal(signal.SIGTERM, lambda *_: self._ask())
        self._say()

    def run(self, pipes: list[int]) -> int:
        """Waits for all ranks; 0 when all have ended with 0, else 1."""
        from torch.distributed import TCPStore

        # Its threads are started here, when nothing is forked any more.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        for pipe in pipes:
            with contextlib.suppress(BrokenPipeError):
                os.write(pipe, str(store.port).encode())
        while None in self.codes:
            if any(self.codes) and not self._asked_at:
                self._ask()
            if self._asked_at and time.monotonic() - self._asked_at > PATIENCE_S:
                self._send(signal.SIGKILL)
            self._reap()
            time.sleep(0.02)
        return int(any(self.codes))

    def _reap(self) -> None:
        for rank, pid in enumerate(self.pids):
            if self.codes[rank] is None:
                self.codes[rank] = _poll(pid)
                if self.codes[rank] is not None:
                    self._say()

    def _ask(self) -> None:
        self._asked_at = time.monotonic()
        self._send(signal.SIGTERM)

    def _send(self, number: signal.Signals) -> None:
        for pid, code in zip(self.pids, self.codes, strict=True):
            if code is None:
                os.kill(pid, number)

    def _say(self) -> None:
        temporary = self._state.with_suffix(".new")
        temporary.write_text(json.dumps({"pids": self.pids, "codes": self.codes}))
        temporary.replace(self._state)


def main() -> None:
    """Imports, serves, and in a rank runs the command as `python -m dist_oaa` does."""
    from dist_oaa.runtime.signals import die_with_parent

    die_with_parent()
    for name in (*(f"dist_oaa.stages.{stage}" for stage in STAGES), *LATE):
        importlib.import_module(name)
    threads = len(os.listdir("/proc/self/task"))
    assert threads == 1, f"{threads} threads before the first fork"
    print(json.dumps({"ready": os.getpid()}), flush=True)
    become = serve()
    if become is not None:
        sys.argv = ["oaa", *become]
        runpy.run_module("dist_oaa", run_name="__main__", alter_sys=False)


if __name__ == "__main__":
    main()
