"""Miniature stores for the tests of the store room."""

from pathlib import Path

import numpy as np

from dist_oaa.runtime.fingerprint import labels_fingerprint
from dist_oaa.runtime.latest import Latest
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store

NAMES = ("cat", "dog", "dining_table")


def make_manifest(images: int | dict = 7, **changes) -> Manifest:
    """Images i00, i01, ... with one to three classes each, or {name: classes}."""
    if isinstance(images, int):
        images = {f"i{n:02d}": ((0,), (1, 2), (0, 1, 2))[n % 3] for n in range(images)}
    names = changes.get("class_names", NAMES)
    images = dict(sorted(images.items()))
    fields = {
        "map_size": 5,
        "dtype": "uint8",
        "fusion": "max",
        "shards": 3,
        "class_names": names,
        "fingerprint": labels_fingerprint(names, images.items()),
        "image_ids": tuple(images),
        "classes": tuple(images.values()),
    }
    return Manifest(**fields | changes)


def random_rows(manifest: Manifest, rows: np.ndarray, seed: int) -> ChangedRows:
    """Rows with random maps, last attention, counts and fallback flags."""
    rng = np.random.default_rng(seed)
    shape = (len(rows), 2, manifest.map_size, manifest.map_size)
    if manifest.dtype == "uint8":
        maps_K2SS = rng.integers(0, 256, shape, dtype=np.uint8)
    else:
        maps_K2SS = rng.random(shape, dtype=np.float32).astype(manifest.dtype)
    accepted_K = rng.integers(0, 2**31, len(rows), dtype=np.int32)
    return ChangedRows(rows, maps_K2SS, accepted_K, rng.random(len(rows)) < 0.5)


def contents(rows: ChangedRows) -> dict:
    """What is written, by row, in the form of `content`."""
    columns = (rows.rows_K, rows.maps_K2SS, rows.accepted_K, rows.fallback_K)
    return {
        int(row): (maps[0].tobytes(), maps[1].tobytes(), int(accepted), bool(fallback))
        for row, maps, accepted, fallback in zip(*columns, strict=True)
    }


def fill(writer: StoreWriter, generation: int, seed: int, rows: np.ndarray | None = None) -> dict:
    """Commits random content; returns it by bank row, in the form of `content`."""
    rows = np.arange(writer.rows) if rows is None else rows
    written = random_rows(writer.manifest, rows, seed)
    writer.commit(generation, written)
    return contents(written)


def by_row(writer: StoreWriter) -> dict:
    """What a writer reads, by bank row."""
    return {row: content(record) for row, record in writer.read()}


def content(record) -> tuple:
    """The bits of a record that matter, apart from its generation."""
    return (
        record.map_SS.tobytes(),
        record.last_SS.tobytes(),
        record.accepted,
        record.fallback,
    )


def state(folder: Path) -> dict:
    """All that a reader sees: {(image, class index): content}."""
    return {(name, c): content(record) for name, c, record in StoreReader(folder).records()}


def publish(store: Path, generation: int) -> None:
    """What the run does by its one rename after all shards have committed."""
    folder = store.parent / "checkpoints"
    folder.mkdir(exist_ok=True)
    Latest("any", generation).write(folder)


def make_store(folder: Path, seed: int = 0, manifest: Manifest | None = None) -> dict:
    """A store of generation 1 with all pairs; returns its state."""
    manifest = make_manifest() if manifest is None else manifest
    prepare_store(folder, manifest, resume=False)
    writer = StoreWriter(folder, manifest, rank=0, world=1, generation=0)
    fill(writer, 1, seed)
    writer.close()
    return state(folder)


def flip(path: Path, needle: bytes) -> None:
    """Flips one bit in the middle of the only place where a file holds these bytes."""
    data = bytearray(path.read_bytes())
    assert data.count(needle) == 1
    data[data.index(needle) + len(needle) // 2] ^= 4
    path.write_bytes(data)
