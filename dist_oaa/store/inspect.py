"""`oaa store info` and `oaa store verify`: what a store holds, and whether all of it is intact."""

import contextlib
import faulthandler
import multiprocessing
import os
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dist_oaa.config.errors import UserError
from dist_oaa.store.codec import record_size
from dist_oaa.store.facade import StoreReader, shard_name

WIDTH = 80


def info(store: str) -> int:
    """Print what a store holds and how far it has come.

    Args:
        store: Folder of a store, or a run directory that holds one.

    Returns:
        The exit code.
    """
    reader = StoreReader(Path(store))
    manifest = reader.manifest
    records = accepted = fallback = updates = 0
    for _, _, record in reader.records():
        records += 1
        accepted += record.accepted > 0
        fallback += record.fallback
        updates += record.accepted
    payload = records * record_size(manifest.map_size, np.dtype(manifest.dtype))
    size = disk_size(reader.folder)
    table = Table.grid(padding=(0, 2))
    rows = {
        "store": str(reader.folder),
        "maps": f"{manifest.map_size} x {manifest.map_size} cells, {manifest.dtype}, "
        f"fusion {manifest.fusion}",
        "made for": f"{len(manifest.image_ids):,} images, {manifest.pairs:,} pairs, "
        f"{len(manifest.class_names):,} classes",
        "fingerprint": manifest.fingerprint[:12],
        "shards": f"{manifest.shards:,}",
        "generation": f"{reader.generation:,} (published)",
        "with a map": _share(records, manifest.pairs),
        "accepted": f"{_share(accepted, manifest.pairs)}, at least once; "
        f"{updates / max(1, accepted):.1f} times on average",
        "fallback": f"{_share(fallback, manifest.pairs)}, with the last epoch's attention",
        "never updated": _share(manifest.pairs - records, manifest.pairs),
        "on disk": f"{size:,} bytes" + f", {size / max(1, payload):.1f} x the maps" * (records > 0),
    }
    for name, text in rows.items():
        table.add_row(name, text)
    console().print(table)
    return 0


def console() -> Console:
    """A console of at most 80 columns that takes names as they are."""
    found = Console(highlight=False, markup=False, emoji=False)
    found.width = min(WIDTH, found.width)
    return found


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / max(1, total):.1f} %)"


def disk_size(folder: Path) -> int:
    """Bytes that the files of a store take on disk (a file with holes takes less than its size)."""
    files = (Path(base, name) for base, _, names in os.walk(folder) for name in names)
    return sum(512 * file.lstat().st_blocks for file in files)


@dataclass
class ShardReport:
    """What reading a whole shard found."""

    generation: int = 0
    """The newest that the shard has reached."""
    records: int = 0
    """Live records."""
    damaged: int = 0
    """Those of them that are damaged."""
    problem: str = ""
    """The first fault in a sentence; empty when there is none."""


def verify(store: str) -> int:
    """Read every live map of every shard and hold it against its checksum.

    Args:
        store: Folder of a store, or a run directory that holds one.

    Returns:
        The exit code.

    Raises:
        UserError: when anything is damaged; all damaged shards are printed before.
    """
    reader = StoreReader(Path(store))
    manifest, generation = reader.manifest, reader.published
    if generation is None:
        reached = [_survive(reader, index, 0) for index in range(manifest.shards)]
        generation = min((r.generation for r in reached if not r.problem), default=0)
    reports = [_survive(reader, index, generation) for index in range(manifest.shards)]
    bad = {index: report for index, report in enumerate(reports) if report.problem}
    for index, report in bad.items():
        share = f" {report.damaged:,} of {report.records:,} maps, first:" if report.records else ""
        console().print(f"{shard_name(index)}:{share} {report.problem}", soft_wrap=True)
    if bad:
        raise UserError(
            f"{len(bad)} of the {manifest.shards} shards of {reader.folder} are damaged: "
            "restore them from a copy, or run the stage anew"
        )
    console().print(
        f"{sum(r.records for r in reports):,} maps of {manifest.pairs:,} pairs in "
        f"{manifest.shards} shards are intact (generation {generation})"
    )
    return 0


def _survive(reader: StoreReader, index: int, generation: int) -> ShardReport:
    """Reads a shard in a child process: LMDB ends the process on some kinds of damage."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(sender, reader, index, generation))
    child.start()
    sender.close()
    try:
        report = receiver.recv()
    except EOFError:
        report = ShardReport(problem="its LMDB pages are damaged: reading them ends the process")
    child.join()
    return report


def _report(sender: Connection, reader: StoreReader, index: int, generation: int) -> None:
    # LMDB's last words would only confuse; the parent says what happened.
    faulthandler.disable()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    sender.send(read_shard(reader, index, generation))


def read_shard(reader: StoreReader, index: int, generation: int) -> ShardReport:
    """Reads all records that are live at a generation."""
    report = ShardReport()
    try:
        with contextlib.closing(reader.shard(index, generation)) as shard:
            report.generation = shard.committed
            for row in shard.live_rows:
                report.records += 1
                try:
                    shard.get(row)
                except UserError as error:
                    report.damaged += 1
                    report.problem = report.problem or str(error)
    except UserError as error:
        report.problem = report.problem or str(error)
    return report
