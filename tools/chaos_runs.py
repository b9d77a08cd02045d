"""An attacked run from its first start to the comparison with the uninterrupted one."""

import dataclasses
import itertools
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from chaos_attacks import END_S, USUAL_TIMEOUT_S, Attack, deck, draw, published_step, strike
from chaos_compare import compare
from chaos_processes import Launchers, Node, Preloaded, Start
from chaos_scenarios import Scenario, own, prerequisite, scenario
from dist_oaa.data.demo import generate

MOST_ATTACKS = 5


@dataclasses.dataclass(frozen=True)
class Plan:
    """A run and what will happen to it; a function of seed and number alone."""

    number: int
    scenario: str
    ranks: int
    attacks: tuple[Attack, ...]


@dataclasses.dataclass
class Result:
    """What became of an attacked run."""

    plan: Plan
    struck: list[Attack] = dataclasses.field(default_factory=list)
    """Attacks that struck before the run had ended; each is a point."""
    bits: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


class Workshop:
    """Where runs are made: a folder, data, the uninterrupted run of each scenario."""

    def __init__(self, folder: Path, preloaded: Preloaded, flags: Sequence[str] = ()) -> None:
        self.folder, self._start = folder, Launchers(preloaded)
        self._flags = list(flags)
        self._references: dict[tuple[str, int], Path] = {}
        self._maps: Path | None = None
        self._data = folder / "data"
        if not flags:
            generate(str(self._data), images=24, seed=3, size=96)

    def scenario(self, name: str) -> Scenario:
        """A scenario by name; what it learns from is made when it is first asked for."""
        if name == "own":
            return own(self._flags)
        if name == "integral" and self._maps is None:
            self._maps = self.folder / "maps"
            self._whole(prerequisite(self._data), self._maps, 1)
        return scenario(name, self._data, self._maps or self.folder)

    def reference(self, name: str, ranks: int) -> Path:
        """The uninterrupted run of a scenario."""
        key = (name, ranks)
        if key not in self._references:
            self._references[key] = self.folder / f"whole-{name}-{ranks}"
            self._whole(self.scenario(name), self._references[key], ranks)
        return self._references[key]

    def _whole(self, chosen: Scenario, run_dir: Path, ranks: int) -> None:
        node = self.start(chosen, run_dir, ranks, 0)
        if not (node.wait(3600) and node.poll() == 0):
            node.kill()
            raise SystemExit(f"the uninterrupted run failed, see {node.start.log}")

    def start(
        self, chosen: Scenario, run_dir: Path, ranks: int, count: int, attack: Attack | None = None
    ) -> Node:
        """Starts a run or lets it go on; `count` numbers its starts."""
        timeout_s = attack.timeout_s if attack else USUAL_TIMEOUT_S
        more = ["--resume"] if published_step(run_dir) >= 0 else []
        if attack and attack.kind == "SIGKILL data worker":
            more += ["--data.workers", "1"]
        start = Start(
            chosen.argv(run_dir, timeout_s, *more),
            ranks,
            self.log(run_dir, count),
            temporary=self.folder / f"{run_dir.name}-tmp-{count}",
            fault=attack.fault(self.struck(run_dir, count)) if attack else "",
        )
        return self._start(start, real=attack is not None and attack.real)

    def log(self, run_dir: Path, count: int) -> Path:
        """Where a start's output goes."""
        return self.folder / f"{run_dir.name}-{count}.log"

    def struck(self, run_dir: Path, count: int) -> Path:
        """The file that a fault makes as it strikes."""
        return self.folder / f"{run_dir.name}-{count}.struck"

    def close(self) -> None:
        """Ends what still runs here."""
        self._start.close()

    def processes(self) -> set[tuple[int, int]]:
        """All that was ever started here, by process id and start time."""
        return set().union(*(node.seen for node in self._start.started))


def plans(seed: int, names: Sequence[str], workshop: Workshop) -> Iterator[Plan]:
    """Runs without end: the scenarios in turn, mostly on two ranks, with one to five attacks."""
    rng = random.Random(seed)
    kinds = deck(rng)
    for number in itertools.count():
        name = names[number % len(names)]
        ranks = 1 if rng.random() < 1 / 6 else 2
        chosen = workshop.scenario(name)
        count = rng.randint(2, MOST_ATTACKS)
        attacks = (draw(kind, rng, chosen, ranks) for kind in itertools.islice(kinds, count))
        yield Plan(number, name, ranks, tuple(attacks))


def attack_run(workshop: Workshop, plan: Plan, most: int = MOST_ATTACKS) -> Result:
    """Makes a run, lets it be attacked `most` times, brings it to its end and compares it."""
    chosen, result = workshop.scenario(plan.scenario), Result(plan)
    reference = workshop.reference(plan.scenario, plan.ranks)
    run_dir = workshop.folder / f"run-{plan.number:03d}-{plan.scenario}"
    ended = False
    for count, attack in enumerate(plan.attacks):
        node = workshop.start(chosen, run_dir, plan.ranks, count, attack)
        hit, problems = strike(attack, node, run_dir, workshop.struck(run_dir, count))
        result.problems += problems
        result.struck += [attack] if hit else []
        ended = node.poll() == 0
        if not (hit or ended):
            result.problems.append(f"{node.start.log} ended with code {node.poll()} by itself")
        if ended or problems or len(result.struck) == most:
            break
    if not (ended or result.problems):
        result.problems += _bring_to_its_end(workshop, chosen, run_dir, plan)
    if not result.problems:
        found = compare(reference, run_dir)
        result.bits, result.problems = found.bits, found.notes + _shared_memory(workshop)
    if not result.problems:
        for path in workshop.folder.glob(f"{run_dir.name}*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return result


def _bring_to_its_end(workshop: Workshop, chosen: Scenario, run_dir: Path, plan: Plan) -> list[str]:
    node = workshop.start(chosen, run_dir, plan.ranks, len(plan.attacks))
    ended = node.wait(max(600.0, END_S))
    if not (ended and node.poll() == 0):
        node.kill()
        said = " ".join(node.text().split())[-200:]
        return [f"the run could not go on, {node.start.log}: {said}"]
    left = [f"processes {node.left_over()} outlived the run"] if node.left_over() else []
    left += [f"{path} was left behind" for path in node.start.temporary.iterdir()]
    return left


def _shared_memory(workshop: Workshop) -> list[str]:
    """Files in shared memory that bear the process id of one of ours."""
    ours = {str(pid) for pid, _ in workshop.processes()}
    names = [path.name for path in Path("/dev/shm").iterdir()]
    return [f"/dev/shm/{n} was left behind" for n in names if ours & set(n.split("_"))]
