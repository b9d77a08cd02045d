"""Label images as files: 8-bit PNGs with the colour map of PASCAL VOC.

Shapes: HW the pixels of one image.
"""

from pathlib import Path

import numpy as np
from PIL import Image


def voc_palette() -> np.ndarray:
    """VOC's colours, (256, 3) uint8: the bits of an index, dealt to R, G and B in turn."""
    index, palette = np.arange(256), np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            value = (index >> (3 * bit + channel)) & 1
            palette[:, channel] |= (value << (7 - bit)).astype(np.uint8)
    return palette


def write_label(path: Path, label_HW: np.ndarray) -> None:
    """Writes a label image; its folder is made where it is missing.

    Args:
        label_HW: (H, W) uint8: 0 background, class index + 1, 255 ignored.

    Raises:
        OSError: when the disk is full or not writable.
    """
    assert label_HW.dtype == np.uint8, label_HW.dtype
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(label_HW)
    picture.putpalette(voc_palette().tobytes())
    picture.save(path, format="PNG")
