"""Several nodes for real: network namespaces with cables that are cut, and nodes that are lost.

Each node runs launch/multinode.sh as a user would, with a host name and an address of its own.
"""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dist_oaa.cli import run as oaa
from namespaces import Network, Node, network, why_not
from processes import REPOSITORY, Running, descendants, is_running, run, torchrun
from runs import assert_same_run, maps_of, settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = str(REPOSITORY / "launch" / "multinode.sh")
# Launchers that are cut off from HEAD, or wait for a lost node, give up soon.
SOON = "last_call_timeout=5,keep_alive_interval=1,keep_alive_max_attempt=3,read_timeout=10"
TIMEOUT_S = 6.0
MORE_S = 25.0
"""Seconds beyond the time-out in which a run that has lost a node must be gone: roll call (3 s),
its store's 5 retransmissions (13 s), torchrun's clean-up, a slow machine."""


@pytest.fixture(autouse=True)
def permitted() -> None:
    reason = why_not()
    if reason:
        pytest.skip(f"no nodes can be made of network namespaces here: {reason}")


@pytest.fixture
def nodes() -> Iterator[Callable[..., Network]]:
    """Makes a network of so many nodes; it is removed when the test ends."""
    opened = []

    def make(count: int, **options: bool) -> Network:
        opened.append(network(count, **options))
        return opened[-1].__enter__()

    yield make
    for each in opened:
        each.__exit__(None, None, None)


def arguments(data: Path, run_dir: Path, **changes: object) -> list[str]:
    few = {"optim.epochs": 6, "evaluate.every_epochs": 0, "checkpoint.every_steps": 3}
    # One thread each: sums over more threads differ in the last bits.
    watched = {"runtime.threads": 1, "runtime.timeout_s": TIMEOUT_S, "runtime.quiet_s": 3}
    return settings(data, run_dir, **few | watched | changes)


@pytest.fixture(scope="module")
def whole(demo_data, tmp_path_factory) -> Callable[[int], Path]:
    """The run directory of an uninterrupted run of so many ranks on one node, made once."""
    made: dict[int, Path] = {}

    def find(ranks: int) -> Path:
        if ranks not in made:
            run_dir = tmp_path_factory.mktemp("whole") / f"run{ranks}"
            flags = arguments(demo_data, run_dir, **{"runtime.timeout_s": 60})
            command = torchrun(ranks, "-m", "dist_oaa", *flags)
            code, text = run(command, run_dir.with_suffix(".log"), seconds=200)
            assert code == 0, text
            made[ranks] = run_dir
        return made[ranks]

    return find


def start(node: Node, flags: list[str], log: Path, disk=None, **variables: str) -> Running:
    fixed = {"HEAD": "node0", "PROCESSES": "1", "RENDEZVOUS": SOON}
    return Running(node.command([SCRIPT, *flags], disk), log, **fixed | variables)


def start_all(made: Network, flags: list[str], folder: Path, **variables: str) -> list[Running]:
    variables = {"NODES": str(len(made.nodes))} | variables
    folder.mkdir(exist_ok=True)
    return [start(node, flags, folder / f"{node.name}.log", **variables) for node in made.nodes]


def finish(started: list[Running], seconds: float) -> list[int]:
    try:
        return [each.wait(seconds) for each in started]
    finally:
        for each in started:
            if each.process.poll() is None:
                each.kill()


def steps_logged(run_dir: Path) -> list[int]:
    """Steps of the lines of metrics.jsonl, in their order."""
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


def newest_step(run_dir: Path) -> int:
    return max(steps_logged(run_dir), default=0)


@pytest.mark.parametrize("count", [2, 3])
def test_nodes_give_what_one_node_gives(count, whole, nodes, demo_data, tmp_path):
    flags = arguments(demo_data, tmp_path / "run", **{"runtime.timeout_s": 60})
    started = start_all(nodes(count), flags, tmp_path / "logs")
    codes = finish(started, 150)
    text = "".join(each.text() for each in started)
    assert codes == [0] * count, text
    assert text.count(f"{count} processes on cpu") == 1, "only rank 0 speaks"
    assert_same_run(whole(count), tmp_path / "run")


def test_a_cut_cable_is_named_and_a_healed_run_goes_on(whole, nodes, demo_data, tmp_path):
    run_dir, made = tmp_path / "run", nodes(3)
    started = start_all(made, arguments(demo_data, run_dir), tmp_path / "first")
    started[0].wait_until(lambda: newest_step(run_dir) >= 4, 150)
    family = [pid for each in started for pid in descendants(each.process.pid)]
    made.cut(made.nodes[2])
    begin = time.monotonic()
    codes = finish(started, TIMEOUT_S + MORE_S)
    texts = [each.text() for each in started]
    assert codes == [1, 1, 1], texts
    assert time.monotonic() - begin > TIMEOUT_S / 2, "a short hitch must not end a run"
    assert not [pid for pid in family if is_running(pid)]
    for rank in (0, 1):
        sentence = f"rank {rank} (node{rank}) lost contact: rank 2 (node2) gives no sign of life;"
        assert f"oaa: error: {sentence} continue with --resume" in texts[rank]
    assert (
        "oaa: error: rank 2 (node2) lost contact with the other ranks: rank 0 (node0) cannot be "
        "reached" in texts[2]
    )

    made.heal(made.nodes[2])
    resumed = start_all(made, [*arguments(demo_data, run_dir), "--resume"], tmp_path / "second")
    codes = finish(resumed, 150)
    assert codes == [0, 0, 0], [each.text() for each in resumed]
    assert "resuming after" in resumed[0].text()
    assert_same_run(whole(3), run_dir)


def test_a_lost_node_is_survived_and_may_come_back(nodes, demo_data, tmp_path):
    """Nobody types --resume; the ranks are three, then two, then three again."""
    run_dir, made = tmp_path / "run", nodes(3)
    flags = arguments(demo_data, run_dir, **{"optim.epochs": 60, "runtime.timeout_s": 30})
    elastic = {"NODES": "1:3", "HEAD": "node1"}
    started = start_all(made, flags, tmp_path / "logs", **elastic)
    started[0].wait_until((run_dir / "checkpoints" / "latest.json").exists, 150)
    # Rank 0's node goes: the ranks' own store goes with it, the launchers' on node1 stays.
    made.cut(made.nodes[0])
    started[0].kill()
    begun = newest_step(run_dir)
    survivor = started[1]
    survivor.wait_until(lambda: "2 processes on cpu" in survivor.text(), 150)
    assert "rank 0 (node0) cannot be reached, by whose node all find each other" in survivor.text()
    assert "it is started again" in survivor.text()
    survivor.wait_until(lambda: newest_step(run_dir) > begun + 4, 100)

    made.heal(made.nodes[0])
    back = start(made.nodes[0], flags, tmp_path / "logs" / "back.log", **elastic)
    codes = finish([started[1], started[2], back], 300)
    texts = [each.text() for each in (started[1], started[2], back)]
    assert codes == [0, 0, 0], texts
    assert any("stopped by SIGTERM" in text for text in texts), "the ranks save before they yield"
    assert "3 processes on cpu" in "".join(texts)
    assert "".join(texts).count("resuming after") == 2
    assert_complete(run_dir, steps=60 * 4)
    assert run_again_is_refused(made.nodes[0], flags, tmp_path / "again.log")


def assert_complete(run_dir: Path, steps: int) -> None:
    """Every step is logged once and in order, and the store is whole."""
    logged = steps_logged(run_dir)
    of_epochs = [step for step in logged if logged.count(step) > 1]
    assert sorted(set(logged)) == list(range(1, steps + 1))
    assert logged == sorted(logged)
    # An epoch's last step has a line of its own and the epoch's.
    assert set(of_epochs) == set(range(4, steps + 1, 4))
    assert len(of_epochs) == 2 * steps / 4
    assert oaa(["store", "verify", str(run_dir)]) == 0
    assert len(maps_of(run_dir)) > 24


def run_again_is_refused(node: Node, flags: list[str], log: Path) -> bool:
    """A launch of its own does not take the finished run for its own, elastic or not."""
    variables = {"NODES": "1:1", "HEAD": "node0", "MAX_RESTARTS": "0"}
    again = start(node, flags, log, **variables)
    assert again.wait(60) != 0
    return "holds an earlier run; continue it with --resume" in again.text()


def test_without_shared_storage_the_shards_are_gathered(whole, nodes, demo_data, tmp_path):
    """Each node sees a disk of its own, and takes its own name for a loopback address."""
    disk, made = tmp_path / "disk", nodes(2, misled=True)
    disk.mkdir()
    flags = arguments(demo_data, disk / "run", **{"runtime.timeout_s": 60})
    started = []
    for node in made.nodes:
        own = tmp_path / node.name
        own.mkdir()
        variables = {"NODES": "2", "GLOO_SOCKET_IFNAME": "eth0", "ADDRESS": node.address}
        log = tmp_path / f"{node.name}.log"
        started.append(start(node, flags, log, disk=(own, disk), **variables))
    codes = finish(started, 150)
    assert codes == [0, 0], [each.text() for each in started]
    assert not list(disk.iterdir()), "nothing is shared"

    gathered = tmp_path / "gathered"
    runs = [str(tmp_path / node.name / "run") for node in made.nodes]
    assert oaa(["store", "gather", *runs, str(gathered)]) == 0
    assert maps_of(gathered) == maps_of(whole(2))
    alone, expected = weights_of(tmp_path / "node0" / "run"), weights_of(whole(2))
    assert {k: v.tobytes() for k, v in alone.items()} == {
        k: v.tobytes() for k, v in expected.items()
    }
