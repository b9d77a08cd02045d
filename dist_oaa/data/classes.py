"""Image-level labels in files, the names of the classes, and the way from one to the other.

A label file is either a CSV with a header naming `image_id` and `classes` (names separated by
spaces), or a list with one image a line: `id c1 c2 ...`. Its classes are names, or indices from 0
where every class in the file is a whole number and none of these is a class name. In both, the id
may carry an image suffix, as in published lists. Rows of images outside the split are ignored.
"""

import csv
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.paths import is_printable
from dist_oaa.data.problems import Problems

VOC_CLASSES = (
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
"""The 20 classes of PASCAL VOC in the order of its mask indices 1 to 20."""
ID_SUFFIXES = (".jpg", ".jpeg", ".png")
CLASSES_FILE = "classes.txt"
# Between `aeroplan` and `aeroplane` (0.94), and not yet between `train` and `brain` (0.80).
MISSPELT = 0.85


@dataclass(frozen=True, slots=True)
class LabelRow:
    """The classes of one image as written, and the file (and line) where they stand."""

    classes: tuple[str, ...]
    where: str


@dataclass(frozen=True)
class ClassTable:
    """The class names of a data set in their order, and whether its labels are indices.

    Raises:
        UserError: a name does not fit one line of classes.txt, where it would become two classes.
    """

    names: tuple[str, ...]
    numeric: bool = False
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        for name in self.names:
            if not name or name != name.strip() or not is_printable(name):
                raise UserError(
                    f"the class name {name!r} cannot be used, expected one line of text without "
                    "white space around it"
                )
        keys = [str(i) for i in range(len(self.names))] if self.numeric else self.names
        object.__setattr__(self, "_index", {key: i for i, key in enumerate(keys)})

    def indices(self, image_id: str, row: LabelRow, problems: Problems) -> tuple[int, ...]:
        """Return the sorted class indices of an image; report no class and unknown ones."""
        if not row.classes:
            problems.add("unlabelled", f"{row.where}: the image {image_id!r} has no class")
        known = set()
        for name in row.classes:
            index = self._index.get(_plain(name) if self.numeric else name)
            if index is None:
                problems.add("unknown_class", self._unknown(image_id, name, row.where))
            else:
                known.add(index)
        return tuple(sorted(known))

    def _unknown(self, image_id: str, name: str, where: str) -> str:
        if self.numeric:
            expected = f"the {len(self.names)} classes have the indices 0 to {len(self.names) - 1}"
        else:
            expected = f"the nearest of the {len(self.names)} class names is "
            expected += repr(nearest(name, self.names)[0])
        return f"{where}: the image {image_id!r} has the unknown class {name!r}; {expected}"


def nearest(name: str, names: Iterable[str], least: float = 0.0) -> list[str]:
    """Return, in a list of at most one, the name most like `name` (difflib ratio >= `least`)."""
    folded = {other.lower(): other for other in names}
    return [folded[m] for m in difflib.get_close_matches(name.lower(), folded, 1, least)]


def class_table(config: DataConfig, root: Path, used: Iterable[str], source: str) -> ClassTable:
    """Settle the class names as `data.classes` documents it.

    Args:
        used: Every class that the whole label source mentions, not only the split's, so that all
            splits of a data set get the same classes.
        source: Name of the label source, for the messages.

    Where neither `data.classes` nor classes.txt exists and each name is a VOC class or a
    misspelling of one (a ratio of 0.85 or more), the VOC classes are taken and the misspelt names
    are unknown: otherwise one typing error would quietly become a 21st class.

    Raises:
        UserError: a class is named twice, or the labels are indices without names.
    """
    used = set(used)
    listed = _listed_names(root / CLASSES_FILE)
    given = tuple(config.classes)
    for names, where in ((given, "data.classes"), (listed, str(root / CLASSES_FILE))):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise UserError(f"{where} names the class {twice[0]!r} twice, expected each once")
    numbers = bool(used) and all(name.isascii() and name.isdigit() for name in used)
    if numbers and not used <= set(given or listed):
        return ClassTable(given or listed or _names_of_indices(used, source), numeric=True)
    if given:
        return ClassTable(given)
    if listed:
        return ClassTable(listed)
    if all(nearest(name, VOC_CLASSES, MISSPELT) for name in used):
        return ClassTable(VOC_CLASSES)
    return ClassTable(tuple(sorted(used)))


def _listed_names(path: Path) -> tuple[str, ...]:
    """One class name a line, blank lines left out; nothing where there is no such file."""
    if not path.is_file():
        return ()
    return tuple(line.strip() for _, line in text_lines(path) if line.strip())


def _names_of_indices(used: set[str], source: str) -> tuple[str, ...]:
    if {_plain(name) for name in used} == {str(i) for i in range(len(VOC_CLASSES))}:
        return VOC_CLASSES
    raise UserError(
        f"{source} labels images by class indices, whose names are not known: expected them in "
        f"data.classes or in {CLASSES_FILE} in the root"
    )


def _plain(digits: str) -> str:
    """Drop leading zeros: "07" is the index 7."""
    return digits.lstrip("0") or "0"


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) of a UTF-8 file.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    try:
        with open(path, encoding="utf-8-sig") as stream:
            yield from enumerate(stream, start=1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UserError(f"{path} cannot be read: {reason}") from error


def csv_rows(path: Path, needed: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield (line number from 1, cells by column name) of a CSV file with a header.

    Raises:
        UserError: no readable CSV, a needed column is missing, a column is there twice, or a row
            has another number of cells than the header (classes separated by commas, for instance).
    """
    reader = csv.DictReader((line for _, line in text_lines(path)), strict=True)
    try:
        columns = [name.strip() for name in reader.fieldnames or ()]
        reader.fieldnames = columns
        if missing := [name for name in needed if name not in columns]:
            raise UserError(
                f"{path} has no column {missing[0]!r} in its first line, expected a header naming "
                f"{' and '.join(needed)}, found {', '.join(columns) or 'an empty file'}"
            )
        if len(set(columns)) < len(columns):
            raise UserError(f"{path} names a column twice in its first line, {', '.join(columns)}")
        for cells in reader:
            if None in cells or None in cells.values():
                raise UserError(
                    f"{path}, line {reader.line_num}: another number of cells than in the header, "
                    f"expected {len(columns)} (classes are separated by spaces)"
                )
            yield reader.line_num, {name: value.strip() for name, value in cells.items()}
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV: {error}") from error


def read_label_file(path: Path, problems: Problems) -> dict[str, LabelRow]:
    """Read a CSV or list of image-level labels (see the top of the file) as {id: row}.

    Raises:
        UserError: the file is missing or not readable as either; an id in two lines is reported.
    """
    if path.suffix.lower() == ".csv":
        cells = csv_rows(path, ("image_id", "classes"))
        entries = ((line, [row["image_id"], *row["classes"].split()]) for line, row in cells)
    else:
        entries = ((line, text.split()) for line, text in text_lines(path) if text.strip())
    rows: dict[str, LabelRow] = {}
    lines: dict[str, int] = {}
    for line, (image_id, *classes) in entries:
        if image_id.lower().endswith(ID_SUFFIXES):
            image_id = image_id.rpartition(".")[0]
        if image_id in rows:
            problems.add(
                "duplicate",
                f"{path}, lines {lines[image_id]} and {line}: the id {image_id!r} twice",
            )
            continue
        rows[image_id] = LabelRow(tuple(classes), f"{path}, line {line}")
        lines[image_id] = line
    return rows
