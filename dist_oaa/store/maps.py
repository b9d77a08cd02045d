"""The maps that an earlier run or another program has left, whatever form they have.

    a store, or a run directory with store/       LMDB shards (reader.py)
    an export, or a run directory with attention/ files ID_CLASS.png or .npy, or the dictionaries
                                                  ID.npy of IRN and PSA (map_folder.py)

A run directory with both gives attention/: it is what that run was for.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.store.interchange import CLASSES, PAIRS
from dist_oaa.store.manifest import MANIFEST
from dist_oaa.store.map_folder import MapFile, folder_pairs, read_classes
from dist_oaa.store.mapfile import to_grid
from dist_oaa.store.reader import StoreReader

ATTENTION, STORE = "attention", "store"
# Maps of the public OAA code are as large as their images; such a folder is read on this grid.
DEFAULT_SIZE, LARGEST_SIZE = 41, 128

Pair = tuple[str, int]
MapRecord = tuple[str, int, np.ndarray]


@dataclass(frozen=True)
class MapSource:
    """Maps of (image, class) pairs, all of one size and number format."""

    folder: Path
    """What is read: the folder of the store or of the files."""
    class_names: tuple[str, ...]
    map_size: int
    """Cells along each side."""
    dtype: str
    """uint8, where 255 stands for 1, or float32."""
    pairs: tuple[Pair, ...]
    """(image name, class index) of all pairs that have a map, sorted."""
    read: Callable[[Collection[Pair]], Iterator[MapRecord]]
    """Yields the records of some of `pairs`; see `of`."""

    @property
    def is_store(self) -> bool:
        """Whether the maps are cumulative ones in a store; else they are files."""
        return (self.folder / MANIFEST).exists()

    @property
    def records(self) -> Iterator[MapRecord]:
        """(image name, class index, map S x S) of every pair, each time from the beginning.

        Raises:
            UserError: when a map is missing or damaged.
        """
        return self.read(self.pairs)

    def of(self, image_ids: Collection[str]) -> Iterator[MapRecord]:
        """The records of these images alone; other files are not even opened.

        Raises:
            UserError: when a map is missing or damaged.
        """
        return self.read([pair for pair in self.pairs if pair[0] in image_ids])


def open_maps(path: Path | str) -> MapSource:
    """Finds the maps of a store, an export folder or a run directory.

    A folder whose first map (by name) is no square of at most 128 cells is read on a grid of 41;
    files of other sizes than the grid's are resized bilinearly.

    Raises:
        UserError: when there are none, or they cannot be understood.
    """
    path = Path(path)
    if not path.is_dir():
        raise UserError(f"{path} is no folder, expected a store, a run directory or a map folder")
    if (path / MANIFEST).exists():
        return _of_store(path)
    if (path / ATTENTION).is_dir():
        return _of_folder(path / ATTENTION)
    if (path / STORE / MANIFEST).exists():
        return _of_store(path / STORE)
    if (path / "checkpoints").is_dir():
        raise UserError(
            f"{path} is a run directory without maps, expected one with {ATTENTION}/ or {STORE}/"
        )
    return _of_folder(path)


def _of_store(folder: Path) -> MapSource:
    reader = StoreReader(folder)
    manifest = reader.manifest
    pairs = tuple(sorted((name, c) for name, c, _ in reader.records()))
    dtype = "uint8" if manifest.dtype == "uint8" else "float32"
    shard_of = dict(zip(manifest.image_ids, manifest.shard_N.tolist(), strict=True))

    def read(wanted: Collection[Pair]) -> Iterator[MapRecord]:
        chosen = set(wanted)
        shards = sorted({shard_of[name] for name, _ in chosen})
        for name, c, record in reader.records(shards):
            if (name, c) in chosen:
                yield name, c, record.map_SS.astype(dtype)

    return MapSource(folder, manifest.class_names, manifest.map_size, dtype, pairs, read)


def _of_folder(folder: Path) -> MapSource:
    if not (folder / CLASSES).exists():
        named = (folder / PAIRS).exists() or any(folder.glob("*_*.*"))
        what = f"has no {CLASSES}" if named else "holds no maps"
        raise UserError(
            f"{folder} {what}, expected a store, a run directory, or a folder of files "
            f"ID_CLASS.png with {CLASSES}: one class name a line in the order of the indices"
        )
    class_names = read_classes(folder / CLASSES)
    entries = folder_pairs(folder, class_names)
    files = {pair: entry for pair, entry in sorted(entries.items()) if entry.path is not None}
    if not files:
        raise UserError(f"{folder / PAIRS} names no file, expected at least one map")
    dtype = "uint8" if all(e.path.suffix.lower() == ".png" for e in files.values()) else "float32"
    size = _grid_of(next(iter(files.values())))

    def read(wanted: Collection[Pair]) -> Iterator[MapRecord]:
        for pair in wanted:
            yield *pair, to_grid(files[pair].read(), size, np.dtype(dtype))

    return MapSource(folder, class_names, size, dtype, tuple(files), read)


def _grid_of(entry: MapFile) -> int:
    height, width = entry.read().shape
    return height if height == width <= LARGEST_SIZE else DEFAULT_SIZE
