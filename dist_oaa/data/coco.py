"""The layout of COCO instances: one JSON file a list, with labels, boxes and outlines.

    annotations/instances_<split>.json   or the file that data.labels names
    <split>/<file_name>                  or images/<split>/, images/, the JSON file's folder, root

Image-level labels are the categories of an image's annotations, crowds included. Outlines and boxes
are for evaluation alone, and no outline is looked at before a mask is read. Classes are indexed in
the order of their category ids (COCO's 80 ids reach to 90), and images without an annotation are
left out: they have no label (1,021 of train2017, 48 of val2017).

A mask: object k has its class's index + 1 where pycocotools draws it, 255 where objects of two
classes overlap, since neither is known to be in front, and 255 on what only a crowd covers.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.data.classes import ClassTable, LabelRow
from dist_oaa.data.coco_mask import LARGEST_INDEX, InstanceMask, Outline, pack
from dist_oaa.data.paths import inside, inside_or_report, relative_name
from dist_oaa.data.problems import CollectedProblems, Problems
from dist_oaa.data.sample import ImageSet, Sample

ANNOTATIONS = "annotations/instances_{}.json"
PARTS = {"images": ("id", "file_name", "width", "height"), "categories": ("id", "name")}
"""Lists that the file must have, with the keys of each of their entries."""
OF_ANNOTATIONS = ("image_id", "category_id")


@dataclass(frozen=True)
class Instances:
    """A JSON file, held against what is needed of it."""

    path: Path
    images: list[dict[str, Any]]
    category: dict[int, str]
    """Category id -> class name, in the order of the ids."""
    by_image: dict[int, list[dict[str, Any]]]
    """Image id -> its annotations, in the order of the file."""


def open_coco(config: DataConfig, root: Path, problems: Problems) -> ImageSet:
    """Open the list `data.split` in the order of its images.

    Raises:
        UserError: the JSON file is missing or no instances file; all else goes to `problems`.
    """
    instances = read_instances(instances_file(config, root), problems)
    name = str(instances.path.relative_to(root)) if not config.labels else config.labels
    table = ClassTable(tuple(config.classes) or tuple(instances.category.values()))
    samples: dict[str, Sample] = {}
    empty = 0
    for image in instances.images:
        found = instances.by_image.get(image["id"])
        if not found:
            empty += 1
            continue
        where = f"{instances.path}, image {image['id']}"
        image_id = _name(image, where, problems)
        path = image_id and _file(image["file_name"], config, root, where, problems)
        if not path:
            continue
        if image_id in samples:
            problems.add("duplicate", f"{where}: the image {image_id!r} a second time")
            continue
        used = dict.fromkeys(instances.category[a["category_id"]] for a in found)
        classes = table.indices(image_id, LabelRow(tuple(used), where), problems)
        mask = _mask(image, found, instances, table, where)
        samples[image_id] = Sample(image_id, path, classes, mask)
    left_out = f" ({empty} images without an annotation left out)" if empty else ""
    return ImageSet(root, table.names, tuple(samples.values()), name + left_out)


def instances_file(config: DataConfig, root: Path) -> Path:
    """The JSON file of the settings.

    Raises:
        UserError: there is none.
    """
    if config.labels:
        # A setting is the user's own word, so unlike names in data files it may lead anywhere.
        path = root / config.labels
        if not path.is_file():
            raise UserError(f"data.labels: {path} does not exist, expected a file of instances")
        return path
    path = inside(root, ANNOTATIONS.format(config.split))
    if not path.is_file():
        names = sorted(p.name[len("instances_") : -5] for p in root.glob(ANNOTATIONS.format("*")))
        raise UserError(
            f"{path} does not exist (data.split is {config.split!r}); the lists there are: "
            f"{', '.join(names) or 'none'}"
        )
    return path


def read_instances(path: Path, problems: Problems) -> Instances:
    """Reads a JSON file of instances; an entry that lacks something goes to `problems`.

    Raises:
        UserError: it is no JSON, or not of this kind.
    """
    try:
        tree = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        reason = in_one_line(getattr(error, "strerror", None) or error)
        raise UserError(f"{path} cannot be read as JSON: {reason}") from error
    for part in (*PARTS, "annotations"):
        if not isinstance(tree, dict) or not isinstance(tree.get(part), list):
            raise UserError(f"{path} has no list {part!r}, expected COCO's file of instances")
    images, categories = (list(_entries(tree, part, path, problems)) for part in PARTS)
    category = {entry["id"]: entry["name"] for entry in sorted(categories, key=lambda e: e["id"])}
    if len(set(category.values())) < len(categories):
        raise UserError(f"{path} has two categories of one id or name, expected each once")
    known = {entry["id"] for entry in images}
    by_image: dict[int, list[dict[str, Any]]] = {}
    for index, entry in enumerate(tree["annotations"]):
        where = f"{path}, annotation {index}"
        ids = [entry.get(key) if isinstance(entry, dict) else None for key in OF_ANNOTATIONS]
        if not all(type(i) is int for i in ids):
            problems.add("corrupt", f"{where} lacks {' or '.join(OF_ANNOTATIONS)}, expected both")
        elif ids[0] not in known:
            problems.add("missing", f"{where} is of the image {ids[0]}, which is not in 'images'")
        elif ids[1] not in category:
            problems.add("unknown_class", f"{where} has the unknown category {ids[1]}")
        else:
            by_image.setdefault(ids[0], []).append(entry)
    return Instances(path, images, category, by_image)


def _entries(
    tree: dict[str, Any], part: str, path: Path, problems: Problems
) -> Iterator[dict[str, Any]]:
    for index, entry in enumerate(tree[part]):
        values = [entry.get(key) if isinstance(entry, dict) else None for key in PARTS[part]]
        good = all(
            isinstance(value, str) if key.endswith("name") else type(value) is int and value >= 0
            for key, value in zip(PARTS[part], values, strict=True)
        )
        if good:
            yield entry
        else:
            keys = ", ".join(PARTS[part])
            problems.add("corrupt", f"{path}, {part}[{index}] is odd, expected {keys}")


def read_coco_boxes(
    config: DataConfig, root: Path, problems: Problems
) -> Iterator[tuple[str, str, tuple[float, float, float, float], str]]:
    """Yield (image name, class name, (x0, y0, x1, y1), where) of every box.

    Boxes without an area, of which COCO has a few, are left out.

    Raises:
        UserError: see `open_coco`; a box that is no box goes to `problems`.
    """
    # What is wrong with images and categories, whoever opened the data set has reported.
    known = CollectedProblems()
    instances = read_instances(instances_file(config, root), known)
    for image in instances.images:
        name = _name(image, "", known)
        for entry in instances.by_image.get(image["id"], ()) if name else ():
            where = f"{instances.path}, annotation {entry.get('id')} of image {image['id']}"
            box = entry.get("bbox")
            numbers = isinstance(box, list) and all(type(side) in (int, float) for side in box)
            if not numbers or len(box) != 4:
                problems.add("box", f"{where} has no bbox, expected [x, y, width, height]")
            elif box[2] > 0 and box[3] > 0:
                x, y, width, height = box
                class_name = instances.category[entry["category_id"]]
                yield name, class_name, (x, y, x + width, y + height), where


def _name(image: dict[str, Any], where: str, problems: Problems) -> str | None:
    try:
        file = relative_name(image["file_name"])
    except UserError as error:
        problems.add("outside", f"{where}: {error}")
        return None
    return PurePosixPath(file).with_suffix("").as_posix()


def _file(file: str, config: DataConfig, root: Path, where: str, problems: Problems) -> Path | None:
    """The first of the places of an image where it is; None after a report."""
    homes = [config.split, f"images/{config.split}", "images", "."]
    beside = PurePosixPath(config.labels).parent
    if config.labels and ".." not in beside.parts and not beside.is_absolute():
        homes.insert(0, str(beside))
    for home in homes:
        path = inside_or_report(root, f"{home}/{file}", where, problems)
        if path is None or path.is_file():
            return path
    wanted = root / homes[0] / file
    problems.add("missing", f"{where}: the image {wanted} does not exist (nor in images/)")
    return None


def _mask(
    image: dict[str, Any],
    found: list[dict[str, Any]],
    instances: Instances,
    table: ClassTable,
    where: str,
) -> InstanceMask | None:
    """None where no object has an outline, or there are more classes than a mask can hold."""
    outlined = [entry for entry in found if entry.get("segmentation")]
    if not outlined or len(table.names) > LARGEST_INDEX:
        return None
    outlines = [
        Outline(
            table.names.index(instances.category[entry["category_id"]]) + 1,
            bool(entry.get("iscrowd")),
            entry["segmentation"],
        )
        for entry in outlined
        if instances.category[entry["category_id"]] in table.names
    ]
    return InstanceMask(where, image["height"], image["width"], pack(outlines))
