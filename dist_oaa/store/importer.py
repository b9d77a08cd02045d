"""`oaa store import`: a store from a folder of maps (see map_folder.py for what is understood)."""

from pathlib import Path
from typing import Literal

import numpy as np

from dist_oaa.config.accumulate import AccumulateConfig, StoreConfig
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import new_folder
from dist_oaa.runtime.fingerprint import labels_fingerprint
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.interchange import CLASSES
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.map_folder import MapFile, folder_pairs, read_classes
from dist_oaa.store.mapfile import to_grid
from dist_oaa.store.writer import StoreWriter


def import_folder(
    folder: str,
    out: str,
    classes: str = "",
    map_size: int = 41,
    dtype: Literal["uint8", "float16", "float32"] = "uint8",
    shards: int = 24,
    fusion: Literal["max", "average", "harmonic", "ema"] = "max",
) -> int:
    """Make a store from a folder of maps.

    Reads what `oaa store export` writes: files ID_CLASS.png or .npy, also those of
    the public OAA code, which have no pairs.csv, and dictionaries ID.npy of IRN and
    PSA, whose pickles are not run. The last attention, which none of them holds, is
    set to the map.

    Args:
        folder: Folder with the maps.
        out: Store to make; it must be a new or empty folder.
        classes: Text file with one class name a line; empty takes classes.txt of the folder.
        map_size: Cells along each side, a count; maps of other sizes are resized bilinearly.
        dtype: Number format of the maps; uint8 holds round(255 a).
        shards: Number of shards, a count.
        fusion: How a run that continues the store fuses maps.

    Returns:
        The exit code.
    """
    try:
        AccumulateConfig(map_size=map_size)
        StoreConfig(shards=shards)
    except ValueError as error:
        raise UserError(str(error).replace("accumulate.", "--").replace("store.", "--")) from error
    if fusion != "max" and dtype != "float32":
        raise UserError(
            f"--dtype is {dtype}, expected float32 with --fusion {fusion}: a run that continues "
            "the store rounds its maps at each update, which biases them"
        )
    base = Path(folder)
    if not base.is_dir():
        raise UserError(f"{base} is no folder, expected one with maps ID_CLASS.png or .npy")
    class_names = read_classes(Path(classes) if classes else base / CLASSES)
    pairs = folder_pairs(base, class_names)
    manifest = manifest_of(pairs, class_names, map_size, dtype, shards, fusion)
    with new_folder(Path(out)) as store:
        manifest.write(store)
        resized = sum(_write_shard(store, manifest, s, pairs) for s in range(shards))
    maps = sum(entry.path is not None for entry in pairs.values())
    print(f"{maps:,} maps of {len(manifest.image_ids):,} images are in {out}")
    if resized:
        print(f"{resized:,} of them were resized to {map_size} x {map_size} cells")
    return 0


def manifest_of(
    pairs: dict[tuple[str, int], MapFile],
    class_names: tuple[str, ...],
    map_size: int,
    dtype: str,
    shards: int,
    fusion: str,
) -> Manifest:
    """The manifest of a store with these pairs."""
    classes_of: dict[str, list[int]] = {}
    for image_id, class_index in sorted(pairs):
        classes_of.setdefault(image_id, []).append(class_index)
    return Manifest(
        map_size=map_size,
        dtype=dtype,
        fusion=fusion,
        shards=shards,
        class_names=class_names,
        fingerprint=labels_fingerprint(class_names, classes_of.items()),
        image_ids=tuple(classes_of),
        classes=tuple(map(tuple, classes_of.values())),
    )


def _write_shard(
    store: Path, manifest: Manifest, index: int, pairs: dict[tuple[str, int], MapFile]
) -> int:
    """Writes one shard as generation 1; returns how many maps were resized."""
    entries = [pairs[pair] for pair in manifest.pairs_of_shard(index)]
    rows_K = np.array([row for row, e in enumerate(entries) if e.path is not None], np.int64)
    size = manifest.map_size
    maps_K2SS = np.zeros((len(rows_K), 2, size, size), manifest.dtype)
    resized = 0
    for maps_2SS, row in zip(maps_K2SS, rows_K.tolist(), strict=True):
        values = entries[row].read()
        maps_2SS[...] = to_grid(values, size, maps_2SS.dtype)  # the last attention is not known
        resized += values.shape != maps_2SS.shape[1:]
    accepted_K = np.array([entries[row].accepted for row in rows_K])
    fallback_K = np.array([entries[row].fallback for row in rows_K])
    # As rank `index` of as many ranks as shards: it owns this shard alone.
    writer = StoreWriter(store, manifest, index, manifest.shards, generation=0)
    try:
        writer.commit(1, ChangedRows(rows_K, maps_K2SS, accepted_K, fallback_K))
    finally:
        writer.close()
    return resized
