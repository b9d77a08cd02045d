"""`oaa store info` and `oaa store verify`: what a store holds, and whether all of it is intact."""

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from dist_oaa.config.errors import UserError
from dist_oaa.store.codec import DamagedRecordError, decode, record_size
from dist_oaa.store.folder import shard_name
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.pages import DamagedFileError
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.survey import DATA, Fault, Survey, check_reach, checked_stamp

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

    reach: tuple[int, int] | None = None
    """The oldest and the newest generation that it can be opened at; None where it does not say."""
    records: int = 0
    """Live records."""
    faults: list[Fault] = field(default_factory=list)
    """All that is wrong with it."""


def verify(store: str) -> int:
    """Read every live map of every shard and hold it against its checksum.

    Args:
        store: Folder of a store, or a run directory that holds one.

    Returns:
        The exit code.

    Raises:
        UserError: when anything is damaged; everything that is has been printed before.
    """
    reader = StoreReader(Path(store))
    generation, reports = examine_all(reader)
    bad = maps = 0
    for index, report in enumerate(reports):
        bad += bool(report.faults)
        maps += sum(fault.row >= 0 for fault in report.faults)
        for line in fault_lines(reader.manifest, index, report.faults):
            console().print(line, soft_wrap=True)
    if bad:
        raise UserError(
            f"{bad} of the {reader.manifest.shards} shards of {reader.folder} are damaged, with "
            f"{maps:,} maps: oaa store repair {reader.folder} restores what can be restored"
        )
    console().print(
        f"{sum(r.records for r in reports):,} maps of {reader.manifest.pairs:,} pairs in "
        f"{reader.manifest.shards} shards are intact (generation {generation})"
    )
    return 0


def examine_all(reader: StoreReader) -> tuple[int, list[ShardReport]]:
    """The generation that counts, and what is found of it in each shard."""
    generation, shards = reader.published, range(reader.manifest.shards)
    if generation is None:
        spoken = [examine(reader, index, None).reach for index in shards]
        generation = min((reach[1] for reach in spoken if reach), default=0)
    return generation, [examine(reader, index, generation) for index in shards]


def fault_lines(manifest: Manifest, index: int, faults: list[Fault]) -> list[str]:
    """One line for each fault; maps are named by image and class."""
    pairs = manifest.pairs_of_shard(index)
    lines = []
    for fault in faults:
        if fault.row < 0:
            lines.append(f"{shard_name(index)}: {fault.text}")
        else:
            lines.append(
                f"{shard_name(index)}: {pair_name(manifest, pairs, fault.row)}: {fault.text}"
            )
    return lines


def pair_name(manifest: Manifest, pairs: list[tuple[str, int]], row: int) -> str:
    """An image and a class, as users know them."""
    image, label = pairs[row]
    return f"{image} ({manifest.class_names[label]})"


def examine(reader: StoreReader, index: int, generation: int | None) -> ShardReport:
    """Reads all records of a shard that are live at a generation.

    LMDB has no part in it: it would end the process on some kinds of damage.

    Args:
        generation: None reads no record and says only how far the shard has come.
    """
    report, manifest = ShardReport(), reader.manifest
    dtype = np.dtype(manifest.dtype)
    folder, rows = reader.folder / shard_name(index), int(manifest.rows_of_shard[index])
    try:
        survey = Survey(folder / DATA, rows, record_size(manifest.map_size, dtype))
    except (OSError, DamagedFileError) as error:
        report.faults.append(Fault(getattr(error, "strerror", None) or str(error)))
        return report
    with contextlib.closing(survey):
        if survey.missing:
            survey.faults.insert(0, Fault(f"it is truncated: {survey.missing:,} bytes are missing"))
        try:
            stamp = checked_stamp(survey, folder, manifest.store_id, index)
            if stamp is not None:
                report.reach = stamp.oldest, stamp.generation
            elif not survey.faults:
                survey.faults.append(Fault("it is empty: nothing was ever committed to it"))
            if generation is not None and stamp is not None:
                check_reach(stamp, generation, folder)
                survey.check(generation)
        except UserError as error:
            if not survey.faults:
                survey.faults.append(Fault(str(error)))
        if generation is not None:
            _read_live(survey, generation, manifest.map_size, dtype, report)
        report.faults += survey.faults
    report.faults.sort(key=lambda fault: fault.row)
    return report


def _read_live(
    survey: Survey, generation: int, map_size: int, dtype: np.dtype, report: ShardReport
) -> None:
    for row, slot in enumerate(survey.live_slot_R(generation).tolist()):
        if slot < 0:
            continue
        report.records += 1
        try:
            decode(survey.raw(row, slot), map_size, dtype)
        except (DamagedRecordError, DamagedFileError) as error:
            report.faults.append(Fault(str(error), row, slot))
