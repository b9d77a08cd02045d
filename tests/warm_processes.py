"""Commands of Python that start in a moment, from a process that has imported torch and ours.

A fresh `python -m dist_oaa` takes four seconds of a core to import what it needs, each rank of a
run again. `start` forks such a process off `warm_server` instead. It has the environment, folder,
session, output and arguments of a fresh one, is a child of the process that asks, and ends as a
fresh one does; what it does not have is a hash seed and modules of its own.

With OAA_TEST_FRESH=1 in the environment, or anywhere but on Linux, every process is a fresh one.
"""

import atexit
import ctypes
import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

SERVER = Path(__file__).with_name("warm_server.py")
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
# Read once, by the interpreter or as a library is loaded: where these differ from the server's, a
# fork of it would not do what was asked.
READ_AT_START = (
    "CUDA_", "GOMP_", "KMP_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON", "TORCH",
    "TRITON_",
)  # fmt: skip
READ_LATER = ("TORCHELASTIC_", "TORCH_NCCL_", "TORCH_ELASTIC_", "TORCH_CPP_LOG_LEVEL")
MODULES = ("dist_oaa", "torch.distributed.run")


class Process:
    """A child that `subprocess` did not start, with what tests and torchrun use of a Popen."""

    def __init__(self, pid: int, args: Sequence[str]) -> None:
        self.pid, self.args, self.returncode = pid, args, None

    def poll(self) -> int | None:
        """Exit code, minus the signal's number after a signal; None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Exit code; raises subprocess.TimeoutExpired."""
        if self.poll() is None:
            file = os.pidfd_open(self.pid)
            try:
                select.select([file], [], [], timeout)
            finally:
                os.close(file)
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Server:
    """A running `warm_server`, started by the first command that wants it."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = dict(env)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        room = "." * 16_000  # for the command line of what is forked
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), str(theirs.fileno()), room],
            env=self.env,
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
        theirs.close()
        self.connection = ours
        atexit.register(ours.close)
        ready = receive(ours)
        threads = ready[0]["threads"] if ready else 0
        self.problem = "" if threads == 1 else f"the warm server has {threads} threads"

    def start(
        self, command: Sequence[str], env: Mapping[str, str], cwd: Path, log: BinaryIO
    ) -> Process:
        """Starts a command in a session of its own, all its output in one file."""
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        task = {"command": list(command), "env": dict(env), "cwd": str(cwd), "parent": os.getpid()}
        prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            send(self.connection, task, [log.fileno(), log.fileno()])
            answer = receive(self.connection)
        finally:
            prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert answer, "the warm server has died"
        return Process(answer[0]["pid"], command)


@functools.cache
def server() -> Server | None:
    """This process's server; None, with a warning, where it cannot be used."""
    from processes import environment

    started = Server(environment())
    if started.problem:
        warnings.warn(f"{started.problem}: every process is a fresh one", stacklevel=2)
        started.connection.close()
        return None
    return started


def start(
    command: Sequence[str], env: Mapping[str, str], cwd: Path, log: BinaryIO
) -> Process | None:
    """Starts a command that has no need to import; None where only a fresh process will do."""
    if not sys.platform.startswith("linux") or os.environ.get("OAA_TEST_FRESH"):
        return None
    from processes import environment

    if not can_be_warm(command, env, environment()) or server() is None:
        return None
    return server().start(command, env, cwd, log)


def can_be_warm(
    command: Sequence[str], env: Mapping[str, str], server_env: Mapping[str, str]
) -> bool:
    """Whether a fork of a server with some environment can stand for a command with another."""
    words = [word for word in command if word != "-u"]
    if words[0] != sys.executable or len(words) < 2:
        return False
    if words[1] == "-m":
        known = len(words) > 2 and words[2] in MODULES
    else:
        known = words[1].endswith(".py")

    def early(variables: Mapping[str, str]) -> dict[str, str]:
        return {
            name: value
            for name, value in variables.items()
            if name.startswith(READ_AT_START) and not name.startswith(READ_LATER)
        }

    return known and early(env) == early(server_env)


def send(connection: socket.socket, message: Mapping, files: Sequence[int] = ()) -> None:
    """One message, and open files with it."""
    socket.send_fds(connection, [json.dumps(message).encode()], list(files))


def receive(connection: socket.socket) -> tuple[dict, list[int]] | None:
    """The next message and its files; None when the other end is gone."""
    text, files, _, _ = socket.recv_fds(connection, 1 << 20, 4)
    return (json.loads(text), files) if text else None
