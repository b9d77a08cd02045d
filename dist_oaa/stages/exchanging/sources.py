"""What a run has made, with its images: the material of every export of data.

A run of `oaa pseudo-label` gives label images; a run with attention maps gives score maps and, from
its data set, true boxes. Which images they are, the run's settings say.
"""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.images import read_size
from dist_oaa.data.label_images import read_label
from dist_oaa.data.paths import inside
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.data.sources import open_image_set
from dist_oaa.runtime.rundir import CLASSES
from dist_oaa.stages.run_settings import build_settings, difference, read_classes, read_settings
from dist_oaa.stages.segmenting.labels import open_labels

MAKERS = "oaa pseudo-label"
MAPPERS = "oaa classify, oaa integral or oaa attend"


@dataclass(frozen=True)
class Labelled:
    """An image and its label image."""

    sample: Sample
    label: Path


@dataclass(frozen=True)
class LabelledRun:
    """The label images of a run."""

    class_names: tuple[str, ...]
    items: tuple[Labelled, ...]
    """In the order of the names."""
    supervision: tuple[str, ...]
    """What the labels were made from, line by line."""


def open_data(run_dir: Path, root: str, makers: str) -> tuple[DataConfig, ImageSet]:
    """The data set of a run.

    Args:
        root: where it lies now; empty takes the run's word.
        makers: commands whose run is expected, for the sentence.

    Raises:
        UserError: the run does not say which, or it cannot be opened or has other classes.
    """
    tree = read_settings(run_dir, makers)
    if "data" not in tree:
        raise UserError(
            f"{run_dir} describes no data set, expected the folder of a run of {makers}"
        )
    data = build_settings(DataConfig, tree, "data", run_dir)
    data = dataclasses.replace(data, root=root or data.root)
    names = read_classes(run_dir)
    if not data.classes and not (Path(data.root) / CLASSES).exists():
        # Without a list, a data set that lacks some class would number the others anew.
        data = dataclasses.replace(data, classes=list(names))
    image_set = open_image_set(data)
    if image_set.class_names != names:
        raise UserError(
            f"the data set {data.root} has other classes than {run_dir}, expected the same in the "
            f"same order: {difference(names, image_set.class_names)}"
        )
    return data, image_set


def open_labelled(run: str, root: str) -> LabelledRun:
    """The label images of a run of `oaa pseudo-label`, each held against its image.

    Raises:
        UserError: the run is not complete, or an image or a label image is missing or wrong.
    """
    _, image_set = open_data(Path(run), root, MAKERS)
    labels = open_labels(run, image_set.class_names)
    items = []
    for sample in sorted(image_set.samples, key=lambda sample: sample.id):
        if sample.id in labels.skipped:
            continue
        path = inside(labels.folder, f"{sample.id}.png")
        read_label(path, read_size(sample.path), len(image_set.class_names))
        items.append(Labelled(sample, path))
    if not items:
        raise UserError(f"{run} has a label for none of the {len(image_set)} images")
    return LabelledRun(image_set.class_names, tuple(items), labels.supervision)


def suffix_of(samples: Sequence[Sample]) -> str:
    """The suffix that all images are given: their own, or .jpg where they differ.

    Readers go by what a file holds, but these layouts know one suffix for all.
    """
    suffixes = {sample.path.suffix for sample in samples}
    return suffixes.pop() if len(suffixes) == 1 else ".jpg"


def place(source: Path, target: Path, how: str) -> None:
    """Puts an image where an export wants it.

    Args:
        how: copy, or link (a symbolic link to the file's absolute path).

    Raises:
        OSError: the disk is full or not writable.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    if how == "link":
        os.symlink(source.resolve(), target)
    else:
        shutil.copyfile(source, target)
