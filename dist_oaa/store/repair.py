"""`oaa store repair`: restores the damaged shards of a store as far as that can be done.

Which records these are, and whether they are the checkpoint's, is settled in restored.py. The
repaired file is written beside the damaged one, read back, and then takes its name.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import lmdb
import numpy as np
from rich.console import Console

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.faults import fault_point
from dist_oaa.runtime.files import disk_words, sync_folder
from dist_oaa.runtime.lease import Lease
from dist_oaa.store.codec import record_size
from dist_oaa.store.folder import lease_path, shard_name
from dist_oaa.store.inspect import console, examine, examine_all, fault_lines, pair_name
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.restored import Restored, choose, collect, sound, sum_of
from dist_oaa.store.shard import environment_size
from dist_oaa.store.stamp import STAMP, Stamp
from dist_oaa.store.survey import DATA, KEY, Survey

BESIDE = ".repair"
DAMAGED = ".damaged"


def repair(store: str, copy: str = "") -> int:
    """Restore damaged shards from what can still be read, and list what cannot be restored.

    Args:
        store: Folder of a store, or a run directory that holds one; no run may be writing it.
        copy: Another copy of the store to take from what is damaged here: a backup, or a node's
            store.local_dir.

    Returns:
        The exit code: 0 when every map is the checkpoint's, 1 when some are older or lost.

    Raises:
        UserError: when the store is being written, its table or the copy cannot be used, or the
            disk is full; shards are as they were, or repaired.
    """
    reader = StoreReader(Path(store))
    out = console()
    generation, reports = examine_all(reader)
    bad = [index for index, report in enumerate(reports) if report.faults]
    if not bad:
        out.print(f"{reader.folder} is intact: nothing to repair")
        return 0
    if not generation:
        raise UserError(
            f"no shard of {reader.folder} says which generation it holds: restore it from a copy, "
            "or run the stage anew"
        )
    complete = True
    for index in bad:
        for line in fault_lines(reader.manifest, index, reports[index].faults):
            out.print(line, soft_wrap=True)
        complete &= _repair_shard(reader, index, generation, _copy_of(reader, copy, index), out)
    _conclude(out, complete, len(bad))
    return 0 if complete else 1


def _conclude(out: Console, complete: bool, shards: int) -> None:
    out.print(f"{shards} shards repaired; the damaged files are kept as {DATA}{DAMAGED}")
    if complete:
        out.print("every map is as it was: a resumed run ends bit for bit as if nothing had been")
    else:
        out.print(
            "the maps named above are not the checkpoint's: the run can be resumed, and these\n"
            "pairs go on from what they have, but it will not end bit for bit as it would have"
        )


def _copy_of(reader: StoreReader, copy: str, index: int) -> Path | None:
    """The shard in another copy of the store."""
    if not copy:
        return None
    places = (Path(copy), Path(copy) / "store", Path(copy) / reader.manifest.store_id)
    for place in places:
        if place.resolve() == reader.folder.resolve():
            raise UserError(f"copy {copy} is the store itself, expected another copy of it")
        if (place / shard_name(index) / DATA).exists():
            return place / shard_name(index) / DATA
    raise UserError(f"copy {copy} has no {shard_name(index)}, expected another copy of the store")


def _repair_shard(
    reader: StoreReader, index: int, generation: int, copy: Path | None, out: Console
) -> bool:
    """Repairs one shard; whether it is what it was."""
    manifest, folder = reader.manifest, reader.folder / shard_name(index)
    rows = int(manifest.rows_of_shard[index])
    size = record_size(manifest.map_size, np.dtype(manifest.dtype))
    sources = [
        sound(collect(path, rows, size), manifest.store_id, index, path)
        for path in (folder / DATA, copy)
        if path is not None and path.exists()
    ]
    restored = choose(sources, rows, generation)
    with _lease(reader.folder, index), _written_beside(folder) as beside:
        write_shard(beside, restored.records, manifest.store_id, index, rows, size, generation)
        _swap(beside, folder)
    left = examine(reader, index, generation).faults
    assert not left, left
    pairs = manifest.pairs_of_shard(index)
    for row, older in sorted(restored.older.items()):
        name = pair_name(manifest, pairs, row)
        out.print(f"{shard_name(index)}: {name}: taken from generation {older}", soft_wrap=True)
    for row in restored.lost:
        name = pair_name(manifest, pairs, row)
        out.print(f"{shard_name(index)}: {name}: lost", soft_wrap=True)
    out.print(f"{shard_name(index)}: {_summary(restored, rows, generation)}", soft_wrap=True)
    return restored.exact


def _summary(restored: Restored, rows: int, generation: int) -> str:
    count = f"{len(restored.records):,} maps of {rows:,} pairs"
    if restored.exact:
        return f"restored, {count}, bit for bit as of generation {generation}"
    said = (
        f"restored in part, {count}: {len(restored.older):,} older than generation {generation}, "
        f"{len(restored.lost):,} lost"
    )
    if restored.unsure:
        said += "; the file no longer says which other maps are older, or were there and are lost"
    return said


@contextlib.contextmanager
def _lease(store: Path, index: int) -> Iterator[None]:
    lease = Lease(lease_path(store, shard_name(index)))
    try:
        yield
    finally:
        lease.release()


def write_shard(
    folder: Path,
    records: dict[int, bytes],
    store_id: str,
    index: int,
    rows: int,
    record_bytes: int,
    generation: int,
) -> None:
    """Makes a shard that holds exactly these records, as of a generation.

    Raises:
        OSError: when the disk is full or fails.
    """
    total = sum_of(records, rows)
    try:
        with lmdb.open(
            str(folder), map_size=environment_size(rows, record_bytes), lock=False
        ) as env:
            with env.begin(write=True) as txn:
                for row in sorted(records):
                    txn.put(KEY.pack(row, 0), records[row])
                stamp = Stamp(store_id, index, txn.id(), generation, total, generation, total)
                txn.put(STAMP, stamp.encode())
                fault_point("store.repair.write")
            length = (env.info()["last_pgno"] + 1) * env.stat()["psize"]
        if (folder / DATA).stat().st_size < length:  # see Shard._pad
            os.truncate(folder / DATA, length)
    except lmdb.Error as error:
        raise OSError(str(error)) from error
    survey = Survey(folder / DATA, rows, record_bytes)
    with contextlib.closing(survey):
        survey.check(generation)
        assert not survey.faults, survey.faults


@contextlib.contextmanager
def _written_beside(folder: Path) -> Iterator[Path]:
    """A new folder inside a shard's, gone when the block ends.

    Raises:
        UserError: when the disk is full or fails.
    """
    beside = folder / BESIDE
    needed = (folder / DATA).stat().st_size if (folder / DATA).exists() else None
    try:
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        yield beside
    except OSError as error:
        shutil.rmtree(beside, ignore_errors=True)
        raise UserError(
            f"shard {folder} could not be repaired, it is as it was: "
            f"{disk_words(error, folder, needed)}"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _swap(beside: Path, folder: Path) -> None:
    """Puts the repaired file in the place of the damaged one, which keeps a name."""
    old = folder / DATA
    if old.exists():
        kept, number = folder / f"{DATA}{DAMAGED}", 1
        while kept.exists():
            number += 1
            kept = folder / f"{DATA}{DAMAGED}-{number}"
        try:
            os.link(old, kept)  # the shard has a file at any time
        except OSError:  # a file system without such links
            shutil.copyfile(old, kept)
    fault_point("store.repair.swap")
    os.replace(beside / DATA, old)
    sync_folder(folder)
