"""A trial on several nodes: one actor on each further node starts torchrun's share there."""

import fcntl
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from dist_oaa.stages.launching.processes import Process, launch
from dist_oaa.stages.tuning.commands import HOSTS, JOINS, variables
from dist_oaa.stages.tuning.sweep import Sweep

PORTS = range(20011, 29999)
"""Below the ports that systems give to outgoing connections."""


class Agent:
    """Starts and ends the processes of one further node."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._process: Process | None = None

    def start(self, command: Sequence[str], log: str) -> None:
        """Starts a command."""
        gpus = bool(ray.get_gpu_ids())
        self._process = launch(command, Path(log), variables(gpus), self._folder)

    def poll(self) -> int | None:
        """Its exit code, None while it runs or where there is none."""
        return self._process.poll() if self._process else None

    def terminate(self) -> None:
        """Asks it to stop."""
        if self._process:
            self._process.terminate()

    def kill(self) -> None:
        """Ends it and its workers, which die with it."""
        if self._process:
            self._process.kill()
            self._process.wait()


class NodeGroup:
    """The further nodes of a trial, and the place where all of them meet."""

    def __init__(self, sweep: Sweep) -> None:
        group = get_current_placement_group()
        remote = ray.remote(Agent)
        self.agents = [
            remote.options(
                num_cpus=sweep.workers * sweep.cpus_per_worker,
                num_gpus=sweep.workers * sweep.gpus_per_worker,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=group, placement_group_bundle_index=rank
                ),
            ).remote(sweep.folder)
            for rank in range(1, sweep.nodes)
        ]
        self._port = None

    @property
    def endpoint(self) -> str:
        """HOST:PORT of a new meeting place; the port stays this trial's until the next one."""
        if self._port is not None:
            self._port.close()
        number, self._port = reserve_port()
        return f"{ray.util.get_node_ip_address()}:{number}"

    def start(self, own: Process, command: Sequence[str], log: Path) -> "GroupProcess":
        """Starts the other nodes' share of a command that was started here."""
        theirs = [JOINS if word == HOSTS else word for word in command]
        for rank, agent in enumerate(self.agents, 1):
            ray.get(agent.start.remote(theirs, str(log.with_name(f"log-node{rank}.txt"))))
        return GroupProcess(own, self.agents)

    def close(self) -> None:
        """Ends the actors, and with them whatever they still run."""
        for agent in self.agents:
            ray.kill(agent)
        if self._port is not None:
            self._port.close()


class GroupProcess:
    """The processes of all nodes as one: over when all are, failed when one has."""

    def __init__(self, own: subprocess.Popen, agents: Sequence) -> None:
        self.own, self.agents, self.pid = own, agents, own.pid

    def poll(self) -> int | None:
        """The exit code of the first that failed, 0 when all ended well, None before."""
        codes = [self.own.poll(), *self._ask("poll")]
        failed = [code for code in codes if code]
        if failed:
            return failed[0]
        return None if None in codes else 0

    def wait(self, timeout: float | None = None) -> int:
        """The exit code.

        Raises:
            subprocess.TimeoutExpired: when there is none in time.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(str(self.own.args), timeout or 0)
            time.sleep(0.1)
        return code

    def terminate(self) -> None:
        """Asks all to stop."""
        self.own.terminate()
        self._ask("terminate")

    def kill(self) -> None:
        """Ends all."""
        self.own.kill()
        self._ask("kill")

    def _ask(self, method: str) -> list:
        """What the agents answer; a node that is lost has been killed."""
        answers = []
        for agent in self.agents:
            try:
                answers.append(ray.get(getattr(agent, method).remote(), timeout=10))
            except ray.exceptions.RayError:
                answers.append(-9)
        return answers


def reserve_port() -> tuple[int, object]:
    """A port of this node that nobody listens at, and what keeps other trials off it: a file to
    close."""
    folder = Path(tempfile.gettempdir()) / f"oaa-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    for number in PORTS:
        file = open(folder / str(number), "w", encoding="utf-8")  # noqa: SIM115
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with socket.socket() as probe:
                probe.bind(("", number))
            return number, file
        except OSError:
            file.close()
    raise RuntimeError(f"no free port between {PORTS.start} and {PORTS.stop} on this node")
