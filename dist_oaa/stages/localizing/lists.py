"""Which images are measured, and on which others the threshold is chosen.

Three lists that must not be mixed: the training list, the validation list, on whose boxes the
threshold may be chosen, and the list that is reported.
"""

import dataclasses
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.localize import LocalizeConfig
from dist_oaa.data.boxes import ObjectBoxes, open_boxes
from dist_oaa.data.holdout import held_out, kept
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.data.sources import layout_of, open_image_set
from dist_oaa.runtime.rundir import CLASSES
from dist_oaa.stages.run_settings import difference
from dist_oaa.stages.trained import Trained


@dataclass(frozen=True)
class MeasuredList:
    """Images and their boxes."""

    name: str
    """For people, such as `split test`."""
    image_set: ImageSet
    boxes: ObjectBoxes


@dataclass(frozen=True)
class Lists:
    """What is measured."""

    reported: MeasuredList
    validation: MeasuredList | None
    """None where the threshold is fixed."""
    trained_on: int | None
    """Images of the reported list that the checkpoint was trained on; None where its training
    list cannot be opened any more."""


def open_lists(config: LocalizeConfig, trained: Trained) -> Lists:
    """Opens the lists with their boxes; no image is decoded.

    Raises:
        UserError: when a list or its boxes cannot be read, has other classes than the checkpoint,
            or when the validation list has images of the training or of the reported list.
    """
    data = config.data
    images = with_classes(data, trained, config.checkpoint)
    reported = MeasuredList(list_name(data), images, open_boxes(data, images))
    try:
        training = training_images(config, trained)
    except UserError:
        if config.threshold.choose == "validation":
            raise
        training = None
    validation = None
    if config.threshold.choose == "validation":
        assert training is not None
        validation = validation_list(config, trained)
        check_apart(validation, training, reported)
    trained_on = None
    if training is not None:
        trained_on = len(paths_of(training.samples) & paths_of(images.samples))
    return Lists(reported, validation, trained_on)


def validation_list(config: LocalizeConfig, trained: Trained) -> MeasuredList:
    """The images on which the threshold is chosen.

    Raises:
        UserError: when nothing was held out, or the list or its boxes cannot be read.
    """
    chosen = config.threshold
    boxes = chosen.boxes or config.data.boxes
    if chosen.split:
        data = dataclasses.replace(config.data, split=chosen.split, boxes=boxes, limit=0)
        images = with_classes(data, trained, config.checkpoint)
        return MeasuredList(list_name(data), images, open_boxes(data, images))
    holdout = trained.data.holdout
    if not holdout.fraction:
        raise UserError(
            f"checkpoint {config.checkpoint} was trained on its whole list (its "
            "data.holdout.fraction is 0), so no image is left to choose the threshold on: name "
            "another list with threshold.split, train with data.holdout.fraction, or set "
            "threshold.choose fixed"
        )
    data = dataclasses.replace(where_it_lies(config, trained), boxes=boxes or trained.data.boxes)
    images = held_out(with_classes(data, trained, config.checkpoint), holdout)
    share = f"{100 * holdout.fraction:g} % of the {list_name(data)}"
    return MeasuredList(f"{share}, held out of the training", images, open_boxes(data, images))


def training_images(config: LocalizeConfig, trained: Trained) -> ImageSet:
    """The images that the checkpoint was trained on.

    Raises:
        UserError: when its data set cannot be opened any more.
    """
    data = where_it_lies(config, trained)
    return kept(with_classes(data, trained, config.checkpoint), trained.data.holdout)


def where_it_lies(config: LocalizeConfig, trained: Trained) -> DataConfig:
    """The training's data settings; a data set that has moved is looked for where data.root is."""
    if Path(trained.data.root).is_dir() or not config.data.root:
        return trained.data
    return dataclasses.replace(trained.data, root=config.data.root)


def check_apart(validation: MeasuredList, training: ImageSet, reported: MeasuredList) -> None:
    """Refuses to choose the threshold on images that were trained on or are reported.

    Raises:
        UserError: naming the first such image.
    """
    mine = paths_of(validation.image_set.samples)
    for samples, what in (
        (training.samples, "the checkpoint was trained on"),
        (reported.image_set.samples, "the reported list has too"),
    ):
        shared = sorted(mine & paths_of(samples))
        if shared:
            raise UserError(
                f"the validation list ({validation.name}) has {len(shared)} images that {what}, "
                f"expected none, so that the threshold is chosen on images of its own; the first "
                f"is {shared[0]} (see threshold.split and data.holdout)"
            )


def paths_of(samples: Iterable[Sample]) -> set[str]:
    """Where images lie: the same image may have other names in another list."""
    return {os.path.realpath(sample.path) for sample in samples}


def with_classes(data: DataConfig, trained: Trained, checkpoint: str) -> ImageSet:
    """A data set, with its classes numbered as the checkpoint numbers them.

    Raises:
        UserError: when it cannot be opened or has other classes.
    """
    if not data.classes and not (Path(data.root) / CLASSES).exists():
        # Without a list, a data set that lacks some class would number the others anew.
        data = dataclasses.replace(data, classes=list(trained.class_names))
    image_set = open_image_set(data)
    if image_set.class_names != trained.class_names:
        raise UserError(
            f"data.root {data.root} has other classes than the checkpoint {checkpoint}, expected "
            f"the same in the same order: {difference(trained.class_names, image_set.class_names)}"
        )
    return image_set


def list_name(data: DataConfig) -> str:
    """What people call a list."""
    if layout_of(data) == "table":
        return f"table {data.table}"
    return f"images of {data.root}" if layout_of(data) == "folder" else f"split {data.split}"
