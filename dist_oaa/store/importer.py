"""`oaa store import`: a store from a folder of map files (see interchange.py for the layout).

The public OAA code's folders have neither pairs.csv nor classes.txt, and maps of any size: pairs
are then read from the file names, class names from the file that --classes names.
"""

import csv
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from dist_oaa.config.accumulate import AccumulateConfig, StoreConfig
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.csv_cells import unguarded
from dist_oaa.runtime.files import new_folder
from dist_oaa.runtime.fingerprint import labels_fingerprint
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.facade import StoreWriter
from dist_oaa.store.interchange import CLASSES, PAIRS
from dist_oaa.store.manifest import Manifest, is_storable
from dist_oaa.store.mapfile import SUFFIXES, read_map, to_grid


@dataclass(frozen=True)
class MapFile:
    """What is known of one pair."""

    image_id: str
    class_index: int
    path: Path | None
    """None for a pair that has no map yet."""
    accepted: int
    fallback: bool
    where: str
    """The file, or line of pairs.csv, that says so."""


def import_folder(
    folder: str,
    out: str,
    classes: str = "",
    map_size: int = 41,
    dtype: Literal["uint8", "float16", "float32"] = "uint8",
    shards: int = 24,
    fusion: Literal["max", "average", "harmonic", "ema"] = "max",
) -> int:
    """Make a store from a folder of maps named ID_CLASS.png or .npy.

    Reads what `oaa store export` writes, and folders of the public OAA code, which have no
    pairs.csv. The last attention, which the files do not hold, is set to the map.

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


def read_classes(path: Path) -> tuple[str, ...]:
    """Class names, one a line, blank lines left out.

    Raises:
        UserError: when the file is missing, empty, no UTF-8 text, or names a class twice.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing, expected one class name a line (or name a file with --classes)"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}") from error
    names = tuple(line.strip() for line in lines if line.strip())
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        found = f"names the class {twice[0]!r} twice" if twice else "names no class"
        raise UserError(f"{path} {found}, expected each class name on a line of its own")
    return names


def folder_pairs(base: Path, class_names: tuple[str, ...]) -> dict[tuple[str, int], MapFile]:
    """The pairs of a folder, by (image name, class index): of pairs.csv, else of the file names.

    Raises:
        UserError: when there are none, or a name, class or line cannot be understood.
    """
    listed = (base / PAIRS).exists()
    entries = _from_table(base, class_names) if listed else _from_names(base, class_names)
    pairs = by_pair(entries, class_names)
    if not pairs:
        raise UserError(f"{base} holds no maps, expected files named ID_CLASS.png or .npy")
    return pairs


def by_pair(
    entries: Iterator[MapFile], class_names: tuple[str, ...]
) -> dict[tuple[str, int], MapFile]:
    """The entries by (image name, class index).

    Raises:
        UserError: when a pair occurs twice or an image name cannot be kept in a store.
    """
    pairs: dict[tuple[str, int], MapFile] = {}
    for entry in entries:
        if not is_storable(entry.image_id):
            raise UserError(
                f"{entry.where}: the image name {entry.image_id!r} cannot be kept in a store, "
                "expected a relative name without tabs, line breaks or '..'"
            )
        other = pairs.setdefault((entry.image_id, entry.class_index), entry)
        if other is not entry:
            raise UserError(
                f"{entry.where} and {other.where} are both of image {entry.image_id!r} and class "
                f"{class_names[entry.class_index]!r}, expected one map a pair"
            )
    return pairs


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
        values = read_map(entries[row].path)
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


def _from_names(base: Path, class_names: tuple[str, ...]) -> Iterator[MapFile]:
    for name in map_names(base):
        image_id, class_index = parse_name(base / name, name, class_names)
        yield MapFile(
            image_id, class_index, inside(base, name, str(base)), 1, False, str(base / name)
        )


def map_names(base: Path) -> list[str]:
    """Map files of a folder and its sub-folders, relative to it, sorted."""
    files = (p for p in base.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    return sorted(p.relative_to(base).as_posix() for p in files)


def parse_name(path: Path, name: str, class_names: tuple[str, ...]) -> tuple[str, int]:
    """Image name and class index of a file ID_CLASS.png, CLASS being an index or a name.

    Raises:
        UserError: when the name is not of this form, or its class is unknown or ambiguous.
    """
    stem = name.rpartition(".")[0]
    image_id, _, label = stem.rpartition("_")
    if not PurePosixPath(image_id).name or image_id.endswith("/") or not label:
        raise UserError(f"{path}: the name does not parse, expected ID_CLASS.png or ID_CLASS.npy")
    if label.isascii() and label.isdigit():
        if int(label) >= len(class_names):
            raise UserError(
                f"{path}: the class index {int(label)} is unknown, expected 0 to "
                f"{len(class_names) - 1}"
            )
        return image_id, int(label)
    # A class name may contain underscores itself.
    known = [c for c, text in enumerate(class_names) if stem.endswith(f"_{text}")]
    if len(known) > 1:
        raise UserError(
            f"{path}: the class may be {' or '.join(class_names[c] for c in known)}, expected "
            f"an index instead of the name, or {PAIRS}"
        )
    if not known:
        raise UserError(f"{path}: {_unknown(label, class_names)}")
    return stem.removesuffix(f"_{class_names[known[0]]}"), known[0]


def _unknown(label: str, class_names: tuple[str, ...]) -> str:
    nearest = difflib.get_close_matches(label, class_names, 1, 0.0)
    hint = f"the nearest of the {len(class_names)} class names is {nearest[0]!r}"
    return f"the class {label!r} is unknown; {hint}"


def _from_table(base: Path, class_names: tuple[str, ...]) -> Iterator[MapFile]:
    path = base / PAIRS
    unlisted = set(map_names(base))
    indices = {name: c for c, name in enumerate(class_names)}
    for line, cells in _table_rows(path):
        where = f"{path}, line {line}"
        file, label = cells["file"], cells["class"]
        if label not in indices:
            raise UserError(f"{where}: {_unknown(label, class_names)}")
        source = None
        if file:
            source = inside(base, file, where)
            if not source.is_file() or source.suffix.lower() not in SUFFIXES:
                raise UserError(f"{where}: {file} is no map, expected a .png or .npy file")
            unlisted.discard(PurePosixPath(file).as_posix())
        accepted, fallback = (_count(cells[key], key, where) for key in ("accepted", "fallback"))
        yield MapFile(cells["image_id"], indices[label], source, accepted, bool(fallback), where)
    if unlisted:
        raise UserError(
            f"{base / min(unlisted)} is not in {PAIRS}, expected a line for each map (or no "
            f"{PAIRS}, where the file names say it all)"
        )


def _table_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line number, cells) of pairs.csv; accepted and fallback may be left out."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for name in ("file", "image_id", "class"):
                if name not in (reader.fieldnames or ()):
                    raise UserError(
                        f"{path} has no column {name!r} in its first line, expected a header "
                        "naming file, image_id and class"
                    )
            for cells in reader:
                if None in cells or None in cells.values():
                    raise UserError(
                        f"{path}, line {reader.line_num}: another number of cells than in the "
                        f"header, expected {len(reader.fieldnames)}"
                    )
                texts = {key: unguarded(text) for key, text in cells.items()}
                yield reader.line_num, {"accepted": "1", "fallback": "0"} | texts
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path} cannot be read: {error}") from error


def _count(text: str, key: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise UserError(f"{where}: {key} is {text!r}, expected a count")
    return int(text)


def inside(base: Path, name: str, where: str) -> Path:
    """`base / name`, certain to lie inside `base` after following every symbolic link.

    Raises:
        UserError: when it leads elsewhere.
    """
    pure = PurePosixPath(name)
    plain = not pure.is_absolute() and ".." not in pure.parts and "\0" not in name
    if not plain or not (base / name).resolve().is_relative_to(base.resolve()):
        raise UserError(f"{where}: {name!r} leads out of {base}, expected a file inside it")
    return base / name
