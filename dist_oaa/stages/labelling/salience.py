"""What a worker process does for `oaa saliency`: one grey map of one image.

Shapes: HW3 an image, HW its pixels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from dist_oaa.data.images import BadImageError, read_image
from dist_oaa.data.sample import Sample
from dist_oaa.labels.saliency import rembg_saliency, rembg_session, spectral_residual


@dataclass(frozen=True)
class SaliencyTask:
    """One image."""

    sample: Sample
    keep: bool = False
    """Whether the map comes back, to be drawn."""


@dataclass
class Salient:
    """What became of one image."""

    sample: Sample
    bad: str = ""
    """Why it cannot be read; then there is no map."""
    saliency_HW: np.ndarray | None = None
    """The map, where the task asked to keep it."""


@dataclass(frozen=True)
class SaliencyMaker:
    """Makes the maps of single images."""

    method: Callable[[np.ndarray], np.ndarray]
    """uint8 RGB image to uint8 (H, W)."""
    pixel_limit: float
    """Largest image that is read, in megapixels."""
    folder: Path
    """Where the maps are written, as ID.png."""


def make_saliency(method: str, model: str, pixel_limit: float, folder: Path) -> SaliencyMaker:
    """The maker that the settings describe.

    Raises:
        UserError: when rembg or its network cannot be had.
    """
    if method == "rembg":
        return SaliencyMaker(partial(rembg_saliency, rembg_session(model)), pixel_limit, folder)
    return SaliencyMaker(spectral_residual, pixel_limit, folder)


def write_saliency(maker: SaliencyMaker, task: SaliencyTask) -> Salient:
    """Writes the saliency map of one image, 8-bit grey and of its size.

    Raises:
        OSError: when the disk is full or not writable.
    """
    try:
        image_HW3 = read_image(task.sample.path, maker.pixel_limit)
    except BadImageError as error:
        return Salient(task.sample, bad=str(error))
    saliency_HW = maker.method(image_HW3)
    path = maker.folder / f"{task.sample.id}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(saliency_HW).save(path, format="PNG")
    return Salient(task.sample, saliency_HW=saliency_HW if task.keep else None)
