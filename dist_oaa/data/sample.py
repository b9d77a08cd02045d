"""What every layout becomes: an ordered set of images with image-level labels.

Legend: N images, C classes.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.data.coco_mask import InstanceMask
from dist_oaa.runtime.fingerprint import labels_fingerprint


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and its image-level label.

    The id is a relative path without suffix: the name of the image in the store and in every
    output. The mask is for evaluation alone; its index 0 is the background and class k has k + 1.
    """

    id: str
    path: Path
    classes: tuple[int, ...]
    """Class indices from 0, sorted, each once, without background."""
    mask: Path | InstanceMask | None


@dataclass(frozen=True)
class ImageSet:
    """The images of one list, in its order.

    Raises:
        UserError: two samples have the same id.
    """

    root: Path
    class_names: tuple[str, ...]
    samples: tuple[Sample, ...]
    label_source: str
    """Where the image-level labels were read, as results state it: a file name relative to the
    root, `Annotations/*.xml` or `folder names`."""

    def __post_init__(self) -> None:
        first: dict[str, Sample] = {}
        for sample in self.samples:
            other = first.setdefault(sample.id, sample)
            if other is not sample:
                raise UserError(
                    f"the id {sample.id!r} occurs twice in {self.root}, for {other.path} and for "
                    f"{sample.path}, expected one image per id"
                )
            assert list(sample.classes) == sorted(set(sample.classes)), sample
            assert all(0 <= c < len(self.class_names) for c in sample.classes), sample

    def __len__(self) -> int:
        return len(self.samples)

    @cached_property
    def labels_NC(self) -> np.ndarray:
        """Read-only uint8 array N x C: 1 where image n has class c, else 0."""
        labels_NC = np.zeros((len(self.samples), len(self.class_names)), dtype=np.uint8)
        for n, sample in enumerate(self.samples):
            labels_NC[n, list(sample.classes)] = 1
        labels_NC.flags.writeable = False
        return labels_NC

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 in hex over the class names and the (id, classes) pairs sorted by id.

        Neither the order of the list nor the place of the data set changes it, so a store can tell
        whether it belongs to these labels on any machine.
        """
        return labels_fingerprint(self.class_names, ((s.id, s.classes) for s in self.samples))
