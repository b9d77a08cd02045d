"""Images with the labels of their feature cells, for the affinity network.

A cell has the label of most of its pixels, or none ("unknown", 255) where no label covers more
than half of it: cells on an outline, and all that the label images leave open.

Legend: HW pixels of an image, h x w cells of the network's input, B images of a batch, 23 geometry.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import Dataset

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.geometry import inverse
from dist_oaa.data.images import read_size
from dist_oaa.data.label_images import IGNORED, Fault, read_label
from dist_oaa.data.loader import Batch, Collate, PreparedImages
from dist_oaa.data.paths import inside
from dist_oaa.data.sample import ImageSet, Sample

UNKNOWN = IGNORED
"""Label of the cells that teach nothing."""


@dataclass
class CellBatch(Batch):
    """A batch with the labels of its cells."""

    cells_Bhw: torch.Tensor
    """uint8: 0 background, class index + 1, 255 unknown, also beyond the image."""
    wrong: list[str]
    """One sentence for each label image that is not what it should be."""

    def split(self, parts: int) -> list["CellBatch"]:
        """Consecutive micro-batches, `parts` at most."""
        pieces = super().split(parts)
        starts = np.cumsum([0, *map(len, pieces)])
        return [
            replace(piece, cells_Bhw=self.cells_Bhw[start : start + len(piece)])
            for piece, start in zip(pieces, starts[:-1], strict=True)
        ]


@dataclass(frozen=True)
class ConfidentLabels:
    """Label images of which only the confident pixels count.

    Args:
        folder: ID.png for each image.
        background: a second folder; objects then come from the first alone and background from
            this one alone. None takes both from the first.
        num_classes: object classes.
    """

    folder: Path
    background: Path | None
    num_classes: int

    def check(self, samples: Sequence[Sample]) -> None:
        """Looks whether every image has its file; reads none.

        Raises:
            UserError: naming the first that is missing.
        """
        for folder in filter(None, (self.folder, self.background)):
            for sample in samples:
                if not self._path(folder, sample.id).is_file():
                    raise UserError(
                        f"the label image {folder / sample.id}.png is missing, expected one for "
                        f"each of the {len(samples)} images"
                    )

    def read(self, sample: Sample, shape: tuple[int, int]) -> np.ndarray:
        """Labels of an image's pixels: 0 background, class index + 1, 255 unknown.

        Args:
            shape: height and width of the image.

        Raises:
            UserError: a file that is missing or unreadable, of another size, or with a value
                that is no class.
        """
        label_HW = self._read_one(self.folder, sample, shape)
        if self.background is None:
            return label_HW
        behind_HW = self._read_one(self.background, sample, shape) == 0
        object_HW = (label_HW > 0) & (label_HW != UNKNOWN)
        merged_HW = np.where(object_HW & ~behind_HW, label_HW, np.uint8(UNKNOWN))
        merged_HW[behind_HW & ~object_HW] = 0
        return merged_HW

    def _path(self, folder: Path, image_id: str) -> Path:
        return inside(folder, f"{image_id}.png")

    def _read_one(self, folder: Path, sample: Sample, shape: tuple[int, int]) -> np.ndarray:
        return read_label(self._path(folder, sample.id), shape, self.num_classes)


def cell_labels(
    label_HW: np.ndarray, geometry_23: np.ndarray, input_hw: tuple[int, int], stride: int
) -> np.ndarray:
    """Labels of the cells of a prepared image, uint8 (height / stride, width / stride).

    Args:
        label_HW: uint8, of the whole image.
        geometry_23: whole image to input; resizes, crops and flips.
        input_hw: height and width of the input in pixels, multiples of `stride`.
        stride: pixels of a cell along each side.
    """
    back = inverse(np.asarray(geometry_23, dtype=np.float64))
    assert back[0, 1] == back[1, 0] == 0, "rows and columns are looked up separately"
    where = []
    for axis, (pixels, length) in enumerate(zip(input_hw[::-1], label_HW.shape[::-1], strict=True)):
        centres = (np.arange(pixels) + 0.5) / pixels
        there = np.floor((back[axis, axis] * centres + back[axis, 2]) * length)
        where.append(np.clip(there, 0, length - 1).astype(np.intp))
    warped_HW = label_HW[where[1][:, None], where[0]]
    rows, columns = input_hw[0] // stride, input_hw[1] // stride
    parts = warped_HW.reshape(rows, stride, columns, stride)
    cells_hw = np.full((rows, columns), UNKNOWN, dtype=np.uint8)
    for value in np.unique(warped_HW):
        cells_hw[2 * (parts == value).sum(axis=(1, 3)) > stride * stride] = value
    return cells_hw


class LabelledCells(Dataset):
    """Prepared image `index` as of `epoch` with the labels of its cells, for items (index, epoch).

    Args:
        multiple: sides of the input are multiples of this.
        stride: pixels of a cell along each side, a divisor of `multiple`.
    """

    def __init__(
        self,
        image_set: ImageSet,
        labels: ConfidentLabels,
        config: DataConfig,
        multiple: int,
        stride: int,
        seed: int,
    ) -> None:
        self.prepared = PreparedImages(image_set, config, multiple, seed)
        self.labels, self.stride = labels, stride

    def __getitem__(self, item: tuple[int, int]) -> tuple | Fault:
        # A Fault is returned: an exception would lose its kind on the way out of a worker process.
        prepared = self.prepared[item]
        if isinstance(prepared, str):
            return Fault(prepared, of_label=False)
        index, image_HW3, geometry_23 = prepared
        sample = self.prepared.image_set.samples[index]
        try:
            label_HW = self.labels.read(sample, read_size(sample.path))
        except UserError as error:
            return Fault(str(error), of_label=True)
        cells_hw = cell_labels(label_HW, geometry_23, image_HW3.shape[:2], self.stride)
        return index, image_HW3, geometry_23, cells_hw


@dataclass(frozen=True)
class CollateCells:
    """Stacks items into a CellBatch."""

    image_set: ImageSet
    stride: int

    def __call__(self, items: Sequence[tuple | Fault]) -> CellBatch:
        good = [item for item in items if not isinstance(item, Fault)]
        faults = [item for item in items if isinstance(item, Fault)]
        batch = Collate(self.image_set)([item[:3] for item in good])
        batch.bad = [fault.sentence for fault in faults if not fault.of_label]
        grid = [side // self.stride for side in batch.images_B3HW.shape[2:]]
        cells_Bhw = np.full((len(good), *grid), UNKNOWN, dtype=np.uint8)
        for slot, (*_, cells_hw) in zip(cells_Bhw, good, strict=True):
            slot[: cells_hw.shape[0], : cells_hw.shape[1]] = cells_hw
        return CellBatch(
            **{field.name: getattr(batch, field.name) for field in fields(Batch)},
            cells_Bhw=torch.from_numpy(cells_Bhw),
            wrong=[fault.sentence for fault in faults if fault.of_label],
        )
