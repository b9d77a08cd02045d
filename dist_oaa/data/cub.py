"""The layout of CUB-200-2011.

    images.txt               `id path`, the path below images/
    image_class_labels.txt   `id class`, one class an image
    train_test_split.txt     `id flag`, 1 train and 0 test
    classes.txt              `class name`
    bounding_boxes.txt       `id x y width height` in pixels, for evaluation alone (boxes.py)

Image and class ids are whole numbers from 1; they number the lines of these files and nothing
else. The name of an image is its path below images/ without suffix, and the classes are indexed in
the order of their ids. The boxes are taken as they stand, x and y from 0: some begin at 0, and
those that touch the lower border end one pixel before it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import ClassTable, LabelRow, text_lines
from dist_oaa.data.paths import inside, inside_or_report, relative_name
from dist_oaa.data.problems import Problems
from dist_oaa.data.sample import ImageSet, Sample

IMAGES_FILE = "images.txt"
LABELS_FILE = "image_class_labels.txt"
SPLIT_FILE = "train_test_split.txt"
CLASSES_FILE = "classes.txt"
BOXES_FILE = "bounding_boxes.txt"
SPLITS = {"train": ("1",), "test": ("0",), "all": ("0", "1")}
"""Split name -> flags in train_test_split.txt."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a file says of an id, and where."""

    text: str
    where: str


def open_cub(config: DataConfig, root: Path, problems: Problems) -> ImageSet:
    """Open the split `data.split` (train, test or all) in the order of images.txt.

    Raises:
        UserError: a file is missing, or there is no such split; all else goes to `problems`.
    """
    if config.split not in SPLITS:
        raise UserError(
            f"data.split is {config.split!r}, expected {', '.join(SPLITS)} in the CUB layout"
        )
    images = read_rows(root, IMAGES_FILE, problems)
    labels, flags = (
        read_rows(root, name, problems, known=images) for name in (LABELS_FILE, SPLIT_FILE)
    )
    names = read_rows(root, CLASSES_FILE, problems)
    order = sorted(names, key=lambda number: (len(number), number))
    table = ClassTable(tuple(config.classes) or tuple(names[number].text for number in order))
    samples: dict[str, Sample] = {}
    for number, row in images.items():
        if not _is_in(config.split, number, row, flags, root, problems):
            continue
        image_id = image_name(row, problems)
        if image_id is None:
            continue
        classes = _classes(image_id, number, row, labels, names, table, root, problems)
        path = inside_or_report(root, f"images/{row.text}", row.where, problems)
        if path is not None and not path.is_file():
            problems.add("missing", f"{row.where}: the image {path} does not exist")
            path = None
        if image_id in samples:
            problems.add("duplicate", f"{row.where}: the image {image_id!r} a second time")
        elif path is not None:
            samples[image_id] = Sample(image_id, path, classes, mask=None)
    return ImageSet(root, table.names, tuple(samples.values()), LABELS_FILE)


def read_cub_boxes(
    root: Path, problems: Problems
) -> Iterator[tuple[str, tuple[float, float, float, float], str]]:
    """Yield (image name, (x0, y0, x1, y1), "file, line n") of bounding_boxes.txt, of all splits.

    Raises:
        UserError: a file is missing; a line that names no known image or holds no four numbers
            goes to `problems`.
    """
    images = read_rows(root, IMAGES_FILE, problems)
    for number, row in read_rows(root, BOXES_FILE, problems, known=images).items():
        image_id = image_name(images[number], problems)
        try:
            x, y, width, height = (float(text) for text in row.text.split())
        except ValueError:
            problems.add("box", f"{row.where} is no box, expected `id x y width height`")
            continue
        if image_id is not None:
            yield image_id, (x, y, x + width, y + height), row.where


def read_rows(
    root: Path, name: str, problems: Problems, known: dict[str, Row] | None = None
) -> dict[str, Row]:
    """The lines `id text` of one of the files, by id.

    Args:
        known: rows of images.txt, whose ids alone may occur.

    Raises:
        UserError: the file is missing or unreadable; all else goes to `problems`.
    """
    path = inside(root, name)
    if not path.is_file():
        raise UserError(f"{path} does not exist, expected it in a data set of the CUB layout")
    rows: dict[str, Row] = {}
    for line, text in text_lines(path):
        where = f"{path}, line {line}"
        number, *rest = text.split(maxsplit=1) or [""]
        if not number:
            continue
        if not (number.isascii() and number.isdigit()) or not rest:
            problems.add("corrupt", f"{where} is {text.strip()!r}, expected a number and more")
        elif number in rows:
            problems.add("duplicate", f"{rows[number].where} and {where}: the id {number} twice")
        elif known is not None and number not in known:
            problems.add("missing", f"{where}: the image {number} is not in {IMAGES_FILE}")
        else:
            rows[number] = Row(rest[0].strip(), where)
    return rows


def image_name(row: Row, problems: Problems) -> str | None:
    """The name of an image by its line of images.txt; None after a report."""
    try:
        return PurePosixPath(relative_name(row.text)).with_suffix("").as_posix()
    except UserError as error:
        problems.add("outside", f"{row.where}: {error}")
        return None


def _is_in(
    split: str, number: str, row: Row, flags: dict[str, Row], root: Path, problems: Problems
) -> bool:
    if number not in flags:
        problems.add(
            "missing", f"{row.where}: the image {number} has no line in {root / SPLIT_FILE}"
        )
        return False
    flag = flags[number]
    if flag.text not in ("0", "1"):
        problems.add("corrupt", f"{flag.where}: the flag is {flag.text!r}, expected 1 or 0")
    return flag.text in SPLITS[split]


def _classes(
    image_id: str,
    number: str,
    row: Row,
    labels: dict[str, Row],
    names: dict[str, Row],
    table: ClassTable,
    root: Path,
    problems: Problems,
) -> tuple[int, ...]:
    if number not in labels:
        problems.add(
            "unlabelled",
            f"{row.where}: the image {image_id!r} has no class, expected in {root / LABELS_FILE}",
        )
        return ()
    label = labels[number]
    if label.text not in names:
        problems.add(
            "unknown_class",
            f"{label.where}: the class {label.text} is not in {root / CLASSES_FILE}",
        )
        return ()
    return table.indices(image_id, LabelRow((names[label.text].text,), label.where), problems)
