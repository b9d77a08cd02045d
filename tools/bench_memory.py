"""Measures the memory of an accumulator with its store as the number of pairs grows.

    python tools/bench_memory.py

Each size runs in a process of its own, which knows its images, opens the store, holds the maps
and updates every row. What counts is how much its resident set grew from knowing the images on,
against rows x bytes: the two maps of each pair.
"""

import argparse
import contextlib
import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from bench_common import Figure, machine, show, write
from bench_step import make_manifest
from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Pairs, Rules
from dist_oaa.attention.update import update
from dist_oaa.store.writer import StoreWriter, prepare_store

SIZES = (10**4, 10**5, 10**6)
MAP_SIZE = 41


def resident_bytes() -> int:
    """Memory of this process alone; pages of files, which the system can take back, left out."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def batch_of(pairs: Pairs) -> Observation:
    """Random features for images that have the classes 0 and 1."""
    images = len(pairs) // 2
    return Observation(
        torch.randn(images, 2, 14, 14, generator=torch.Generator().manual_seed(0)),
        torch.zeros(images, 2),
        torch.ones(images, 2, dtype=torch.uint8),
        torch.eye(2, 3).expand(images, 2, 3).contiguous(),
        torch.full((images, 2), 14),
        pairs,
    )


def write_all(accumulator: AttentionAccumulator, images: int, batch: int = 256) -> None:
    """Updates every pair of the store once."""
    for first in range(0, images, batch):
        index_B = torch.arange(first, min(first + batch, images))
        labels_BC = torch.ones(len(index_B), 2, dtype=torch.uint8)
        pairs = accumulator.pairs(index_B, labels_BC)
        accumulator.update(batch_of(pairs), Rules(gate="none"))


def accumulate(folder: Path, pairs: int) -> int:
    """Bytes by which this process grew for an accumulator of so many pairs."""
    manifest = prepare_store(folder, make_manifest([(0, 1)] * (pairs // 2)), resume=False)
    gc.collect()
    before = resident_bytes()
    store = StoreWriter(folder, manifest, 0, 1, 0)
    with contextlib.closing(AttentionAccumulator(store)) as accumulator:
        write_all(accumulator, pairs // 2)
        assert bool((accumulator.bank.accepted_R == 1).all())
        gc.collect()
        return resident_bytes() - before


def child(pairs: int) -> None:
    """Prints how much an accumulator takes; what the first update loads is paid for before."""
    torch.set_num_threads(1)
    labels_BC = torch.ones(4, 2, dtype=torch.uint8)
    few = Pairs.from_labels(labels_BC, torch.arange(0, 8, 2))
    update(MapBank.empty(8, MAP_SIZE, torch.uint8), batch_of(few), Rules(gate="none"))
    with tempfile.TemporaryDirectory(dir=".") as folder:
        print(accumulate(Path(folder), pairs))


def measure(sizes: tuple[int, ...] = SIZES) -> tuple[list[Figure], list[str]]:
    """The figures, and notes with the bytes behind them."""
    figures, notes = [], []
    for pairs in sizes:
        command = [sys.executable, __file__, "--child", str(pairs)]
        found = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
        grown, expected = int(found.stdout), pairs * 2 * MAP_SIZE * MAP_SIZE
        name = f"memory for {pairs:,} pairs against rows x bytes"
        figures.append(Figure(name, grown / expected, "x", "<= 1.1"))
        notes.append(f"{pairs:,} pairs: {grown / 2**20:,.1f} MiB for {expected / 2**20:,.1f} MiB "
                     "of maps")  # fmt: skip
    return figures, notes


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return 0
    figures, notes = measure()
    show(figures, "Memory", [machine(), *notes])
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
