"""Boxes around objects, for evaluation alone: no training reads them.

A box is (x0, y0, x1, y1) in pixels of the image as its file stores it (before any EXIF
orientation, as masks are), x to the right and y down, with the origin at the image's upper left
corner: the edges of the box, so that pixel column j reaches from j to j + 1 and a whole image has
the box (0, 0, width, height). Its width is x1 - x0. What other conventions become:

    CUB     `x y width height`                    x, y, x + width, y + height
    VOC     corner pixels from 1, both inside     xmin - 1, ymin - 1, xmax, ymax
    COCO    [x, y, width, height]                 x, y, x + width, y + height
    others  (CSV, other XML) corners              as they stand

A box may stick out of its image by a pixel, as such roundings make it; it is clipped and counted.
"""

import csv
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import NamedTuple

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import csv_rows, text_lines
from dist_oaa.data.coco import read_coco_boxes
from dist_oaa.data.cub import BOXES_FILE, read_cub_boxes
from dist_oaa.data.imagenet import synset_names
from dist_oaa.data.images import BadImageError, read_size
from dist_oaa.data.paths import inside_or_report, relative_name
from dist_oaa.data.problems import Problems
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.data.sources import layout_of
from dist_oaa.data.voc import ANNOTATIONS, read_objects

Corners = tuple[float, float, float, float]
COLUMNS = ("path", "x0", "y0", "x1", "y1")
CLIPPED = 1.0
"""Pixels by which a box may stick out of its image."""


class Box(NamedTuple):
    """An object's class and the edges of its box."""

    class_index: int
    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def corners(self) -> Corners:
        """The edges alone."""
        return self[1:]


@dataclass(frozen=True)
class ObjectBoxes:
    """The boxes of an image set."""

    source: str
    """Where they were read, as results state it."""
    by_image: dict[str, tuple[Box, ...]]
    """Image id -> its boxes, at least one."""
    clipped: int = 0
    """Boxes that stuck out of their image by up to a pixel, a count."""

    def of(self, sample: Sample) -> dict[int, list[Corners]]:
        """Class index -> corners of that class's boxes in an image."""
        found: dict[int, list[Corners]] = {}
        for box in self.by_image.get(sample.id, ()):
            found.setdefault(box.class_index, []).append(box.corners)
        return found


class _Read(NamedTuple):
    """A box as a file says it."""

    image_id: str
    class_name: str
    """Empty for the image's only class."""
    corners: Corners
    where: str


def has_boxes(config: DataConfig) -> bool:
    """Whether the settings name boxes, or the layout of CUB or COCO brings them."""
    return bool(config.boxes) or layout_of(config) in ("cub", "coco")


def open_boxes(
    config: DataConfig, image_set: ImageSet, problems: Problems | None = None
) -> ObjectBoxes:
    """The boxes of all images of a set, held against the sizes in the images' headers.

    Args:
        config: the settings that the set was opened with.
        problems: where faults go; by default the first one raises.

    Raises:
        UserError: there is no source of boxes, or it cannot be read; (by default) a box that has
            no area or lies outside its image, that names an unknown image or a class which the
            image does not have, or a class of an image without any box.
    """
    problems = problems or Problems()
    read, source = _open(config, image_set, problems)
    samples = {sample.id: sample for sample in image_set.samples}
    sizes: dict[str, tuple[int, int] | None] = {}
    found: dict[str, list[Box]] = {}
    clipped = 0
    for box in read:
        sample = samples.get(box.image_id)
        if sample is None:
            continue  # of another split
        class_index = _class_of(box, sample, image_set.class_names, problems)
        if sample.id not in sizes:
            sizes[sample.id] = _size(sample)
        corners = _checked(box, sizes[sample.id], problems)
        if class_index is not None and corners is not None:
            clipped += corners != box.corners
            found.setdefault(sample.id, []).append(Box(class_index, *corners))
    for sample in image_set.samples:
        missing = set(sample.classes) - {box.class_index for box in found.get(sample.id, ())}
        for class_index in sorted(missing):
            name = image_set.class_names[class_index]
            problems.add(
                "unboxed", f"{source}: the image {sample.id!r} has no box of its class {name!r}"
            )
    return ObjectBoxes(source, {name: tuple(boxes) for name, boxes in found.items()}, clipped)


def _open(
    config: DataConfig, image_set: ImageSet, problems: Problems
) -> tuple[Iterable[_Read], str]:
    root, layout = image_set.root, layout_of(config)
    if config.boxes:
        # A setting is the user's own word, so unlike names in data files it may lead anywhere.
        path = root / config.boxes
        if path.is_dir():
            read = _from_xml(path, image_set, 0, problems)
            names = synset_names(root) if layout == "imagenet" else {}
            named = (
                box._replace(class_name=names.get(box.class_name, box.class_name)) for box in read
            )
            return named, f"{config.boxes}/*.xml"
        if not path.is_file():
            raise UserError(
                f"data.boxes: {path} does not exist, expected a CSV file {','.join(COLUMNS)} or a "
                "folder of XML annotations"
            )
        return _from_csv(path, image_set, problems), config.boxes
    if layout == "cub":
        rows = read_cub_boxes(root, problems)
        return (_Read(name, "", corners, where) for name, corners, where in rows), BOXES_FILE
    if layout == "coco":
        return starmap(_Read, read_coco_boxes(config, root, problems)), "bbox of the annotations"
    if layout == "voc" and (root / ANNOTATIONS).is_dir():
        # VOC counts pixels from 1 and includes both corners.
        return _from_xml(root / ANNOTATIONS, image_set, 1, problems), f"{ANNOTATIONS}/*.xml"
    raise UserError(
        f"data.boxes is empty and {root} has no boxes of its own ({layout} layout), expected a CSV "
        f"file {','.join(COLUMNS)} or a folder of XML annotations"
    )


def _from_xml(folder: Path, image_set: ImageSet, first: int, problems: Problems) -> Iterator[_Read]:
    """The boxes of ID.xml, or of the image's file name alone where there is no such file.

    Args:
        first: number of the leftmost column of pixels.
    """
    for sample in image_set.samples:
        names = (f"{sample.id}.xml", f"{Path(sample.id).name}.xml")
        name = next((name for name in names if (folder / name).is_file()), None)
        path = name and inside_or_report(folder, name, str(folder), problems)
        if not path:
            continue
        try:
            for class_name, (x0, y0, x1, y1) in read_objects(path):
                yield _Read(sample.id, class_name, (x0 - first, y0 - first, x1, y1), str(path))
        except UserError as error:
            problems.add("corrupt", str(error))


def _from_csv(path: Path, image_set: ImageSet, problems: Problems) -> Iterator[_Read]:
    """The lines of a box file, with the columns of its header or as wsolevaluation writes them."""
    root = image_set.root
    ids = {sample.path.relative_to(root).as_posix(): sample.id for sample in image_set.samples}
    ids |= {sample.id: sample.id for sample in image_set.samples}
    for line, cells in _csv_cells(path):
        where = f"{path}, line {line}"
        try:
            name = relative_name(cells["path"])
        except UserError as error:
            problems.add("outside", f"{where}: {error}")
            continue
        if name not in ids:
            file = inside_or_report(root, name, where, problems)
            if file is not None and not file.is_file():
                problems.add("box", f"{where} names the unknown image {name!r}")
            continue
        try:
            corners = tuple(float(cells[column]) for column in COLUMNS[1:])
        except ValueError:
            problems.add("box", f"{where} is no box, expected numbers for x0, y0, x1 and y1")
            continue
        yield _Read(ids[name], cells.get("class", ""), corners, where)


def _csv_cells(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    first = next((text for _, text in text_lines(path) if text.strip()), "")
    if "path" in [cell.strip() for cell in first.split(",")]:
        yield from csv_rows(path, COLUMNS)
        return
    for line, text in text_lines(path):
        cells = next(csv.reader([text]), [])
        if cells and len(cells) != len(COLUMNS):
            raise UserError(
                f"{path}, line {line}: {len(cells)} cells, expected {','.join(COLUMNS)} (a header "
                "may add a column class)"
            )
        if cells:
            yield line, dict(zip(COLUMNS, (cell.strip() for cell in cells), strict=True))


def _class_of(
    box: _Read, sample: Sample, class_names: tuple[str, ...], problems: Problems
) -> int | None:
    own = [class_names[c] for c in sample.classes]
    if not box.class_name and len(own) == 1:
        return sample.classes[0]
    if not box.class_name:
        problems.add(
            "box",
            f"{box.where}: the image {sample.id!r} has {len(own)} classes, so its boxes need one: "
            "expected a header with a column class",
        )
    elif box.class_name not in own:
        problems.add(
            "box",
            f"{box.where}: a box of class {box.class_name!r}, but the image {sample.id!r} is "
            f"labelled {', '.join(own) or 'with none'}",
        )
    else:
        return class_names.index(box.class_name)
    return None


def _size(sample: Sample) -> tuple[int, int] | None:
    """Height and width in pixels; None of an image that cannot be read, which others report."""
    try:
        return read_size(sample.path)
    except BadImageError:
        return None


def _checked(box: _Read, size: tuple[int, int] | None, problems: Problems) -> Corners | None:
    """The box, clipped to its image; None after a report."""
    x0, y0, x1, y1 = box.corners
    shown = " ".join(f"{value:g}" for value in box.corners)
    if not all(map(math.isfinite, box.corners)) or x1 <= x0 or y1 <= y0:
        problems.add(
            "box", f"{box.where}: the box {shown} has no area, expected x0 < x1 and y0 < y1"
        )
        return None
    if size is None:
        return box.corners
    height, width = size
    if min(x0, y0) < -CLIPPED or x1 > width + CLIPPED or y1 > height + CLIPPED:
        problems.add(
            "box",
            f"{box.where}: the box {shown} (x0 y0 x1 y1) lies outside its image "
            f"{box.image_id!r} of {width} x {height} pixels",
        )
        return None
    clipped = max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        problems.add("box", f"{box.where}: the box {shown} lies outside its image")
        return None
    return clipped
