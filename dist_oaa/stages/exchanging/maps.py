"""`oaa store export`: the maps of a store as files, or as the dictionaries of IRN and PSA.

Dictionaries hold all maps of an image and are expected at its size, which a store does not know:
the images themselves say it.
"""

from itertools import groupby
from pathlib import Path
from typing import Literal

from dist_oaa.config.errors import UserError
from dist_oaa.data.images import IMAGE_SUFFIXES, read_size
from dist_oaa.runtime.files import new_folder
from dist_oaa.store.dictfile import FORMATS, write_maps
from dist_oaa.store.interchange import CLASSES, export_store
from dist_oaa.store.reader import StoreReader


def export_maps(
    store: str,
    out: str,
    format: Literal["png", "npy", "irn", "psa"] = "png",
    what: Literal["map", "attention"] = "map",
    naming: Literal["index", "name"] = "index",
    images: str = "",
) -> int:
    """Write every map of a store as a file, or all maps of an image as one.

    Files are ID_CLASS.png or .npy, with pairs.csv, which lists all pairs;
    dictionaries of all maps of an image are ID.npy. classes.txt holds the names.

    Args:
        store: Folder of a store, or a run directory that holds one.
        out: Folder to make; it must be new or empty.
        format: png is 8-bit grey, round(255 a); npy keeps the store's number format; irn and psa
            are the dictionaries of those programs, float32, which np.load(allow_pickle=True) reads.
        what: map is the cumulative map, attention that of the last accepted update.
        naming: What stands for CLASS in a file name (png, npy), the index from 0 or the class name.
        images: Folder with the images ID.jpg (or another suffix), to whose size maps are resized
            (irn, psa); empty leaves them on the store's grid, which those programs cannot use but
            which loses nothing.

    Returns:
        The exit code.
    """
    if format not in FORMATS:
        if images:
            raise UserError(f"--images is for {' and '.join(FORMATS)}, not for {format}")
        return export_store(store, out, format, what, naming)
    if images and not Path(images).is_dir():
        raise UserError(f"--images {images} is no folder, expected one with the images of the maps")
    if naming != "index":
        raise UserError(f"--naming {naming} is for files, but {format} numbers classes from 0")
    return _export_dictionaries(store, out, format, what, images)


def _export_dictionaries(store: str, out: str, kind: str, what: str, images: str) -> int:
    reader = StoreReader(Path(store))
    manifest = reader.manifest
    written: dict[str, str] = {}
    count = 0
    with new_folder(Path(out)) as folder:
        for name, records in groupby(reader.records(), lambda record: record[0]):
            # Compared as paths: a//b and a/b are two names of one file.
            other = written.setdefault(str(Path(name)), name)
            if other != name:
                raise UserError(
                    f"the images {name!r} and {other!r} would both be written as {Path(name)}.npy, "
                    "expected distinct names"
                )
            maps = {c: r.map_SS if what == "map" else r.last_SS for _, c, r in records}
            size = image_size(Path(images), name) if images else None
            write_maps(folder / f"{name}.npy", kind, maps, size)
            count += len(maps)
        names = "".join(f"{name}\n" for name in manifest.class_names)
        (folder / CLASSES).write_text(names, encoding="utf-8")
    grid = f"{manifest.map_size} x {manifest.map_size} cells (no --images)"
    print(
        f"{count:,} maps of {len(written):,} images are in {out}, "
        + ("at the size of their images" if images else grid)
    )
    if missing := manifest.pairs - count:
        print(f"{missing:,} pairs have no map")
    return 0


def image_size(folder: Path, image_id: str) -> tuple[int, int]:
    """Height and width of an image by its name, in pixels.

    Raises:
        UserError: there is no such image, or it cannot be read.
    """
    for suffix in IMAGE_SUFFIXES:
        for path in (folder / f"{image_id}{suffix}", folder / f"{image_id}{suffix.upper()}"):
            if path.is_file():
                return read_size(path)
    raise UserError(
        f"{folder / image_id} does not exist as .jpg, .png or the like, expected the image of each "
        "map below --images"
    )
