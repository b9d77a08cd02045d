"""A folder of map files as pairs: what there is of each (image, class), and where.

    files         ID_CLASS.png or .npy, with pairs.csv or without (see interchange.py)
    dictionaries  ID.npy with all maps of an image, as IRN and PSA save them (see dictfile.py)

The public OAA code's folders have neither pairs.csv nor classes.txt, and maps of any size: pairs
are then read from the file names. Which of the two a folder holds, its first .npy file says.
"""

import csv
import difflib
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.csv_cells import unguarded
from dist_oaa.store.dictfile import read_maps
from dist_oaa.store.interchange import PAIRS
from dist_oaa.store.manifest import is_storable
from dist_oaa.store.mapfile import SUFFIXES, read_map
from dist_oaa.store.object_npy import holds_object

# The pairs of an image follow one another, so the last file is enough.
_last_dictionary = functools.lru_cache(maxsize=1)(read_maps)


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
    in_dictionary: bool = False
    """The file holds all maps of the image."""

    def read(self) -> np.ndarray:
        """The map, H x W of any size: uint8, or float in [0, 1].

        Raises:
            UserError: when the file is damaged or holds something else.
        """
        assert self.path is not None, self
        return (
            _last_dictionary(self.path)[self.class_index]
            if self.in_dictionary
            else read_map(self.path)
        )


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
    arrays = (name for name in map_names(base) if name.lower().endswith(".npy"))
    if (base / PAIRS).exists():
        entries = _from_table(base, class_names)
    elif (first := next(arrays, None)) and holds_object(base / first):
        entries = _from_dictionaries(base, class_names)
    else:
        entries = _from_names(base, class_names)
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


def _from_names(base: Path, class_names: tuple[str, ...]) -> Iterator[MapFile]:
    for name in map_names(base):
        image_id, class_index = parse_name(base / name, name, class_names)
        yield MapFile(
            image_id, class_index, inside(base, name, str(base)), 1, False, str(base / name)
        )


def _from_dictionaries(base: Path, class_names: tuple[str, ...]) -> Iterator[MapFile]:
    for name in map_names(base):
        path = inside(base, name, str(base))
        for class_index in _last_dictionary(path):
            if class_index >= len(class_names):
                raise UserError(_out_of_range(path, class_index, class_names))
            image_id = name.rpartition(".")[0]
            yield MapFile(image_id, class_index, path, 1, False, str(path), in_dictionary=True)


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
            raise UserError(_out_of_range(path, int(label), class_names))
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


def _out_of_range(path: Path, index: int, class_names: tuple[str, ...]) -> str:
    return f"{path}: the class index {index} is unknown, expected 0 to {len(class_names) - 1}"


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
