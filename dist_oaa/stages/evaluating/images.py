"""Which images are measured, and what may be written for them.

Image-level labels are neither needed nor looked at: a test list has none.
"""

import dataclasses
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.evaluate import EvaluationConfig
from dist_oaa.data.problems import CollectedProblems
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sources import open_image_set
from dist_oaa.runtime.rundir import CLASSES
from dist_oaa.stages.run_settings import difference, read_classes

RESULTS = ("predictions", "labels", "masks")
"""Folders of label images in the run directories of other commands."""


def predictions_folder(config: EvaluationConfig) -> Path | None:
    """Where the label images lie that are measured in the place of a network's; None without.

    A run directory stands for the label images in it.

    Raises:
        UserError: when there is no such folder, or it is not clear what to measure.
    """
    if bool(config.checkpoint) == bool(config.predictions):
        found = "both are set" if config.checkpoint else "both are empty"
        raise UserError(
            f"checkpoint and predictions: {found}, expected either a run of oaa segment or a "
            "folder of label images"
        )
    if not config.predictions:
        return None
    if config.crf:
        raise UserError("crf needs a network's probabilities: set checkpoint, not predictions")
    given = Path(config.predictions)
    if not given.is_dir():
        raise UserError(f"predictions: {given} is no folder, expected one of label images ID.png")
    return next((given / name for name in RESULTS if (given / name).is_dir()), given)


def classes_of_folder(folder: Path) -> tuple[str, ...]:
    """The classes that label images are numbered by, as the run they lie in says; else nothing."""
    for place in (folder, folder.parent):
        if (place / CLASSES).is_file():
            return read_classes(place)
    return ()


def images_of(config: EvaluationConfig, class_names: tuple[str, ...], origin: str) -> ImageSet:
    """The images, with their classes numbered as in what is measured.

    Args:
        class_names: of what is measured; empty where it has none of its own.
        origin: what that is, for a message.

    Raises:
        UserError: when the data set cannot be opened or has other classes, or an image lacks its
            mask while nothing is written for it.
    """
    data = config.data
    if class_names and not data.classes and not (Path(data.root) / CLASSES).exists():
        # Without a list, a data set that lacks some class would number the others anew.
        data = dataclasses.replace(data, classes=list(class_names))
    problems = CollectedProblems()
    image_set = open_image_set(data, problems)
    for problem in problems.found:
        if problem.kind != "unlabelled":
            raise UserError(problem.message)
    if class_names and image_set.class_names != class_names:
        raise UserError(
            f"data.root {data.root} has other classes than {origin}, expected the same in the "
            f"same order: {difference(class_names, image_set.class_names)}"
        )
    check_masks(config, image_set)
    return image_set


def check_masks(config: EvaluationConfig, image_set: ImageSet) -> None:
    """Refuses images without a mask, unless their label images are asked for.

    Raises:
        UserError: naming the first such image.
    """
    without = [sample for sample in image_set.samples if sample.mask is None]
    if without and not (config.submission or config.save_predictions):
        raise UserError(
            f"{len(without)} of {len(image_set)} images of data.root {config.data.root} "
            f"(data.split {config.data.split}) have no mask, expected SegmentationClass/ID.png; "
            f"the first is {without[0].id} (with save_predictions or submission they need none)"
        )


def submission_folder(config: EvaluationConfig) -> Path:
    """Where the VOC test server's archive keeps the label images."""
    name = f"{config.competition}_{config.data.split}_cls"
    return Path(config.submission, "results", "VOC2012", "Segmentation", name)
