"""What the benchmarks share: figures with their goals, paired timing, one table.

A figure is a ratio or a rate measured within one run. Two things that are compared are timed in
turn, again and again, so that whatever else the machine does meets both alike.
"""

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table


@dataclass
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    goal: str = ""
    """What is asked for, such as `>= 300` or `<= 2`; empty for a figure that only informs."""

    def __post_init__(self) -> None:
        self.value = float(self.value)  # numpy's floats are no JSON

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None without a goal."""
        if not self.goal:
            return None
        sign, bound = self.goal.split()
        return self.value >= float(bound) if sign == ">=" else self.value <= float(bound)

    def row(self) -> dict:
        """The figure as JSON keeps it."""
        return asdict(self) | {"holds": self.holds}


def in_turn(
    functions: dict[str, Callable[[], object]],
    rounds: int,
    warm: int = 1,
    before: Callable[[], object] = lambda: None,
) -> dict[str, np.ndarray]:
    """Seconds of each function in each round; every round calls all of them once, in turn.

    Args:
        before: called before each function, outside its time.
    """
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(warm + rounds):
        for name, function in functions.items():
            before()
            start = time.perf_counter()
            function()
            if number >= warm:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def share_of_a_step(without: np.ndarray, with_: np.ndarray, times: int) -> tuple[float, list[str]]:
    """What something takes of a step, in %, where a step with it did it `times` times over.

    What it takes is far below the few per cent by which one step differs from the next.

    Returns:
        the median over the pairs of steps, and notes with the times and its 95 % interval.
    """
    share = 100 * (with_ / without - 1) / times
    drawn = np.random.default_rng(0).choice(share, (2000, len(share)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    notes = [
        f"a step without: {spread(without, 1, 's')}; with {times} steps' worth: "
        f"{spread(with_, 1, 's')}",
        f"{len(share)} pairs of steps; 95 % interval of the share: {low:.3f} to {high:.3f} %",
    ]
    return float(np.median(share)), notes


def run_step_benchmark(
    description: str,
    title: str,
    measure: Callable[[int, int], tuple[list["Figure"], list[str]]],
) -> int:
    """The command line of a benchmark of training steps; prints and writes what `measure` finds.

    Args:
        measure: of the numbers of pairs of steps and of times in a step, the figures and notes.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=24, help="pairs of steps, a count")
    parser.add_argument("--times", type=int, default=50, help="steps' worth in a step, a count")
    parser.add_argument("--threads", type=int, default=2, help="threads of the training")
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    figures, notes = measure(args.rounds, args.times)
    show(figures, title, [machine(), *notes])
    write(figures, args.json)
    return 0


def spread(seconds: np.ndarray, scale: float, unit: str) -> str:
    """Median with the 20th and 80th percentile, as text."""
    p20, p50, p80 = np.percentile(seconds * scale, [20, 50, 80])
    return f"{p50:.3g} {unit} (p20 {p20:.3g}, p80 {p80:.3g})"


def processor() -> str:
    """The processor's name as the system gives it."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine(device: str = "cpu") -> str:
    """One line on what the figures were measured with."""
    what = f"{os.cpu_count()} cores {processor()}"
    if device == "cuda":
        what += f", {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"
    return f"{what}; torch {torch.__version__}, Python {platform.python_version()}"


def show(figures: list[Figure], title: str, notes: list[str]) -> None:
    """Prints the figures as one table of at most 80 columns, followed by the notes."""
    table = Table(title=title, title_justify="left")
    table.add_column("figure", max_width=48)
    table.add_column("value", justify="right")
    table.add_column("goal", justify="right")
    table.add_column("holds")
    for f in figures:
        holds = {True: "yes", False: "NO", None: ""}[f.holds]
        table.add_row(f.name, f"{number(f.value)} {f.unit}".strip(), f.goal, holds)
    console = Console(width=80 if not sys.stdout.isatty() else None, highlight=False)
    console.print(table)
    for note in notes:
        console.print(note, soft_wrap=False, markup=False)


def number(value: float) -> str:
    """Three significant digits, with thousands separated."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write(figures: list[Figure], path: str) -> None:
    """Writes the figures as JSON: a list of {name, value, unit, goal, holds}."""
    if path:
        Path(path).write_text(json.dumps([f.row() for f in figures], indent=1) + "\n")
