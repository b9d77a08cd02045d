"""Images with a label for every pixel, prepared for training with one geometry for both.

A label image holds 0 for the background, class index + 1, and 255 for pixels that teach nothing.
Its pixels are only ever moved, never mixed: every resize of it takes the nearest pixel.

Legend: B images of the batch; HW pixels, padded in a batch; 3 colours; 2 (height, width).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import Dataset

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.augment import (
    colour_jitter,
    draw_choices,
    resize,
    resized_shape,
    stateless_rng,
)
from dist_oaa.data.images import BadImageError, read_image, read_mask
from dist_oaa.data.loader import MEASURE

IGNORED = 255
"""Label of the pixels that no loss counts; padding gets it too."""


@dataclass(frozen=True, slots=True)
class LabelledSample:
    """An image and the file with the labels of its pixels."""

    id: str
    image: Path
    label: Path
    is_truth: bool = False
    """Whether the labels are the true mask, drawn by people."""


@dataclass(frozen=True)
class Fault:
    """What stands in the place of a sample that cannot be used: one sentence."""

    sentence: str
    of_label: bool
    """The label image is at fault: a mistake in what was given, whatever `data.on_bad_image`."""


def read_label(path: Path, shape: tuple[int, int], num_classes: int) -> np.ndarray:
    """The label image of an image as uint8 H x W.

    Args:
        shape: height and width of the image.

    Raises:
        UserError: it cannot be read, is of another size, or holds an unknown class.
    """
    try:
        label_HW = read_mask(path)
    except BadImageError as error:
        raise UserError(f"the label image {error}") from error
    if label_HW.shape != shape:
        raise UserError(
            f"the label image {path} has {label_HW.shape[0]} x {label_HW.shape[1]} pixels (height "
            f"x width), expected those of its image, {shape[0]} x {shape[1]}"
        )
    stray_HW = (label_HW > num_classes) & (label_HW != IGNORED)
    if stray_HW.any():
        raise UserError(
            f"the label image {path} holds the value {label_HW[stray_HW][0]}, expected 0 to "
            f"{num_classes} (background and {num_classes} classes), or {IGNORED} for ignored pixels"
        )
    return label_HW


def working_shape(
    height: int, width: int, config: DataConfig, scale: float = 1.0
) -> tuple[int, int]:
    """Height and width at which an image is looked at, for `data.resize` (`keep`: its own).

    Args:
        scale: further factor on both sides.
    """
    if config.resize != "keep":
        return resized_shape(height, width, config, 1, scale)
    return max(1, round(height * scale)), max(1, round(width * scale))


def prepare_labelled(
    image_HW3: np.ndarray,
    label_HW: np.ndarray,
    config: DataConfig,
    rng: np.random.Generator | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Resizes and, given a generator, scales, crops, flips and recolours an image and its labels.

    A side shorter than the crop stays as it is: batches are padded.

    Args:
        image_HW3: uint8 RGB.
        label_HW: uint8 labels of the same size.
        rng: source of the random choices; None changes nothing but the size.

    Returns:
        Both, of one size.
    """
    augment = config.augment
    scale = 1.0 if rng is None else float(rng.uniform(*augment.scale))
    shape = working_shape(*label_HW.shape, config, scale)
    image_HW3 = resize(image_HW3, *shape)
    # The exact variant takes the pixel under a cell's middle; the plain one is half a cell off.
    label_HW = cv2.resize(label_HW, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    if rng is None:
        return image_HW3, label_HW
    flip, jitter = draw_choices(augment, rng)
    if augment.crop:
        box = crop_box(shape, augment.crop, rng)
        image_HW3, label_HW = image_HW3[box], label_HW[box]
    if flip:
        image_HW3, label_HW = image_HW3[:, ::-1], label_HW[:, ::-1]
    if jitter:
        image_HW3 = colour_jitter(image_HW3, augment.jitter, rng)
    return np.ascontiguousarray(image_HW3), np.ascontiguousarray(label_HW)


def crop_box(shape: tuple[int, int], side: int, rng: np.random.Generator) -> tuple[slice, slice]:
    """Rows and columns of a random square of `side` pixels, or of what there is."""
    starts = [int(rng.integers(0, max(0, length - side) + 1)) for length in shape]
    return slice(starts[0], starts[0] + side), slice(starts[1], starts[1] + side)


class LabelledImages(Dataset):
    """Image and labels of sample `index`, as of `epoch`, for items (index, epoch).

    An item is (index, image_HW3, label_HW) or a Fault; of MEASURE it is not augmented. What is
    random is a function of (seed, epoch, image id) alone.

    Args:
        num_classes: object classes; labels go from 0 to this.
    """

    def __init__(
        self, samples: Sequence[LabelledSample], config: DataConfig, num_classes: int, seed: int
    ) -> None:
        self.samples, self.config = tuple(samples), config
        self.num_classes, self.seed = num_classes, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, item: tuple[int, int]) -> tuple[int, np.ndarray, np.ndarray] | Fault:
        # A Fault is returned: an exception would lose its kind on the way out of a worker process.
        index, epoch = item
        sample = self.samples[index]
        try:
            image_HW3 = read_image(sample.image, self.config.pixel_limit)
        except BadImageError as error:
            return Fault(str(error), of_label=False)
        try:
            label_HW = read_label(sample.label, image_HW3.shape[:2], self.num_classes)
        except UserError as error:
            return Fault(str(error), of_label=True)
        rng = None
        if epoch != MEASURE:
            rng = stateless_rng(self.seed, epoch, sample.id, "augment")
        return index, *prepare_labelled(image_HW3, label_HW, self.config, rng)


@dataclass
class LabelledBatch:
    """Prepared images and labels, padded at the right and bottom to a common size."""

    ids: list[str]
    """Image names."""
    index_B: torch.Tensor
    """int64: positions among the samples."""
    images_B3HW: torch.Tensor
    """uint8 RGB; the model's normalisation turns the padding into the mean colour."""
    labels_BHW: torch.Tensor
    """uint8; 255 in the padding."""
    extent_B2: torch.Tensor
    """int64: valid height and width in pixels."""
    bad: list[str]
    """One sentence for each image that could not be read."""
    wrong: list[str]
    """One sentence for each label image that cannot be used."""

    def __len__(self) -> int:
        return len(self.ids)

    def split(self, parts: int) -> list["LabelledBatch"]:
        """Consecutive micro-batches, `parts` at most; faults are reported by the first."""
        size = -(-len(self) // parts) if len(self) else 1
        cuts = [slice(i, i + size) for i in range(0, len(self), size)] or [slice(0, 0)]
        pieces = [
            replace(
                self,
                ids=self.ids[cut],
                index_B=self.index_B[cut],
                images_B3HW=self.images_B3HW[cut],
                labels_BHW=self.labels_BHW[cut],
                extent_B2=self.extent_B2[cut],
                bad=[],
                wrong=[],
            )
            for cut in cuts
        ]
        pieces[0].bad, pieces[0].wrong = self.bad, self.wrong
        return pieces


@dataclass(frozen=True)
class LabelledCollate:
    """Stacks items into a LabelledBatch.

    Args:
        samples: those of the LabelledImages.
        crop: side of the crop in pixels, to which all batches are padded, so that an image is
            trained on alike whatever its batch mates; 0 pads to the largest image of the batch.
    """

    samples: Sequence[LabelledSample]
    crop: int = 0

    def __call__(self, items: Sequence[tuple | Fault]) -> LabelledBatch:
        good = [item for item in items if not isinstance(item, Fault)]
        faults = [item for item in items if isinstance(item, Fault)]
        sides = zip(*(item[2].shape for item in good), strict=True)
        size = [max(self.crop, *side) for side in sides] or [0, 0]
        images_BHW3 = np.zeros((len(good), *size, 3), dtype=np.uint8)
        labels_BHW = np.full((len(good), *size), IGNORED, dtype=np.uint8)
        for b, (_, image_HW3, label_HW) in enumerate(good):
            rows, columns = label_HW.shape
            images_BHW3[b, :rows, :columns] = image_HW3
            labels_BHW[b, :rows, :columns] = label_HW
        index = np.array([item[0] for item in good], dtype=np.int64)
        extent = np.array([item[2].shape for item in good], dtype=np.int64).reshape(-1, 2)
        return LabelledBatch(
            ids=[self.samples[i].id for i in index],
            index_B=torch.from_numpy(index),
            images_B3HW=torch.from_numpy(images_BHW3).permute(0, 3, 1, 2),
            labels_BHW=torch.from_numpy(labels_BHW),
            extent_B2=torch.from_numpy(extent),
            bad=[fault.sentence for fault in faults if not fault.of_label],
            wrong=[fault.sentence for fault in faults if fault.of_label],
        )
