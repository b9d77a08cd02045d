"""Runs the benchmarks of the CPU one after another and prints one table.

    python tools/bench.py [--json bench.json]

Each runs in a process of its own while nothing else does, so that none warms or slows another.
On a machine with a GPU the kernel is measured too. A goal that is not met is shown as such, and
docs/performance.md says what limits it; the exit code is 0 all the same, since a slow or busy
machine is no mistake.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench_common import Figure, machine, show, write

HERE = Path(__file__).parent
BENCHMARKS = {
    "accumulation": ["bench_accumulate.py"],
    "commits": ["bench_store.py"],
    "memory": ["bench_memory.py"],
    "training step": ["bench_step.py"],
    "watching": ["bench_watching.py"],
    "exactly elastic steps": ["bench_exact.py"],
    "labels": ["bench_labels.py"],
    "evaluation": ["bench_evaluate.py"],
    "sweep": ["bench_sweep.py"],
}
GPU = {"kernel": ["bench_accumulate.py", "--device", "cuda"]}


def figures_of(title: str, command: list[str], folder: str) -> list[Figure]:
    """Runs a benchmark, which prints its own table, and returns its figures."""
    path = Path(folder) / "figures.json"
    print(f"\n{title}: python tools/{' '.join(command)}", flush=True)
    script, *arguments = command
    subprocess.run(
        [sys.executable, str(HERE / script), *arguments, "--json", str(path)],
        check=True,
        timeout=1800,
    )
    rows = json.loads(path.read_text())
    return [Figure(row["name"], row["value"], row["unit"], row["goal"]) for row in rows]


def main() -> int:
    """Runs everything; prints and writes all figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", default="bench.json", help="file for the figures")
    args = parser.parse_args()
    benchmarks = BENCHMARKS | (GPU if torch.cuda.is_available() else {})
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for title, command in benchmarks.items():
            figures += figures_of(title, command, folder)
    notes = [machine()]
    if "kernel" not in benchmarks:
        notes.append("no GPU here: the Triton kernel was not timed")
    notes.append(f"written to {args.json}")
    print()
    show(figures, "All figures", notes)
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
