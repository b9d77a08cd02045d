"""Attacks on a run: what there is, how they are drawn, how they strike, what must follow."""

import json
import random
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chaos_processes import Forked, Node, descendants, started_at
from chaos_scenarios import Scenario
from dist_oaa.runtime.faults import POINTS

# Groups of fault points, by what a run is doing there.
GROUPS = {
    "kill in a step": ("loop.", "data."),
    "kill in a log line": ("tracking.",),
    "kill in a commit": ("saver.", "store."),
    "kill in a checkpoint": ("checkpoint.", "files."),
}
# Points that only the first rank passes.
FIRST_ONLY = ("checkpoint.", "files.", "tracking.")
# How often a start of a few steps passes a point at the least; a fault's hit is at most this.
PASSES = {"data.": 12, "loop.step": 5, "tracking.": 6, "store.": 5, "saver.": 3, "files.": 12}
# An attack costs a start of a run, and a rank that is stopped the whole time-out besides.
DECK = {
    "kill in a step": 3,
    "kill in a log line": 2,
    "kill in a commit": 6,
    "kill in a checkpoint": 6,
    "SIGKILL rank": 3,
    "SIGKILL launcher": 2,
    "SIGKILL node": 3,
    "SIGKILL data worker": 1,
    "SIGTERM rank": 2,
    "SIGTERM launcher": 2,
    "SIGTERM node": 1,
    "SIGSTOP rank": 1,
    "SIGSTOP launcher": 1,
    "SIGSTOP node": 1,
}
STOPPED_TIMEOUT_S = 8.0
"""runtime.timeout_s where a rank is stopped."""
USUAL_TIMEOUT_S = 60.0
END_S = 90.0
"""Longest time from an attack to the end of all processes, beyond the run's own time-out."""
STEP = re.compile(r"\bstep (\d+)/(\d+)")


@dataclass(frozen=True)
class Attack:
    """One attack on one start of a run."""

    kind: str
    """A key of DECK."""
    real: bool
    """Under the real torchrun."""
    rank: int
    steps: int = 0
    """Steps that this start makes before a signal; 0 sends it while the run begins."""
    delay_s: float = 0.0
    """Seconds from that step to the signal."""
    point: str = ""
    """The fault point, where it is one."""
    hit: int = 1

    @property
    def timeout_s(self) -> float:
        """runtime.timeout_s of the start."""
        return STOPPED_TIMEOUT_S if self.kind == "SIGSTOP rank" else USUAL_TIMEOUT_S

    def fault(self, struck: Path) -> str:
        """OAA_FAULT of the start; `struck` is made as it strikes."""
        if not self.point:
            return ""
        return f"{self.point}=kill,rank={self.rank},hit={self.hit},once={struck}"

    def __str__(self) -> str:
        way = "torchrun" if self.real else "forked"
        if self.point:
            return f"SIGKILL at {self.point}, rank {self.rank}, pass {self.hit} ({way})"
        whom = f" {self.rank}" if self.kind.endswith("rank") else ""
        return f"{self.kind}{whom} {self.delay_s:.2f} s after {self.steps} steps ({way})"


def deck(rng: random.Random) -> Iterator[str]:
    """Kinds of attacks without end, each as often as DECK says."""
    while True:
        cards = [kind for kind, count in DECK.items() for _ in range(count)]
        rng.shuffle(cards)
        yield from cards


def draw(kind: str, rng: random.Random, scenario: Scenario, ranks: int) -> Attack:
    """An attack of a kind at a random place."""
    real = rng.random() < 1 / 6
    rank = rng.randrange(ranks)
    if kind in GROUPS:
        passed = [n for n in POINTS if n.startswith(GROUPS[kind]) and scenario.passes(n)]
        point = rng.choice(passed)
        most = next((n for prefix, n in PASSES.items() if point.startswith(prefix)), 1)
        rank = 0 if point.startswith(FIRST_ONLY) else rank
        return Attack(kind, real, rank, point=point, hit=rng.randint(1, most))
    steps = rng.choice([0, 1, 1, 2, 2, 3, 4, 5])
    # While a run begins, a second may be anything from its first import to its first step.
    delay_s = rng.uniform(0, 6 if real else 1.5) if steps == 0 else rng.uniform(0, 0.3)
    return Attack(kind, real, rank, steps, delay_s)


def strike(attack: Attack, node: Node, run_dir: Path, struck: Path) -> tuple[bool, list[str]]:
    """Attacks a run that has just been started and waits for its end.

    Returns:
        whether it was struck before it ended by itself, and what was wrong with how it ended.
    """
    if attack.point:
        ended = node.wait(END_S + attack.timeout_s)
        hit = struck.exists()
    else:
        hit = _at_the_moment(attack, node)
        ended = _send(attack, node) if hit else node.wait(END_S + attack.timeout_s)
    said = [] if ended else [f"{attack}: the run hung for {END_S:.0f} s"]
    if not ended:
        node.kill()
    if left := node.left_over():
        said.append(f"{attack}: processes {left} outlived the run")
    if hit and ended and attack.kind.startswith("SIGTERM"):
        said += _stopped_with_a_checkpoint(attack, node, run_dir)
    # torchrun ends every failure with a traceback of its own.
    if isinstance(node, Forked) and "Traceback" in node.text():
        said.append(f"{attack}: a traceback instead of a sentence in {node.start.log}")
    return hit, said


def _at_the_moment(attack: Attack, node: Node) -> bool:
    """Waits for the moment of a signal; False when the run has ended before."""
    wants_worker = attack.kind == "SIGKILL data worker"

    def come() -> bool:
        ready = len(node.ranks()) == node.start.ranks and steps_made(node) >= attack.steps
        return ready and (not wants_worker or bool(_workers(attack, node)))

    node.wait(END_S, come)
    node.wait(attack.delay_s)
    return node.poll() is None and len(node.ranks()) == node.start.ranks


def _workers(attack: Attack, node: Node) -> list[int]:
    ranks = node.ranks()
    below = descendants(ranks[attack.rank]) if len(ranks) > attack.rank else []
    return [pid for pid in below if not _is_tracker(pid)]


def _is_tracker(pid: int) -> bool:
    """Python's own process beside spawned ones, which loads nothing."""
    try:
        return b"resource_tracker" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _send(attack: Attack, node: Node) -> bool:
    """Sends the signal and waits for the end; False when the run hangs."""
    name, target = attack.kind.split(" ", 1)
    number, ranks = signal.Signals[name], node.ranks()
    targets = {
        "rank": ranks[attack.rank : attack.rank + 1],
        "launcher": [node.launcher],
        "node": [node.launcher, *ranks],
        "data worker": _workers(attack, node),
    }[target]
    if attack.kind == "SIGKILL node":
        node.kill()
        return True
    node.send(number, targets)
    if number == signal.SIGSTOP:
        return _after_a_stop(target, targets, node)
    return node.wait(END_S)


def _after_a_stop(target: str, targets: list[int], node: Node) -> bool:
    """A node goes on after its pause; what else is stopped is killed when the others have ended."""
    if target == "node":
        time.sleep(1)
        node.send(signal.SIGCONT, targets)
        return node.wait(END_S)
    others = [pid for pid in node.ranks() if pid not in targets]
    patience_s = 1.0
    if target == "rank" and others:
        patience_s = STOPPED_TIMEOUT_S + END_S
    in_time = node.wait(patience_s, lambda: not any(map(started_at, others)))
    node.kill()
    return in_time or target == "launcher" or not others


def _stopped_with_a_checkpoint(attack: Attack, node: Node, run_dir: Path) -> list[str]:
    """A run that was asked to stop after its first step says so, exits with 75 and can go on."""
    done, total = last_step(node)
    if not steps_made(node) or node.poll() == 0 or done >= total:
        return []  # the signal came before the run listened, or when it had nothing left to do
    problems = []
    if "stopped by SIGTERM" not in node.text():
        problems.append(f"{attack}: the run does not say that it was stopped")
    if isinstance(node, Forked) and 75 not in node.codes():
        problems.append(f"{attack}: exit codes {node.codes()}, expected 75")
    if published_step(run_dir) < done:
        problems.append(f"{attack}: no checkpoint of step {done}")
    return problems


def steps_made(node: Node) -> int:
    """Steps that a start has shown so far."""
    return len(STEP.findall(node.text()))


def last_step(node: Node) -> tuple[int, int]:
    """The step that a start has shown last, and of how many; zeros before the first."""
    shown = STEP.findall(node.text())
    return (int(shown[-1][0]), int(shown[-1][1])) if shown else (0, 0)


def published_step(run_dir: Path) -> int:
    """The step of the published checkpoint; -1 when there is none."""
    latest = run_dir / "checkpoints" / "latest.json"
    if not latest.exists():
        return -1
    return int(json.loads(latest.read_bytes())["name"].split("-")[1])
