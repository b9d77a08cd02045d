"""The PASCAL VOC layout.

    ImageSets/Segmentation/<split>.txt   one id a line; ImageSets/Main/<split>.txt where the first
                                         is missing (there a flag 1, 0 or -1 may follow the id)
    JPEGImages/<id>.jpg                  or .jpeg, or .png, the first that exists
    SegmentationClass/<id>.png           where present, for evaluation alone: never opened here
    Annotations/<id>.xml                 objects, whose names are the image-level label; their
                                         boxes are for evaluation alone (boxes.py)

Labels come from `data.labels` where it is set, else from labels.csv, else from the XML files:
never from the masks. Objects marked `difficult` count, as in the literature on weakly supervised
segmentation.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError

from defusedxml.ElementTree import parse

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import (
    ID_SUFFIXES,
    LabelRow,
    class_table,
    read_label_file,
    text_lines,
)
from dist_oaa.data.paths import inside, inside_or_report, relative_name
from dist_oaa.data.problems import Problems
from dist_oaa.data.sample import ImageSet, Sample

LIST_FOLDERS = ("ImageSets/Segmentation", "ImageSets/Main")
ANNOTATIONS = "Annotations"
SIDES = ("xmin", "ymin", "xmax", "ymax")
LABELS_CSV = "labels.csv"
LISTS_SHOWN = 12
# A DefusedXmlException (entities, external references) is a ValueError, an encoding that nobody
# knows a LookupError.
XML_ERRORS = (ParseError, ValueError, LookupError, OSError)


def open_voc(config: DataConfig, root: Path, problems: Problems) -> ImageSet:
    """Open the list `data.split` of a data set in VOC layout, in the order of the list.

    Raises:
        UserError: the list or every label source is missing; all else goes to `problems`.
    """
    entries = list(_list_entries(_find_list(root, config.split), root, problems))
    rows, source = _labels(config, root, [image_id for image_id, _ in entries], problems)
    table = class_table(
        config, root, {c for row in rows.values() if row for c in row.classes}, source
    )
    samples = []
    for image_id, where in entries:
        if image_id not in rows:
            expected = source.replace("*", image_id)
            problems.add(
                "unlabelled",
                f"{where}: the image {image_id!r} has no label, expected in {expected}",
            )
        row = rows.get(image_id)
        classes = table.indices(image_id, row, problems) if row else ()
        path = _image(root, image_id, where, problems)
        if path is not None:
            samples.append(Sample(image_id, path, classes, _mask(root, image_id, where, problems)))
    return ImageSet(root, table.names, tuple(samples), source)


def _find_list(root: Path, split: str) -> Path:
    for folder in LIST_FOLDERS:
        path = inside(root, f"{folder}/{split}.txt")
        if path.is_file():
            return path
    lists = sorted(p.relative_to(root).as_posix() for p in root.glob("ImageSets/*/*.txt"))
    more = f" and {len(lists) - LISTS_SHOWN} more" if len(lists) > LISTS_SHOWN else ""
    raise UserError(
        f"{root / LIST_FOLDERS[0] / split}.txt does not exist (data.split is {split!r}); "
        f"the lists there are: {', '.join(lists[:LISTS_SHOWN]) or 'none'}{more}"
    )


def _list_entries(path: Path, root: Path, problems: Problems) -> Iterator[tuple[str, str]]:
    """Yield (id, "file, line n") of a list, each id once and none that leaves the root."""
    flags = path.parent == root / LIST_FOLDERS[1]
    lines: dict[str, int] = {}
    for number, text in text_lines(path):
        text = text.strip()
        if flags and text.split()[1:] and text.split()[-1] in ("1", "0", "-1"):
            text = text.rsplit(None, 1)[0]
        if not text:
            continue
        where = f"{path}, line {number}"
        try:
            image_id = relative_name(text)
        except UserError as error:
            problems.add("outside", f"{where}: {error}")
            continue
        if image_id in lines:
            problems.add(
                "duplicate",
                f"{path}, lines {lines[image_id]} and {number}: the id {image_id!r} twice",
            )
            continue
        lines[image_id] = number
        yield image_id, where


def _image(root: Path, image_id: str, where: str, problems: Problems) -> Path | None:
    for suffix in ID_SUFFIXES:
        path = inside_or_report(root, f"JPEGImages/{image_id}{suffix}", where, problems)
        if path is None or path.is_file():
            return path
    wanted = root / "JPEGImages" / f"{image_id}{ID_SUFFIXES[0]}"
    problems.add("missing", f"{where}: the image {wanted} does not exist (nor as .jpeg or .png)")
    return None


def _mask(root: Path, image_id: str, where: str, problems: Problems) -> Path | None:
    path = inside_or_report(root, f"SegmentationClass/{image_id}.png", where, problems)
    return path if path is not None and path.is_file() else None


def _labels(
    config: DataConfig, root: Path, ids: list[str], problems: Problems
) -> tuple[dict[str, LabelRow | None], str]:
    """Return the rows of the first label source there is, and its name."""
    if config.labels:
        # A setting is the user's own word, so unlike names in data files it may lead anywhere.
        path = root / config.labels
        if not path.is_file():
            raise UserError(f"data.labels: {path} does not exist, expected a file of image labels")
        return read_label_file(path, problems), config.labels
    if (root / LABELS_CSV).is_file():
        return read_label_file(inside(root, LABELS_CSV), problems), LABELS_CSV
    if (root / ANNOTATIONS).is_dir():
        if not config.classes:
            # The class names are those of the whole data set, or two splits could differ.
            folder = root / ANNOTATIONS
            files = (p.relative_to(folder) for p in sorted(folder.rglob("[!.]*.xml")))
            ids = list(dict.fromkeys([*ids, *(p.with_suffix("").as_posix() for p in files)]))
        return dict(_annotations(root, ids, problems)), f"{ANNOTATIONS}/*.xml"
    raise UserError(
        f"{root} has no image-level labels, expected {LABELS_CSV} or {ANNOTATIONS}/*.xml in it, or "
        "a file named by data.labels"
    )


def _annotations(
    root: Path, ids: Iterable[str], problems: Problems
) -> Iterator[tuple[str, LabelRow | None]]:
    """Yield (id, row) of each annotation there is; an unreadable one is reported, its row None."""
    for image_id in ids:
        relative = f"{ANNOTATIONS}/{image_id}.xml"
        path = inside_or_report(root, relative, str(root / ANNOTATIONS), problems)
        if path is None or not path.is_file():
            continue
        try:
            yield image_id, LabelRow(_object_names(path), str(path))
        except XML_ERRORS as error:
            problems.add("corrupt", f"{path} cannot be read as a VOC annotation: {error}")
            yield image_id, None


def _object_names(path: Path) -> tuple[str, ...]:
    """Class names of an annotation's objects."""
    return tuple(name for name, _ in _objects(path))


def _objects(path: Path) -> Iterator[tuple[str, Element]]:
    """(class name, node) of an annotation's objects, not of their parts (a head, a hand)."""
    for node in parse(path).getroot().findall("object"):
        name = (node.findtext("name") or "").strip()
        if not name:
            raise ValueError("an object has no name")
        yield name, node


def read_objects(path: Path) -> list[tuple[str, tuple[float, float, float, float]]]:
    """(class name, (xmin, ymin, xmax, ymax) as they stand) of an annotation's objects.

    Raises:
        UserError: the file cannot be read, or an object has no name or no box.
    """
    try:
        return [
            (name, tuple(float(node.findtext(f"bndbox/{side}") or "") for side in SIDES))
            for name, node in _objects(path)
        ]
    except XML_ERRORS as error:
        raise UserError(f"{path} cannot be read as an annotation with boxes: {error}") from error
