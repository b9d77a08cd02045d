"""Maps as a folder of files, one a pair, for other programs: the layout, and `oaa store export`.

    OUT/ID_CLASS.png (or .npy)   the map; CLASS is the class index from 0, or the class name
    OUT/pairs.csv                file,image_id,class,accepted,fallback; file is empty for a pair
                                 without a map, class is the name
    OUT/classes.txt              class names, one a line, in the order of their indices

`ID_CLASS.png` with an index is also how the public OAA code keeps its maps. An id with slashes
becomes sub-folders.
"""

import csv
from pathlib import Path
from typing import Literal

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.csv_cells import guarded
from dist_oaa.runtime.files import new_folder
from dist_oaa.store.mapfile import write_map
from dist_oaa.store.reader import StoreReader

PAIRS = "pairs.csv"
CLASSES = "classes.txt"
COLUMNS = ("file", "image_id", "class", "accepted", "fallback")


def export_store(
    store: str,
    out: str,
    format: Literal["png", "npy"] = "png",
    what: Literal["map", "attention"] = "map",
    naming: Literal["index", "name"] = "index",
) -> int:
    """Write every map of a store as a file ID_CLASS.png or .npy, with tables.

    Beside the maps, pairs.csv lists all pairs and classes.txt the class names.

    Args:
        store: Folder of a store, or a run directory that holds one.
        out: Folder to make; it must be new or empty.
        format: png is 8-bit grey, round(255 a); npy keeps the store's number format.
        what: map is the cumulative map, attention that of the last accepted update.
        naming: What stands for CLASS in a file name, the index from 0 or the class name.

    Returns:
        The exit code.
    """
    reader = StoreReader(Path(store))
    manifest = reader.manifest
    labels = [str(c) for c in range(len(manifest.class_names))]
    if naming == "name":
        labels = [_file_part(name) for name in manifest.class_names]
    files: dict[str, tuple[str, int]] = {}
    rows = []
    with new_folder(Path(out)) as folder:
        for name, c, record in reader.records():
            file = f"{name}_{labels[c]}.{format}"
            # Compared as paths: a//b and a/b are two names of one file.
            other = files.setdefault(str(Path(file)), (name, c))
            if other != (name, c):
                raise UserError(
                    f"image {name!r} with class {manifest.class_names[c]!r} and image "
                    f"{other[0]!r} with class {manifest.class_names[other[1]]!r} would both be "
                    f"written as {file}, expected distinct names (try --naming index)"
                )
            write_map(folder / file, record.map_SS if what == "map" else record.last_SS)
            rows.append((name, c, file, record.accepted, int(record.fallback)))
        written = {(name, c) for name, c, *_ in rows}
        for name, classes in zip(manifest.image_ids, manifest.classes, strict=True):
            rows += [(name, c, "", 0, 0) for c in classes if (name, c) not in written]
        write_tables(folder, sorted(rows), manifest.class_names)
    print(
        f"{len(written):,} files of {manifest.map_size} x {manifest.map_size} cells are in {out}"
        + (f"; {manifest.pairs - len(written):,} pairs have no map" * (len(rows) > len(written)))
    )
    if format == "png" and manifest.dtype != "uint8":
        print(f"the store's {manifest.dtype} values were quantised: round(255 a)")
    return 0


def _file_part(name: str) -> str:
    if not name or "/" in name or "\0" in name:
        raise UserError(
            f"the class name {name!r} cannot be part of a file name; use --naming index"
        )
    return name


def write_tables(folder: Path, rows: list[tuple], class_names: tuple[str, ...]) -> None:
    """Writes pairs.csv and classes.txt.

    Args:
        rows: (image id, class index, file or "", accepted updates, fallback as 0 or 1).
    """
    with open(folder / PAIRS, "w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(COLUMNS)
        for name, c, file, accepted, fallback in rows:
            texts = (guarded(text) for text in (file, name, class_names[c]))
            table.writerow((*texts, accepted, fallback))
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in class_names), encoding="utf-8")
