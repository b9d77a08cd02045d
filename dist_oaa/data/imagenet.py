"""The layout of ImageNet: one folder per list, in it one folder per class, or the images alone.

    <split>/<class>/**/<name>.JPEG   train, and val where it has been sorted into classes
    <split>/<name>.JPEG              val as it is published; `data.labels` names a file with a line
                                     `name class` for each image, or a CSV image_id,classes
    LOC_synset_mapping.txt           or synset_words.txt: `n01440764 tench, Tinca tinca`; names for
                                     the classes, which are otherwise called as their folders

A class is known by its folder's name; its index is the place of that name in alphabetical order,
among the classes of the names' file, else of data.classes, else of train/, so that all lists count
alike. The id of an image is its path below the list's folder, as that of its XML annotation is.
"""

from collections import Counter
from dataclasses import replace
from pathlib import Path

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import ClassTable, read_label_file, text_lines
from dist_oaa.data.folder import LABEL_SOURCE, images_below, open_folder
from dist_oaa.data.paths import inside
from dist_oaa.data.problems import Problems
from dist_oaa.data.sample import ImageSet, Sample

NAME_FILES = ("LOC_synset_mapping.txt", "synset_words.txt")
TRAIN = "train"


def open_imagenet(config: DataConfig, root: Path, problems: Problems) -> ImageSet:
    """Open the list `data.split`, sorted by path.

    Raises:
        UserError: there is no such folder, or neither class folders nor labels; all else goes to
            `problems`.
    """
    folder = inside(root, config.split)
    if not folder.is_dir():
        lists = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
        raise UserError(
            f"data.split: {folder} is not a folder; those of {root} are: {', '.join(lists[:12])}"
        )
    names = synset_names(root)
    key_of = {name: key for key, name in names.items()}
    # data.classes may name the folders, or the classes as an earlier run has called them.
    keys = [key_of.get(name, name) for name in config.classes] or sorted(names)
    config = replace(config, classes=keys or list(_folders(root / TRAIN)))
    if config.labels:
        found = _flat(config, root, folder, problems)
    else:
        found = open_folder(config, folder, problems)
        found = replace(found, root=root, label_source=f"{config.split}/ {LABEL_SOURCE}")
    return replace(found, class_names=tuple(names.get(key, key) for key in found.class_names))


def synset_names(root: Path) -> dict[str, str]:
    """Folder name -> class name, as a names' file in the root says; empty where there is none.

    The name is the first of a line, spaces made underscores; where two classes share it (crane, the
    bird and the machine), the folder's name follows.

    Raises:
        UserError: a line has no name, or a class has two.
    """
    path = next((root / name for name in NAME_FILES if (root / name).is_file()), None)
    if path is None:
        return {}
    first: dict[str, str] = {}
    for line, text in text_lines(path):
        key, _, words = text.strip().partition(" ")
        name = "_".join(words.split(",")[0].split())
        if key and (not name or key in first):
            raise UserError(
                f"{path}, line {line} is {text.strip()[:80]!r}, expected a class folder's name, a "
                "space and the names of the class, each folder once"
            )
        if key:
            first[key] = name
    times = Counter(first.values())
    return {k: name if times[name] == 1 else f"{name}_{k}" for k, name in first.items()}


def _folders(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        return ()
    return tuple(sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != "."))


def _flat(config: DataConfig, root: Path, folder: Path, problems: Problems) -> ImageSet:
    """Images of one folder, with their classes in a file."""
    # A setting is the user's own word, so unlike names in data files it may lead anywhere.
    path = root / config.labels
    if not path.is_file():
        raise UserError(f"data.labels: {path} does not exist, expected a file of image labels")
    rows = read_label_file(path, problems)
    used = {name for row in rows.values() for name in row.classes}
    table = ClassTable(tuple(config.classes) or tuple(sorted(used)))
    samples: dict[str, Sample] = {}
    for image in images_below(folder, root, problems):
        image_id = image.relative_to(folder).with_suffix("").as_posix()
        row = rows.get(image_id) or rows.get(image.stem)
        if row is None:
            problems.add("unlabelled", f"{image} has no line in {path}, so it has no label")
            continue
        if image_id in samples:
            problems.add("duplicate", f"{samples[image_id].path} and {image} share an id")
            continue
        samples[image_id] = Sample(image_id, image, table.indices(image_id, row, problems), None)
    return ImageSet(root, table.names, tuple(samples.values()), config.labels)
