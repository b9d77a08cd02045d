"""Several "nodes" on one machine: network namespaces joined by a switch, for tests (Linux, root).

Each node has a network, a loopback and a host name of its own and shares the disks, as the nodes
of a cluster with shared storage do. All of it is called after this process's id and is removed at
the end, whatever happens; nothing of it touches the machine's own interfaces.
"""

import contextlib
import functools
import os
import shlex
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

SUBNET = "10.77.0"
# `ip netns exec NAME` shows these files as /etc/hosts and the like.
OWN_ETC = Path("/etc/netns")
# A connection across a cut cable fails after some 13 s instead of 15 minutes.
FEW_RETRIES = "echo 5 > /proc/sys/net/ipv4/tcp_retries2"


class Node:
    """One namespace with an address and a host name."""

    def __init__(self, number: int, prefix: str) -> None:
        self.name = f"node{number}"
        self.address = f"{SUBNET}.{number + 1}"
        self.space, self.port = f"{prefix}-{self.name}", f"port{number}"

    def command(self, command: Sequence[str], disk: tuple[Path, Path] | None = None) -> list[str]:
        """The same command, run on this node; the process keeps its id through all of it.

        Args:
            disk: a folder that this node sees at the place of another one, as its own disk.
        """
        enter = ["ip", "netns", "exec", self.space, "unshare", "--uts", "bash", "-c"]
        steps = ['hostname "$0"', FEW_RETRIES]
        if disk is not None:
            steps.append(f"mount --bind {shlex.quote(str(disk[0]))} {shlex.quote(str(disk[1]))}")
        return [*enter, " && ".join([*steps, 'exec "$@"']), self.name, *command]


class Network:
    """Some nodes at a switch.

    Args:
        misled: each node takes its own name for 127.0.1.1, as many distributions install it.
    """

    def __init__(self, nodes: int, misled: bool = False) -> None:
        prefix = f"oaa-{os.getpid()}"
        self.switch = f"{prefix}-switch"
        self.misled = misled
        self.nodes = [Node(number, prefix) for number in range(nodes)]

    def build(self) -> None:
        """Makes namespaces, cables and addresses."""
        _ip("netns", "add", self.switch)
        _ip("-n", self.switch, "link", "add", "switch", "type", "bridge")
        _ip("-n", self.switch, "link", "set", "switch", "up")
        for node in self.nodes:
            (OWN_ETC / node.space).mkdir(parents=True)
            (OWN_ETC / node.space / "hosts").write_text(self._hosts(node))
            _ip("netns", "add", node.space)
            ends = ("eth0", "netns", node.space, "type", "veth")
            _ip("link", "add", *ends, "peer", "name", node.port, "netns", self.switch)
            _ip("-n", self.switch, "link", "set", node.port, "master", "switch", "up")
            _ip("-n", node.space, "address", "add", f"{node.address}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                _ip("-n", node.space, "link", "set", device, "up")

    def _hosts(self, node: Node) -> str:
        lines = ["127.0.0.1 localhost"]
        for other in self.nodes:
            lines.append(
                f"{'127.0.1.1' if self.misled and other is node else other.address} {other.name}"
            )
        return "\n".join([*lines, ""])

    def cut(self, node: Node) -> None:
        """Pulls the node's cable: what is sent is lost without a word."""
        _ip("-n", self.switch, "link", "set", node.port, "down")

    def heal(self, node: Node) -> None:
        """Plugs it in again."""
        _ip("-n", self.switch, "link", "set", node.port, "up")

    def remove(self) -> None:
        """Takes everything away again, and kills what still runs on a node."""
        for node in self.nodes:
            for pid in _ip("netns", "pids", node.space, check=False).split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            shutil.rmtree(OWN_ETC / node.space, ignore_errors=True)
        for space in (*(node.space for node in self.nodes), self.switch):
            _ip("netns", "delete", space, check=False)
        with contextlib.suppress(OSError):
            OWN_ETC.rmdir()  # unless it was there before


@contextlib.contextmanager
def network(nodes: int, misled: bool = False) -> Iterator[Network]:
    """A network for the length of a block."""
    made = Network(nodes, misled)
    try:
        made.build()
        yield made
    finally:
        made.remove()


@functools.cache
def why_not() -> str:
    """Why this machine lets nobody make such nodes; empty where it does."""
    if not all(shutil.which(tool) for tool in ("ip", "unshare")):
        return "ip (iproute2) or unshare is not installed"
    try:
        with network(1) as trial:
            greeting = trial.nodes[0].command(["hostname"])
            said = subprocess.run(greeting, capture_output=True, text=True, check=True).stdout
            return "" if said.strip() == "node0" else f"a node calls itself {said.strip()!r}"
    except (subprocess.CalledProcessError, OSError) as error:
        said = getattr(error, "stderr", None) or str(error)
        return " ".join(said.split())


def _ip(*arguments: str, check: bool = True) -> str:
    command = ["ip", *arguments]
    return subprocess.run(command, check=check, capture_output=True, text=True).stdout
