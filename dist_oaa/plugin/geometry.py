"""Where an augmented input lies in its image, told in the words and pixels of the augmentation.

Legend: 23 a 2 x 3 matrix from the whole image to the input, both normalised (data/geometry.py).
"""

from dataclasses import dataclass, field

import numpy as np
import torch

from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23, crop_23, then

VERTICAL_FLIP_23 = np.array([[1.0, 0.0, 0.0], [0.0, -1.0, 1.0]])


@dataclass(frozen=True)
class Geometry:
    """A view of an image; each step gives a new one, in the order of the augmentation.

        view = Geometry(*image.shape[-2:]).resized_crop(top, left, height, width, (224, 224))
        view = view.hflip(flipped)
        return tensor, label, name, view.matrix

    The arguments are those of torchvision's functions: pixels of the frame that the step before
    left. Colour changes need no step, and a plain resize of the whole image changes nothing but
    the pixels that later steps are told in.

    Args:
        height, width: of the image in pixels, before anything is done to it.

    Raises:
        ValueError: when a size is not positive.
    """

    height: float
    width: float
    matrix_23: np.ndarray = field(default_factory=lambda: IDENTITY_23.copy(), compare=False)

    def __post_init__(self) -> None:
        if self.height <= 0 or self.width <= 0:
            raise ValueError(f"a view of {self.height} x {self.width} pixels has no area")

    @property
    def matrix(self) -> torch.Tensor:
        """float32 (2, 3): what `update` takes, stacked to (B, 2, 3) by the default collate."""
        return torch.from_numpy(self.matrix_23.astype(np.float32))

    def _then(self, step_23: np.ndarray, height: float, width: float) -> "Geometry":
        return Geometry(height, width, then(self.matrix_23, step_23))

    def resize(self, height: float, width: float) -> "Geometry":
        """Scaled to height x width pixels, whatever the aspect."""
        return Geometry(height, width, self.matrix_23)

    def crop(self, top: float, left: float, height: float, width: float) -> "Geometry":
        """A box cut out; it may reach over the edge, where torchvision pads."""
        box = (left / self.width, top / self.height, width / self.width, height / self.height)
        return self._then(crop_23(*box), height, width)

    def resized_crop(
        self, top: float, left: float, height: float, width: float, size: tuple[float, float]
    ) -> "Geometry":
        """A box cut out and scaled to size = (height, width), as RandomResizedCrop does."""
        return self.crop(top, left, height, width).resize(*size)

    def pad(self, left: float, top: float, right: float, bottom: float) -> "Geometry":
        """Borders added, in torchvision's order."""
        height, width = self.height + top + bottom, self.width + left + right
        return self.crop(-top, -left, height, width)

    def hflip(self, flipped: bool = True) -> "Geometry":
        """Mirrored left to right, where `flipped`."""
        return self._then(HORIZONTAL_FLIP_23, self.height, self.width) if flipped else self

    def vflip(self, flipped: bool = True) -> "Geometry":
        """Turned upside down, where `flipped`."""
        return self._then(VERTICAL_FLIP_23, self.height, self.width) if flipped else self
