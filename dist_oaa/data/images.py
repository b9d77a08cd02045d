"""Reading images and masks from files, with every fault as one sentence that names the file.

The formats are a closed list: PIL can read some forty, one of them by starting another program.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

# Importing a plugin registers its format in Image.OPEN.
from PIL import (  # noqa: F401
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageOps,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from dist_oaa.config.errors import UserError
from dist_oaa.data.coco_mask import InstanceMask
from dist_oaa.runtime.faults import fault_point

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
"""File names that count as images where a folder is searched; case does not matter."""
MASK_PIXEL_LIMIT = 1000.0
"""Largest mask that is decoded, in megapixels; images are limited first, by `data.pixel_limit`."""


class BadImageError(UserError):
    """An image or mask that cannot be read: missing, empty, truncated, corrupt or too large.

    Takes the finished sentence alone, so that it travels unchanged out of a loader process.
    """


def read_image(path: Path, pixel_limit: float, apply_exif: bool = False) -> np.ndarray:
    """Read an image as a uint8 array H x W x 3 in RGB order, values 0 to 255.

    Grey and 1-bit images get three equal channels, 16-bit grey is divided by 257 and rounded (so
    65535 becomes 255), CMYK and palette images are converted, transparent pixels are laid over
    white: that is how a viewer, and whoever labelled the image, saw them. Of several frames the
    first counts.

    Args:
        path: The file, in one of FORMATS whatever its suffix says.
        pixel_limit: Largest image that is decoded, in megapixels, held against the header.
        apply_exif: Turn the image as its EXIF orientation says. Off by default, since masks and
            boxes are stored in the frame of the raw pixels.

    Raises:
        BadImageError: the file cannot be read; the sentence names it and the reason.
    """
    with _opened(path) as image:
        fault_point("data.read")
        _check_pixels(image, pixel_limit, "data.pixel_limit is")
        upright = ImageOps.exif_transpose(image) if apply_exif else image
        return np.array(_as_rgb(upright, image.format))


def read_mask(path: Path | InstanceMask, pixel_limit: float = MASK_PIXEL_LIMIT) -> np.ndarray:
    """Read a mask as a uint8 array H x W of class indices: 0 background, k + 1 class k, 255 ignore.

    Raises:
        BadImageError: the file cannot be read, or is not a PNG with a palette or 8-bit grey values;
            an outline cannot be drawn.
        UserError: outlines are to be drawn, and pycocotools is not installed.
    """
    if isinstance(path, InstanceMask):
        return _drawn(path, pixel_limit)
    with _opened(path) as image:
        if image.format != "PNG" or image.mode not in ("P", "L"):
            raise BadImageError(
                f"{path} is a {image.format} file of mode {image.mode}, expected a palette PNG "
                "(or an 8-bit grey PNG) whose values are class indices"
            )
        _check_pixels(image, pixel_limit, "the limit of masks is")
        return np.array(image)


def _drawn(mask: InstanceMask, pixel_limit: float) -> np.ndarray:
    if mask.megapixels > pixel_limit:
        raise BadImageError(
            f"{mask} has {mask.width} x {mask.height} pixels, and the limit of masks is "
            f"{pixel_limit:g} megapixels"
        )
    try:
        return mask.draw()
    except ValueError as error:
        raise BadImageError(f"{mask}: {error}") from error


def read_size(path: Path) -> tuple[int, int]:
    """Return (height, width) in pixels from the header alone, before any EXIF orientation.

    Raises:
        BadImageError: the header cannot be read.
    """
    with _opened(path) as image:
        return image.height, image.width


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a file lazily and turn whatever goes wrong inside the block into BadImageError."""
    try:
        if stat.S_ISFIFO(os.stat(path).st_mode):  # to open one would wait for a writer, for ever
            raise ValueError("it is a pipe, expected a file")
        with open(path, "rb") as stream:
            yield _identify(stream)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # PIL's decoders raise nearly anything on damaged data
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        reason = " ".join(reason.split()).rstrip(".")
        raise BadImageError(f"{path} cannot be read as an image: {reason}") from error


def _identify(stream: BinaryIO) -> Image.Image:
    """Return the lazy image of a stream by its first bytes.

    Does what Image.open does, but for its decompression-bomb check: that one warns or raises at
    limits held in a global of PIL, while ours is a setting (see `_check_pixels`).
    """
    prefix = stream.read(16)
    if not prefix:
        raise ValueError("the file is empty")
    for name in FORMATS:
        factory, accept = Image.OPEN[name]
        if accept is not None and accept(prefix) is True:
            stream.seek(0)
            return factory(stream, "")
    raise ValueError(f"it is none of {', '.join(FORMATS)}")


def _check_pixels(image: Image.Image, pixel_limit: float, limit: str) -> None:
    megapixels = image.width * image.height / 1e6
    if megapixels > pixel_limit:
        raise ValueError(
            f"it has {image.width} x {image.height} pixels, {megapixels:.6g} megapixels, and "
            f"{limit} {pixel_limit:g} megapixels"
        )


def _as_rgb(image: Image.Image, file_format: str) -> Image.Image:
    # PIL opens 16-bit grey as I;16 (PNG, TIFF) or I (PPM); its own conversion clips at 255.
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format in ("PNG", "PPM")):
        grey_HW = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((grey_HW + 128) // 257).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError("it has 32-bit pixels, expected 8 or 16 bits a channel")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
