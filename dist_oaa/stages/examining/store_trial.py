"""A shard of a store, written, synced to disk and read back; answered in a process of its own.

Legend: K rows; 2 the cumulative map, then the last attention; S cells along each side.
"""

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

from dist_oaa.runtime.files import write_atomic
from dist_oaa.runtime.lease import Lease
from dist_oaa.stages.examining.disk import nearest_folder
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.shard import Shard

ROWS, MAP_SIZE, DTYPE, STORE_ID = 128, 41, "uint8", "doctor"
COMMITS = 3


def shard(run_dir: str, name: str) -> dict[str, Any]:
    """Holds a lease, commits every row a few times and reads the last commit from the file.

    Args:
        run_dir: the folder, or the nearest parent of it that exists, is written to.
        name: of a folder that is made there for this and removed again.

    Returns:
        `equal`: whether what was read is what was written last; `commit_s` and `publish_s`:
        seconds of the slowest commit, and of a small file written and renamed.

    Raises:
        UserError, OSError: when the file system refuses any of it.
    """
    place = nearest_folder(Path(run_dir)) / name
    place.mkdir()
    try:
        lease = Lease(place / "leases" / "shard.lock")
        try:
            times, written = _commits(place / "shard")
        finally:
            lease.release()
        start = time.perf_counter()
        write_atomic(place / "latest.json", b"{}")
        publish_s = time.perf_counter() - start
        equal = _read_back(place / "shard", written)
        return {"equal": equal, "commit_s": max(times), "publish_s": publish_s, "rows": ROWS}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _open(folder: Path, generation: int, writable: bool) -> Shard:
    return Shard(folder, 0, STORE_ID, ROWS, MAP_SIZE, DTYPE, generation, writable)


def _commits(folder: Path) -> tuple[list[float], ChangedRows]:
    """Seconds of each commit, and what the last one wrote."""
    rng, times = np.random.default_rng(0), []
    live = _open(folder, 0, writable=True)
    try:
        for generation in range(1, COMMITS + 1):
            rows = ChangedRows(
                np.arange(ROWS),
                rng.integers(0, 256, (ROWS, 2, MAP_SIZE, MAP_SIZE), dtype=np.uint8),
                np.full(ROWS, generation, np.int32),
                np.zeros(ROWS, bool),
            )
            start = time.perf_counter()
            live.commit(generation, rows)
            times.append(time.perf_counter() - start)
    finally:
        live.close()
    return times, rows


def _read_back(folder: Path, written: ChangedRows) -> bool:
    stored = _open(folder, COMMITS, writable=False)
    try:
        records = list(stored.read())
    finally:
        stored.close()
    return [record.row for record in records] == written.rows_K.tolist() and all(
        np.array_equal(record.map_SS, maps_2SS[0]) and np.array_equal(record.last_SS, maps_2SS[1])
        for record, maps_2SS in zip(records, written.maps_K2SS, strict=True)
    )
