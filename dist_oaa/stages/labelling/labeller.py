"""What a worker process does with one image: its share of the sweep, or its pseudo label.

This module is imported by every worker, so it leaves PyTorch to those refinements that need it.

Shapes: K classes of the image that have attention; SS the square grid of a map; HW pixels; C all
object classes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import LabelsConfig
from dist_oaa.data.images import BadImageError, read_image, read_mask
from dist_oaa.data.palette import write_label
from dist_oaa.data.sample import Sample
from dist_oaa.evaluation.counts import IGNORED
from dist_oaa.evaluation.maps import own_maximum, resize_map
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.background import ThresholdSweep
from dist_oaa.labels.label_image import label_both
from dist_oaa.labels.saliency import (
    read_saliency,
    rembg_saliency,
    rembg_session,
    spectral_residual,
)
from dist_oaa.stages.labelling.features import Features, feature_source, needs_features


@dataclass(frozen=True)
class LabelTask:
    """One image with the maps that it has."""

    sample: Sample
    classes: tuple[int, ...]
    """Those of its target classes whose map is above zero somewhere; none: nothing is labelled."""
    maps_KSS: np.ndarray
    """float32 in [0, 1], in their order."""
    threshold: float = 0.0
    """Score of the background without saliency."""
    keep: bool = False
    """Whether the label comes back, to be drawn."""


@dataclass
class Labelled:
    """What became of one image."""

    image_id: str
    bad: str = ""
    """Why it cannot be read; then nothing else is known of it."""
    pixels_V: np.ndarray | None = None
    """int64: pixels of each palette value of the label, 256 of them."""
    labels: np.ndarray | None = None
    """Counts of a Confusion with the truth, where there is a mask."""
    dense: np.ndarray | None = None
    """The same with nothing ignored."""
    label_HW: np.ndarray | None = None
    """The label, where the task asked to keep it."""
    saliency_HW: np.ndarray | None = None
    """The saliency, likewise."""


class Labeller:
    """Makes the labels of single images.

    Args:
        config: from maps to labels.
        saliency_dir: folder of the saliency maps with `labels.saliency dir`.
        num_classes: C.
        pixel_limit: largest image that is read, in megapixels.
        folder: where the labels are written, as ID.png.

    Raises:
        UserError: when a network that the settings name cannot be had.
    """

    def __init__(
        self,
        config: LabelsConfig,
        saliency_dir: Path | None,
        num_classes: int,
        pixel_limit: float,
        folder: Path,
    ) -> None:
        self.config, self.saliency_dir, self.folder = config, saliency_dir, folder
        self.num_classes, self.pixel_limit = num_classes, pixel_limit

    def saliency(self, image_HW3: np.ndarray, image_id: str) -> np.ndarray | None:
        """uint8 (H, W), or None where the background comes from a threshold.

        Raises:
            UserError: when a map is missing, unreadable or of another size.
        """
        if self.config.saliency == "none":
            return None
        if self.config.saliency == "dir":
            assert self.saliency_dir is not None
            return read_saliency(self.saliency_dir, image_id, image_HW3.shape[:2])
        if self.config.saliency == "rembg":
            return rembg_saliency(self._session, image_HW3)
        return spectral_residual(image_HW3)

    @cached_property
    def features(self) -> Features | None:
        """What the random walk looks at, where it does not look at colours.

        Not needed by the sweep, hence only opened for the first label.
        """
        return feature_source(self.config.random_walk) if needs_features(self.config) else None

    @cached_property
    def _session(self) -> Any:
        return rembg_session(self.config.rembg_model)

    def pair(self, image_HW3: np.ndarray, task: LabelTask) -> tuple[np.ndarray, ...]:
        """The label, the label with nothing ignored, and the saliency (None without)."""
        saliency_HW = self.saliency(image_HW3, task.sample.id)
        if not task.classes:
            shape = image_HW3.shape[:2]
            ignored_HW = np.full(shape, IGNORED, np.uint8)
            return ignored_HW, np.zeros(shape, np.uint8), saliency_HW
        label_HW, dense_HW = label_both(
            image_HW3,
            task.classes,
            at_image_size(task.maps_KSS, *image_HW3.shape[:2]),
            saliency_HW,
            self.config,
            task.threshold,
            self.features.features(image_HW3) if self.features else None,
        )
        return label_HW, dense_HW, saliency_HW


def at_image_size(maps_KSS: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each map at image size and divided by its own maximum, (K, H, W) float32."""
    return np.stack([own_maximum(resize_map(map_SS, height, width)) for map_SS in maps_KSS])


def sweep_image(labeller: Labeller, task: LabelTask) -> np.ndarray | None:
    """Counts of a ThresholdSweep over one image; None where it shows or is attended to nothing."""
    if not task.classes:
        return None
    try:
        image_HW3 = read_image(task.sample.path, labeller.pixel_limit)
    except BadImageError:
        return None  # when its label is due, that is dealt with
    sweep = ThresholdSweep(labeller.config.background)
    sweep.update(image_HW3, at_image_size(task.maps_KSS, *image_HW3.shape[:2]))
    return sweep.counts


def label_one(labeller: Labeller, task: LabelTask) -> Labelled:
    """Writes the label of one image and measures it where there is a mask.

    Raises:
        UserError: when its mask or saliency map is missing, unreadable, of another size, or holds
            an unknown value.
        OSError: when the disk is full or not writable.
    """
    sample = task.sample
    try:
        image_HW3 = read_image(sample.path, labeller.pixel_limit)
    except BadImageError as error:
        return Labelled(sample.id, bad=str(error))
    truth_HW = None if sample.mask is None else read_mask(sample.mask)
    if truth_HW is not None and truth_HW.shape != image_HW3.shape[:2]:
        raise UserError(
            f"mask {sample.mask} has {truth_HW.shape} pixels (height, width), expected those of "
            f"its image {sample.path}, {image_HW3.shape[:2]}"
        )
    label_HW, dense_HW, saliency_HW = labeller.pair(image_HW3, task)
    write_label(labeller.folder / f"{sample.id}.png", label_HW)
    found = Labelled(sample.id, pixels_V=np.bincount(label_HW.ravel(), minlength=256))
    if truth_HW is not None:
        found.labels = measured(labeller.num_classes, label_HW, truth_HW, sample)
        found.dense = measured(labeller.num_classes, dense_HW, truth_HW, sample)
    if task.keep:
        found.label_HW, found.saliency_HW = label_HW, saliency_HW
    return found


def measured(
    num_classes: int, label_HW: np.ndarray, truth_HW: np.ndarray, sample: Sample
) -> np.ndarray:
    """Counts of a Confusion over one image.

    Raises:
        UserError: when the mask holds an unknown value.
    """
    confusion = Confusion(num_classes)
    try:
        confusion.update(label_HW, truth_HW)
    except ValueError as error:
        raise UserError(f"mask {sample.mask}: {error}") from error
    return confusion.counts
