"""A run as a process of this machine that never outlives us."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Protocol

from dist_oaa import __version__
from dist_oaa.runtime.signals import die_with_parent

# A worker answers a signal at the end of its step or, between epochs, after measuring; torchrun's
# own patience of 30 s is too short for that on a CPU.
PATIENCE_S = 300
LAUNCHER = "torch.distributed.run"
"""The module that starts the ranks of a run."""
# Of NVIDIA's drivers for cards, Jetson (old and new) and WSL, and of AMD's.
GPU_DEVICES = ("nvidiactl", "nvhost-ctrl-gpu", "nvgpu", "dxg", "kfd")


class Process(Protocol):
    """What running a run needs of a process; subprocess.Popen has it."""

    def poll(self) -> int | None:
        """Exit code, None while it runs."""

    def wait(self, timeout: float | None = None) -> int:
        """Exit code; raises subprocess.TimeoutExpired."""

    def terminate(self) -> None:
        """Asks it to stop: SIGTERM."""

    def kill(self) -> None:
        """Ends it: SIGKILL."""


Launch = Callable[[Sequence[str], Path], Process]


def launch(
    command: Sequence[str],
    log: Path,
    variables: Mapping[str, str] | None = None,
    folder: str | None = None,
) -> Process:
    """Starts a command, its output at the end of `log`.

    In a session of its own, so that Ctrl-C reaches it once, through us; and tied to this process:
    if that is killed, the kernel kills the command, and its workers with it (`die_with_parent`).

    Args:
        variables: of its environment, over this process's own.
        folder: that it runs in; this process's own by default.
    """
    with open(log, "ab") as file:
        return subprocess.Popen(
            list(command),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=environment(os.environ, LAUNCHER in command) | dict(variables or {}),
            cwd=folder,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform.startswith("linux") else None,
        )


def environment(
    inherited: "os._Environ[str] | dict[str, str]", several: bool = True
) -> dict[str, str]:
    """The environment of a run.

    Args:
        several: it has several ranks: one thread for what is not their own arithmetic. A run of
            one rank takes OMP_NUM_THREADS for the number of its own threads.
    """
    mine = {k: v for k, v in inherited.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    ours = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(PATIENCE_S)}
    threads = {"OMP_NUM_THREADS": "1"} if several else {}
    return ours | threads | mine | {"PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}


@dataclass(frozen=True)
class Machine:
    """What runs on, for the report."""

    gpus: tuple[str, ...]
    cores: int
    processor: str
    versions: str

    @property
    def workers(self) -> int:
        """Processes that a run gets when nobody says how many."""
        return len(self.gpus) or min(2, self.cores)

    def __str__(self) -> str:
        if self.gpus:
            return f"{len(self.gpus)} x {self.gpus[0]}"
        return f"{self.cores} cores of {self.processor}, no GPU"


def has_gpu_driver(devices: Path = Path("/dev")) -> bool:
    """Whether there can be a GPU that torch uses; without a driver's device there is none.

    A look at a folder, where an answer of torch's takes seconds.
    """
    return not sys.platform.startswith("linux") or any((devices / x).exists() for x in GPU_DEVICES)


def gpu_names() -> list[str]:
    """The GPUs that torch sees, in its order."""
    question = (
        "import json, torch; n = torch.cuda.device_count(); "
        "print(json.dumps([torch.cuda.get_device_name(i) for i in range(n)]))"
    )
    answer = subprocess.run(
        [sys.executable, "-c", question], capture_output=True, text=True, check=False
    )
    return json.loads(answer.stdout) if answer.returncode == 0 else []


def this_machine() -> Machine:
    """Asks for GPUs in a process of its own: this one shall stay small beside the runs."""
    gpus = gpu_names() if has_gpu_driver() else []
    known = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if known else os.cpu_count() or 1
    packages = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "timm"))
    versions = f"dist_oaa {__version__}, {packages}, Python {platform.python_version()}"
    return Machine(tuple(gpus), cores, processor_name(), versions)


def processor_name() -> str:
    """The processor as Linux calls it, else its architecture."""
    try:
        match = re.search(
            r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M
        )
    except OSError:
        match = None
    return match[1] if match else platform.machine()


def last_line(log: Path, start: int) -> str:
    """The newest whole line that a log holds after `start` bytes; empty where there is none."""
    try:
        with open(log, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - 4096))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def failure_lines(log: Path, start: int, count: int = 8) -> list[str]:
    """Why a run failed, from its log after `start` bytes.

    The command's own sentence where there is one; otherwise the last lines before torchrun's
    account of which ranks failed, which says nothing of why.
    """
    with open(log, "rb") as file:
        file.seek(start)
        lines = file.read().decode(errors="replace").splitlines()
    sentences = [line for line in lines if line.startswith("oaa: error:")]
    if sentences:
        return list(dict.fromkeys(sentences))[-count:]
    launcher = [n for n, line in enumerate(lines) if "torch/distributed/elastic" in line]
    before = [line for line in lines[: launcher[0] if launcher else None] if line.strip()]
    return (before or [line for line in lines if line.strip()])[-count:]


def describe_exit(code: int) -> str:
    """An exit code in words."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return f"exit code {code}"
