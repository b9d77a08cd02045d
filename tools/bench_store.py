"""Measures durable commits of the store against a plain write of the same bytes with fsync.

    python tools/bench_store.py [--rows 10000] [--shards 1 24] [--folder DIR]

A commit writes into a store that has been rewritten over and over, where pages are recycled: what
counts are the later commits. The plain write makes a new file with one os.write and one os.fsync.
Both take turns. Rows are pairs of maps, 41 x 41 uint8 unless --map-size says otherwise.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench_common import Figure, machine, show, spread, write
from dist_oaa.runtime.files import sync_folder
from dist_oaa.store.codec import ChangedRows, record_size
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.writer import StoreWriter, prepare_store


@dataclass
class Trial:
    """One store and what its commits took."""

    title: str
    rows: int
    shards: int
    share: float = 1.0
    """Of the rows, drawn anew for each commit."""
    goal: str = ""
    commit_s: list[float] = field(default_factory=list)
    plain_s: list[float] = field(default_factory=list)
    commit_cpu_s: list[float] = field(default_factory=list)
    plain_cpu_s: list[float] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    """Bytes that a commit sent to the disk: write_bytes of /proc/self/io."""
    length: list[int] = field(default_factory=list)
    """Bytes of the store's files after each commit."""


@contextlib.contextmanager
def timed(wall_s: list[float], cpu_s: list[float]) -> Iterator[None]:
    """Adds the seconds that the block takes, and those that this process computes."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    wall_s.append(time.perf_counter() - wall)
    cpu_s.append(time.process_time() - cpu)


def bytes_sent() -> int:
    """Bytes that this process has sent to the disk, so far."""
    lines = Path("/proc/self/io").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def write_plain(path: Path, data: memoryview) -> None:
    """Writes a new file and makes it durable."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        while data:
            data = data[os.write(handle, data) :]
        os.fsync(handle)
    finally:
        os.close(handle)


def run(trial: Trial, map_size: int, commits: int, folder: Path) -> None:
    """Fills a trial with its measurements; the store is removed afterwards."""
    rng = np.random.default_rng(0)
    record = record_size(map_size, np.dtype("uint8"))
    maps_R2SS = rng.integers(0, 256, (trial.rows, 2, map_size, map_size), dtype=np.uint8)
    changed = round(trial.share * trial.rows)
    plain = memoryview(rng.bytes(changed * record))
    names = tuple(f"{n:08d}" for n in range(trial.rows))
    manifest = Manifest(
        map_size, "uint8", "max", trial.shards, ("a",), "f", names, ((0,),) * trial.rows
    )
    with tempfile.TemporaryDirectory(dir=folder) as base:
        store, file = Path(base, "store"), Path(base, "plain")
        manifest = prepare_store(store, manifest, resume=False)
        with contextlib.closing(StoreWriter(store, manifest, 0, 1, 0)) as writer:
            for generation in range(1, commits + 1):
                rows_K = np.sort(rng.permutation(trial.rows)[:changed])
                rows = ChangedRows(
                    rows_K,
                    maps_R2SS[rows_K] ^ np.uint8(generation),
                    np.full(changed, generation, np.int32),
                    np.zeros(changed, bool),
                )
                with timed(trial.plain_s, trial.plain_cpu_s):
                    write_plain(file, plain)
                file.unlink()
                # Else the file system clears up while the commit is timed.
                sync_folder(file.parent)
                before = bytes_sent()
                with timed(trial.commit_s, trial.commit_cpu_s):
                    writer.commit(generation, rows)
                trial.sent.append(bytes_sent() - before)
                trial.length.append(sum(f.stat().st_size for f in store.rglob("data.mdb")))


def figures_of(trial: Trial, map_size: int) -> tuple[list[Figure], list[str]]:
    """What a trial says, and the times behind it; the first commits are left out."""
    commits = len(trial.commit_s)
    early = max(1, commits // 5)
    payload = round(trial.share * trial.rows) * record_size(map_size, np.dtype("uint8"))
    commit_s, plain_s = np.array(trial.commit_s[early:]), np.array(trial.plain_s[early:])
    rows_per_s = round(trial.share * trial.rows) / np.median(commit_s)
    figures = [
        Figure(
            f"commit against a plain fsynced write, {trial.title}",
            float(np.median(commit_s / plain_s)),
            "x",
            trial.goal,
        ),
        Figure(f"commit, rows/s, {trial.title}", float(rows_per_s), "rows/s"),
        Figure(f"commit, MB/s, {trial.title}", float(payload / np.median(commit_s) / 1e6), "MB/s"),
        Figure(
            f"bytes sent to the disk against the records', {trial.title}",
            float(np.mean(trial.sent[early:]) / payload),
            "x",
        ),
    ]
    if trial.share == 1:  # else rows are still written for the first time
        name = f"store file after {commits} commits against after {early}, {trial.title}"
        figures.append(Figure(name, trial.length[-1] / trial.length[early - 1], "x", "<= 1.1"))
    cpu_ms = 1e3 * np.median(trial.commit_cpu_s[early:]), 1e3 * np.median(trial.plain_cpu_s[early:])
    note = (
        f"{trial.title}: {payload / 1e6:.1f} MB; commit {spread(commit_s, 1e3, 'ms')}, "
        f"{cpu_ms[0]:.3g} ms of CPU; plain {spread(plain_s, 1e3, 'ms')}, {cpu_ms[1]:.3g} ms of "
        f"CPU; files {trial.length[-1] / (payload / trial.share):.2f} x all records"
    )
    return figures, [note]


def trials_of(rows: int, shards: list[int]) -> list[Trial]:
    """All rows in each number of shards, which has the goal; then most of them, and few."""
    trials = [
        Trial(f"{rows:,} rows, {n} shard{'s' * (n > 1)}", rows, n, goal="<= 2") for n in shards
    ]
    for share, n in ((0.75, shards[0]), (0.09, shards[-1])):
        title = f"any {round(share * rows):,} of {rows:,} rows, {n} shard{'s' * (n > 1)}"
        trials.append(Trial(title, rows, n, share))
    return trials


def measure(
    rows: int = 10_000,
    shards: tuple[int, ...] = (1, 24),
    map_size: int = 41,
    commits: int = 50,
    folder: str | Path = ".",
) -> tuple[list[Figure], list[str]]:
    """The figures, and notes with the times behind them.

    Args:
        rows: pairs of the store.
        commits: how often each store is written; the first fifth is not counted.
        folder: where the stores and files are written for a while.
    """
    figures, notes = [], []
    for trial in trials_of(rows, list(shards)):
        run(trial, map_size, commits, Path(folder))
        found, said = figures_of(trial, map_size)
        figures += found
        notes += said
    return figures, notes


def file_system(folder: Path) -> str:
    """Type of the file system that holds a folder, `unknown` where it is not told."""
    mounts = Path("/proc/mounts")
    found = ("", "unknown")
    for line in mounts.read_text().splitlines() if mounts.exists() else []:
        _, point, kind = line.split()[:3]
        if folder.resolve().is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000, help="pairs of the store")
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 24], help="one or more")
    parser.add_argument("--map-size", type=int, default=41, help="cells along a side of a map")
    parser.add_argument("--commits", type=int, default=50, help="how often each store is written")
    parser.add_argument("--folder", default=".", help="on the disk to measure; nothing stays there")
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    kind = file_system(Path(args.folder))
    if kind == "tmpfs":
        parser.error(f"--folder: {args.folder} lies in memory (tmpfs), expected a disk")
    figures, notes = measure(
        args.rows, tuple(args.shards), args.map_size, args.commits, args.folder
    )
    show(figures, "Durable commits", [machine(), f"file system {kind}", *notes])
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
