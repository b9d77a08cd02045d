"""What becomes of one segmentation: refined, written down and measured, in any process.

This module is imported by every worker, so it leaves PyTorch alone.

Shapes: HW3 an image, HW its pixels, J the labels that a prediction shows and the background.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import CrfConfig
from dist_oaa.data.images import BadImageError, read_mask
from dist_oaa.data.palette import write_label
from dist_oaa.data.sample import Sample
from dist_oaa.evaluation.boundary import BoundaryScore
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.crf import dense_crf


@dataclass(frozen=True)
class Segmented:
    """What is known of an image before it is measured; one of the last three is there."""

    index: int
    """Position in the image set."""
    sample: Sample
    keep: bool = False
    """Whether the label image comes back, to be drawn."""
    bad: str = ""
    """Why the image cannot be read; then it is not measured."""
    label_HW: np.ndarray | None = None
    """uint8 palette values."""
    to_refine: "ToRefine | None" = None


@dataclass(frozen=True)
class ToRefine:
    """A prediction that the CRF has still to look at.

    Only the labels that win somewhere travel between processes, which is a tenth of them all.
    """

    image_HW3: np.ndarray
    present_J: np.ndarray
    """uint8, ascending, with 0 for the background."""
    probabilities_JHW: np.ndarray
    """float32."""


@dataclass
class Measured:
    """What became of one image."""

    index: int
    bad: str = ""
    confusion: np.ndarray | None = None
    """Counts of a Confusion; none where there is no mask."""
    boundary: np.ndarray | None = None
    """Counts of a BoundaryScore, likewise."""
    label_HW: np.ndarray | None = None
    """The label image, where it was asked for."""


@dataclass(frozen=True)
class Measurer:
    """Refines, writes and measures single label images."""

    num_classes: int
    tolerance: float
    """Of boundaries, as a share of the image's diagonal."""
    crf: CrfConfig = field(default_factory=CrfConfig)
    folders: tuple[Path, ...] = ()
    """Where the label images are written, as ID.png."""
    predictions: Path | None = None
    """Where label images are read that no network has made."""

    def count(self, label_HW: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        """Counts of one image with a mask.

        Raises:
            UserError: when the mask is unreadable, of another size, or holds an unknown value.
        """
        assert sample.mask is not None, sample
        try:
            truth_HW = read_mask(sample.mask)
        except BadImageError as error:
            raise UserError(f"the mask {error}") from error
        if truth_HW.shape != label_HW.shape:
            raise UserError(
                f"the mask {sample.mask} has {_size(truth_HW)} pixels (height x width), expected "
                f"those of {self._shown(sample)}, {_size(label_HW)}"
            )
        confusion = Confusion(self.num_classes)
        boundary = BoundaryScore(self.num_classes, self.tolerance)
        try:
            confusion.update(label_HW, truth_HW)
        except ValueError as error:
            raise UserError(f"{self._shown(sample)} and the mask {sample.mask}: {error}") from error
        boundary.update(label_HW, truth_HW)
        return confusion.counts, boundary.counts

    def read(self, sample: Sample) -> np.ndarray:
        """The label image of a sample from the folder of predictions.

        Raises:
            UserError: when it is missing or unreadable.
        """
        path = self._shown(sample)
        if not path.is_file():
            raise UserError(
                f"{path} does not exist, expected a label image for each image of the list"
            )
        try:
            return read_mask(path)
        except BadImageError as error:
            raise UserError(f"the label image {error}") from error

    def _shown(self, sample: Sample) -> Path:
        """Whose size the label image has."""
        return self.predictions / f"{sample.id}.png" if self.predictions else sample.path


def measure_one(measurer: Measurer, task: Segmented) -> Measured:
    """Refines, writes and measures one image.

    Raises:
        UserError: when a mask or a given label image cannot be used.
        OSError: when the disk is full or not writable.
    """
    if task.bad:
        return Measured(task.index, bad=task.bad)
    if task.to_refine is not None:
        label_HW = refined(task.to_refine, measurer.crf)
    else:
        label_HW = measurer.read(task.sample) if task.label_HW is None else task.label_HW
    found = Measured(task.index)
    if task.sample.mask is not None:
        found.confusion, found.boundary = measurer.count(label_HW, task.sample)
    for folder in measurer.folders:
        write_label(folder / f"{task.sample.id}.png", label_HW)
    if task.keep:
        found.label_HW = label_HW
    return found


def refined(given: ToRefine, config: CrfConfig) -> np.ndarray:
    """The label image after a dense CRF on the labels that were there; (H, W) uint8."""
    probabilities_JHW = dense_crf(given.image_HW3, given.probabilities_JHW, config)
    return given.present_J[probabilities_JHW.argmax(0)]


def _size(label_HW: np.ndarray) -> str:
    return f"{label_HW.shape[0]} x {label_HW.shape[1]}"
