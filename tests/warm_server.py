"""A process that has already imported what takes seconds to import, and forks others off itself.

Started by `warm_processes`, with its end of a socket as first argument. Each request is a command
of Python, as `python -m dist_oaa ...` or `python script.py ...`; the answer is the id of a process
that goes on as if it had just been started with that command. It is a child of the process that
asked, not of this one: a process between them ends at once, and the kernel then gives its child to
the one that asked, which is a "subreaper" at that moment.

torchrun starts its workers itself. Where the command is torchrun, the workers that it is going to
start are forked before it begins, while it has one thread, and wait until it would start them.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import socket
import sys
import time
from collections.abc import Mapping, Sequence

from warm_processes import Process, can_be_warm, receive, send

# What the stages import when they are called, besides themselves.
PRELOADED = (
    "attrs", "docstring_parser", "matplotlib.pyplot", "scipy.stats", "tensorboard.plugins.hparams",
    "timm", "torch._dynamo", "torch.distributed.launcher.api", "torch.utils.tensorboard",
    "torchmetrics.functional.classification",
)  # fmt: skip
LAUNCHER = "torch.distributed.run"


def preload() -> None:
    """Imports all commands, with the level of messages that they would choose for torch."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    from dist_oaa.cli import COMMANDS

    for module in (*PRELOADED, *(module for module, _ in COMMANDS.values())):
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # a collection in a child would otherwise copy every page


def serve(asked: socket.socket) -> dict:
    """Forks a process per request; returns in the new process, with what it shall do."""
    while (request := receive(asked)) is not None:
        task, files = request
        told, tell = os.pipe()
        middle = os.fork()
        if middle == 0:
            child = os.fork()
            if child == 0:
                while os.getppid() != task["parent"]:
                    time.sleep(0.001)
                return task | {"files": files}
            os.write(tell, str(child).encode())
            os._exit(0)
        os.waitpid(middle, 0)
        send(asked, {"pid": int(os.read(told, 20))})
        for file in (told, tell, *files):
            os.close(file)
    sys.exit()


def become(task: Mapping) -> None:
    """Turns this forked process into one that has just been started with a command."""
    os.setsid()
    for number, file in enumerate(task["files"], start=1):
        os.dup2(file, number)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.environ.clear()
    os.environ.update(task["env"])
    os.chdir(task["cwd"])
    set_command_line(task["command"])
    import numpy as np

    np.random.seed()  # noqa: NPY002 - Python's and torch's generators do so by themselves


def set_command_line(command: Sequence[str]) -> None:
    """Has `ps` and /proc show a command as ours, in the room that `Server` left for it."""
    with open("/proc/self/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end
    text = b"\0".join(word.encode() for word in command)[: end - start - 1]
    ctypes.memmove(start, text.ljust(end - start, b"\0"), end - start)


def execute(command: Sequence[str]) -> None:
    """What the interpreter does with `[-u] -m MODULE ...` or `SCRIPT ...`."""
    words = list(command[2:] if command[1] == "-u" else command[1:])
    if words[0] == "-m":
        sys.path[0] = os.getcwd()
        sys.argv = words[1:]
        if words[1] == LAUNCHER:
            fork_workers_ahead(words[2:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(words[0]))
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")


def fork_workers_ahead(arguments: Sequence[str]) -> None:
    """Forks torchrun's workers, and has it take them instead of starting new processes.

    Those of a restart are started as ever.
    """
    from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

    count = int(arguments[arguments.index("--nproc-per-node") + 1])
    waiting = [fork_worker() for _ in range(count)]
    start, environment = subprocess_handler.Popen, dict(os.environ)

    def take(args: Sequence[str], env: dict[str, str], stdout, stderr, **settings):
        if not waiting or stdout or stderr or not can_be_warm(args, env, environment):
            return start(args=args, env=env, stdout=stdout, stderr=stderr, **settings)
        pid, tell = waiting.pop(0)
        task = {"command": list(args), "env": env, "cwd": os.getcwd(), "files": []}
        with open(tell, "wb") as pipe:
            pipe.write(json.dumps(task).encode())
        return Process(pid, list(args))

    subprocess_handler.Popen = take


def fork_worker() -> tuple[int, int]:
    """A child that waits for its command, or for the end of this process; its id and a pipe."""
    told, tell = os.pipe()
    pid = os.fork()
    if pid:
        os.close(told)
        return pid, tell
    # Without the pipes of the other workers, which would keep them waiting for ever.
    os.dup2(told, 3)
    os.closerange(4, os.sysconf("SC_OPEN_MAX"))
    with open(3, "rb") as pipe:
        text = pipe.read()
    if not text:
        os._exit(0)
    task = json.loads(text)
    become(task)
    execute(task["command"])
    sys.exit()


if __name__ == "__main__":
    connection = socket.socket(fileno=int(sys.argv[1]))
    preload()
    send(connection, {"threads": len(os.listdir("/proc/self/task"))})
    todo = serve(connection)
    connection.detach()  # its number will be another file's
    become(todo)
    execute(todo["command"])
