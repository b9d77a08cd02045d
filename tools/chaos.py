"""Attacks runs at random, resumes them, and compares them bit by bit with uninterrupted ones.

    python tools/chaos.py --points 200 --seed 0 [--scenario drop] [--json chaos.json]
    python tools/chaos.py --points 20 --config F --data.root D    (`oaa classify`, your settings)
    python tools/chaos.py --list                                  (the fault points of OAA_FAULT)

A run is struck by up to five attacks before it is left to end: a signal to a rank, to the launcher
or to all of them at a random moment, or a SIGKILL at one of the program's fault points. Afterwards
its maps, counters, weights, optimiser, metrics, TensorBoard points and files must be those of a run
that nothing has happened to. One start in six is made by the real torchrun, the others by fork
from a process that has torch imported (tools/chaos_node.py): their ranks are processes of their own
all the same. Exit code 1 if anything differs; the folder of such a run is kept.
"""

import argparse
import json
import shlex
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from chaos_attacks import DECK
from chaos_processes import Preloaded
from chaos_runs import MOST_ATTACKS, Result, Workshop, attack_run, plans
from chaos_scenarios import SCENARIOS
from dist_oaa.runtime.faults import POINTS


def attack_until(
    workshop: Workshop,
    points: int,
    seed: int,
    names: Sequence[str],
    console: Console,
    command: str = "python tools/chaos.py",
) -> list[Result]:
    """Attacks runs until so many attacks have struck; says one line for each run.

    Args:
        command: with `--only N` it makes run N again.
    """
    results: list[Result] = []
    for plan in plans(seed, names, workshop):
        left = points - sum(len(result.struck) for result in results)
        if left <= 0:
            break
        start = time.monotonic()
        result = attack_run(workshop, plan, min(left, MOST_ATTACKS))
        results.append(result)
        say(console, result, command, time.monotonic() - start)
    return results


def say(console: Console, result: Result, command: str, seconds: float) -> None:
    """What became of a run, and how to see a failure again."""
    plan, count = result.plan, len(result.struck)
    verdict = "differs" if result.problems else "same to the last bit"
    ranks = "1 rank" if plan.ranks == 1 else f"{plan.ranks} ranks"
    console.print(
        f"run {plan.number} {plan.scenario}, {ranks}: {count} attacks, {verdict}, {seconds:.0f} s"
    )
    if result.problems:
        for attack in result.struck:
            console.print(f"  {attack}", soft_wrap=True)
        for problem in result.problems[:8]:
            console.print(f"  ! {problem}", style="bold", markup=False, soft_wrap=True)
        console.print(f"  again: {command} --only {plan.number}", markup=False, soft_wrap=True)


def table(results: Sequence[Result], names: Sequence[str]) -> Table:
    """Attacks that were survived, of those that struck, by kind and scenario."""
    title = "attacks survived / injected, and bits that differ afterwards"
    shown = Table(title=title, box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    shown.add_column("attack", no_wrap=True)
    for name in (*names, "all", "bits"):
        shown.add_column(name, justify="right")
    for kind in (*DECK, "all"):
        cells = [_cell(results, kind, name) for name in (*names, "")]
        bits = sum(r.bits for r in results if kind in ("all", *(a.kind for a in r.struck)))
        shown.add_row(kind, *cells, str(bits), end_section=kind == list(DECK)[-1])
    return shown


def _cell(results: Sequence[Result], kind: str, name: str) -> str:
    injected, survived = Counter(), Counter()
    for result in results:
        for attack in result.struck if name in ("", result.plan.scenario) else ():
            for key in (attack.kind, "all"):
                injected[key] += 1
                survived[key] += not result.problems
    return f"{survived[kind]}/{injected[kind]}" if injected[kind] else "-"


def record(results: Sequence[Result], seed: int, seconds: float) -> dict:
    """What chaos.json says."""
    struck = [(result, attack) for result in results for attack in result.struck]
    rows = Counter((r.plan.scenario, a.kind) for r, a in struck)
    lost = Counter((r.plan.scenario, a.kind) for r, a in struck if r.problems)
    return {
        "points": len(struck),
        "survived": sum(not result.problems for result, _ in struck),
        "differing_bits": sum(result.bits for result in results),
        "runs": len(results),
        "under_torchrun": sum(attack.real for _, attack in struck),
        "seed": seed,
        "seconds": round(seconds),
        "rows": [
            {"scenario": s, "attack": k, "injected": n, "survived": n - lost[s, k]}
            for (s, k), n in sorted(rows.items())
        ],
        "problems": [problem for result in results for problem in result.problems],
    }


def arguments() -> tuple[argparse.Namespace, list[str]]:
    """The tool's own flags, and the rest: settings of `oaa classify`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--points", type=int, default=25, help="attacks that must strike")
    parser.add_argument("--seed", type=int, default=0, help="draws the attacks")
    parser.add_argument("--scenario", choices=SCENARIOS, help="only this one")
    parser.add_argument("--only", type=int, help="only the run of this number")
    parser.add_argument("--json", default="chaos.json", help="file for the figures")
    parser.add_argument("--list", action="store_true", help="name the fault points and end")
    return parser.parse_known_args()


def main() -> int:
    """Attacks, shows and records; 1 if anything differs."""
    args, flags = arguments()
    console = Console(width=None if sys.stdout.isatty() else 80, highlight=False)
    if args.list:
        for name, where in POINTS.items():
            console.print(f"{name:<25} {where}", soft_wrap=True)
        return 0
    names = ("own",) if flags else (args.scenario,) if args.scenario else SCENARIOS
    command = shlex.join(["python", "tools/chaos.py", "--seed", str(args.seed), *flags])
    command += f" --scenario {args.scenario}" if args.scenario else ""
    folder = Path(tempfile.mkdtemp(prefix="oaa-chaos-"))
    start = time.monotonic()
    with Preloaded() as preloaded, closing(Workshop(folder, preloaded, flags)) as workshop:
        if args.only is None:
            results = attack_until(workshop, args.points, args.seed, names, console, command)
        else:
            chosen = next(p for p in plans(args.seed, names, workshop) if p.number == args.only)
            results = [attack_run(workshop, chosen)]
            say(console, results[0], command, time.monotonic() - start)
    console.print(table(results, names))
    found = record(results, args.seed, time.monotonic() - start)
    Path(args.json).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    failed = found["survived"] < found["points"] or any(r.problems for r in results)
    if failed:
        console.print(f"what differs was kept in {folder}", soft_wrap=True)
    else:
        shutil.rmtree(folder)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
