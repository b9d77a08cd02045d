"""Measures what a local sweep costs beside its trials: memory of Ray and of the driver.

    python tools/bench_sweep.py [--trials 6]

Starts `oaa tune` on a few drawn scenes, two trials at a time, and adds up, twice a second, the
proportional set size (each shared page divided among those who share it) of the command and all its
descendants, but for the trials' own processes. The largest sum counts.
"""

import argparse
import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from bench_common import Figure, machine, show, write

GOAL_MB = 2000
SWEEP = {
    "base": {
        "stage": "classify",
        "settings": {
            "data": {"split": "trainval", "resize": "square", "size": 64, "workers": 0},
            "model": {"backbone": "test_efficientnet", "weights": "none", "head_channels": 16},
            "optim": {"batch_size": 6, "epochs": 3, "lr": 0.05},
            "accumulate.map_size": 16,
            "evaluate.gallery": 0,
            "runtime.device": "cpu",
        },
    },
    "ray.cpus": 2,
}


def descendants(parent: int) -> list[int]:
    """Process ids of all children, their children, and so on, but for those of trials."""
    found = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{parent}/task").iterdir():
            for child in map(int, (task / "children").read_text().split()):
                if not is_trial(child):
                    found += [child, *descendants(child)]
    return found


def is_trial(pid: int) -> bool:
    """Whether a process is a trial's run."""
    with contextlib.suppress(OSError):
        return b"dist_oaa\0classify" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def set_size(pid: int) -> float:
    """Proportional set size in MB; 0 of a process that has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def measure(trials: int, folder: Path) -> tuple[float, int, float]:
    """(largest sum in MB, processes at that moment, seconds of the sweep)."""
    oaa = [sys.executable, "-m", "dist_oaa"]
    data = folder / "data"
    subprocess.run(
        [*oaa, "data", "demo", str(data), "--images", "24", "--size", "96"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    rates = [round(0.01 * (n + 1), 3) for n in range(trials)]
    file = folder / "sweep.yaml"
    file.write_text(yaml.safe_dump(SWEEP | {"space": {"optim.lr": {"grid": rates}}}))
    command = [*oaa, "tune", "--config", str(file), "--data.root", str(data)]
    began = time.monotonic()
    largest, count = 0.0, 0
    with subprocess.Popen(
        [*command, "--run_dir", str(folder / "out")], stdout=subprocess.DEVNULL
    ) as sweep:
        while sweep.poll() is None:
            family = [sweep.pid, *descendants(sweep.pid)]
            size = sum(set_size(pid) for pid in family)
            if size > largest:
                largest, count = size, len(family)
            time.sleep(0.5)
    if sweep.returncode:
        raise SystemExit(f"the sweep ended with exit code {sweep.returncode}")
    return largest, count, time.monotonic() - began


def main() -> int:
    """Prints and writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=6, help="trials of the sweep")
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        largest, count, seconds = measure(args.trials, Path(folder))
    figures = [
        Figure("sweep: memory beside its trials", largest, "MB", f"<= {GOAL_MB}"),
        Figure("sweep: processes beside its trials", count, "", ""),
        Figure(f"sweep: {args.trials} trials, two at a time", seconds, "s", ""),
    ]
    show(figures, "A local sweep", [machine()])
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
