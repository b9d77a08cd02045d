"""Saliency of one image: read from a file, by the spectral residual, or by a rembg network.

Shapes: HW the pixels of one image.
"""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.config.extras import need

SPECTRAL_SIDE = 64
"""Longer side at which the spectral residual is taken, in pixels (the paper's 64)."""
AVERAGE = 3
"""Side of the local mean over the log spectrum (the paper's h_n, n = 3)."""
BLUR = 2.5
"""Standard deviation of the smoothing of the result, in pixels at that size."""


def read_saliency(folder: Path, image_id: str, shape: tuple[int, int]) -> np.ndarray:
    """The saliency map FOLDER/ID.png of one image.

    Args:
        folder: where the maps are; the id may hold sub-folders.
        image_id: name of the image.
        shape: (height, width) of the image in pixels.

    Returns:
        (H, W) uint8, 0 to 255.

    Raises:
        UserError: when the file is missing, unreadable or of another size than the image.
    """
    path = Path(folder) / f"{image_id}.png"
    try:
        with Image.open(path) as picture:
            # Before anything is decoded: the header tells both.
            size, mode = (picture.height, picture.width), picture.mode
            if size == tuple(shape) and mode[0] not in "IF":
                return np.array(picture.convert("L"))
    except FileNotFoundError as error:
        raise UserError(f"saliency map {path} is missing, expected a grey PNG") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"saliency map {path} cannot be read: {error}") from error
    if size != tuple(shape):
        raise UserError(
            f"saliency map {path} has {size} pixels (height, width), expected those of its image, "
            f"{tuple(shape)}"
        )
    raise UserError(f"saliency map {path} is of mode {mode}, expected 8-bit grey, 0 to 255")


def spectral_residual(image_HW3: np.ndarray) -> np.ndarray:
    """Saliency without weights: what is unusual in the image's spectrum (Hou and Zhang 2007).

    The log amplitude less its local mean, turned back with the image's own phase; each colour
    channel alone, the largest counts. The result spans 0 to 255; a flat image gives zeros.

    (H, W, 3) uint8 to (H, W) uint8.
    """
    height, width = image_HW3.shape[:2]
    factor = SPECTRAL_SIDE / max(height, width)
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small_hw3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    if small_hw3.ndim != 3 or not np.ptp(small_hw3, axis=(0, 1)).any():
        return np.zeros((height, width), dtype=np.uint8)
    residual_hw = np.max([_residual(small_hw3[..., c]) for c in range(3)], axis=0)
    saliency_HW = cv2.resize(residual_hw, (width, height), interpolation=cv2.INTER_LINEAR)
    lowest, highest = saliency_HW.min(), saliency_HW.max()
    if highest <= lowest:
        return np.zeros((height, width), dtype=np.uint8)
    return np.rint((saliency_HW - lowest) * (255 / (highest - lowest))).astype(np.uint8)


def _residual(channel_hw: np.ndarray) -> np.ndarray:
    """Eq. 8 to 10 of the paper for one colour channel, in its frame."""
    spectrum_hw = np.fft.fft2(channel_hw)
    # The smallest positive amplitude counts where there is none: log 0 would spoil its neighbours.
    log_hw = np.log(np.maximum(np.abs(spectrum_hw), 1e-6)).astype(np.float32)
    # The spectrum repeats itself at its borders.
    wrapped = cv2.copyMakeBorder(log_hw, 1, 1, 1, 1, cv2.BORDER_WRAP)
    residual_hw = log_hw - cv2.blur(wrapped, (AVERAGE, AVERAGE))[1:-1, 1:-1]
    phase_hw = np.angle(spectrum_hw)
    back_hw = np.abs(np.fft.ifft2(np.exp(residual_hw + 1j * phase_hw))) ** 2
    return cv2.GaussianBlur(back_hw.astype(np.float32), (0, 0), BLUR)


def rembg_session(model: str) -> Any:
    """A network of the rembg package, ready for `rembg_saliency`.

    Raises:
        UserError: when the package is missing, knows no such model, or cannot get its weights.
    """
    rembg = need("rembg", "saliency by rembg")
    try:
        return rembg.new_session(model)
    except Exception as error:  # whatever its download raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"labels.rembg_model {model!r} cannot be had from the rembg package: {reason}"
        ) from error


def rembg_saliency(session: Any, image_HW3: np.ndarray) -> np.ndarray:
    """The network's soft mask of one image, (H, W, 3) uint8 to (H, W) uint8."""
    import rembg

    mask = rembg.remove(Image.fromarray(image_HW3), session=session, only_mask=True)
    return np.array(mask.convert("L"))
