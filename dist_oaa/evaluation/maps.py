"""From the square grid of a map to the pixels of its image.

Shapes: SS a square grid of cells, HW the pixels of the image.
"""

import cv2
import numpy as np


def resize_map(map_SS: np.ndarray, height: int, width: int) -> np.ndarray:
    """Spread a map over an image of any aspect, bilinearly.

    The grid covers the whole image and its values stand at the cells' centres (half-pixel
    centres, `align_corners=False` in PyTorch's words); beyond the outermost centres the outermost
    values go on, so the result never leaves the range of the map.

    Args:
        map_SS: (S, S) float32, values 0 to 1.
        height: rows of the image, in pixels, at least 1.
        width: columns of the image, in pixels, at least 1.

    Returns:
        (height, width) float32.

    Raises:
        ValueError: not a square 2-D float32 grid, or no pixels.
    """
    map_SS = np.asarray(map_SS)
    if map_SS.ndim != 2 or map_SS.shape[0] != map_SS.shape[1] or map_SS.dtype != np.float32:
        raise ValueError(
            f"map has shape {map_SS.shape} and type {map_SS.dtype}, expected a square float32 grid"
        )
    if min(map_SS.shape[0], height, width) < 1:
        raise ValueError(f"cannot spread {map_SS.shape} cells over {height} x {width} pixels")
    return cv2.resize(map_SS, (width, height), interpolation=cv2.INTER_LINEAR)


def own_maximum(map_HW: np.ndarray) -> np.ndarray:
    """Divide a map by its own maximum; all zero where that is <= 0.

    (H, W) to (H, W) float32. Raises ValueError where the map is not finite.
    """
    map_HW = np.asarray(map_HW, dtype=np.float32)
    maximum = largest_value(map_HW)
    return map_HW / maximum if maximum > 0 else np.zeros_like(map_HW)


def largest_value(map_HW: np.ndarray) -> np.floating:
    """The maximum of a map; ValueError where it is not finite (nan would pass as a low value)."""
    maximum = map_HW.max()
    if not np.isfinite(maximum):
        raise ValueError(f"map has the maximum {maximum}, expected finite values")
    return maximum
