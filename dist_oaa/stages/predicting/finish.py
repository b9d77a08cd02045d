"""From an image's class probabilities to its files: refine, write the mask, draw, count.

Works on one image, without the network, so that other processes can do it.

Shapes: HW3 the image, HW its labels, J the channels that win anywhere and the background.
"""

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import CrfConfig
from dist_oaa.data.images import BadImageError, read_image
from dist_oaa.data.palette import write_label
from dist_oaa.evaluation.pictures import save_png
from dist_oaa.labels.crf import crf_on_present
from dist_oaa.stages.predicting.overlay import labelled_picture
from dist_oaa.stages.predicting.sources import Source

BACKGROUND = "background"


@dataclass(frozen=True)
class Failed:
    """An image that could not be read."""

    source: Source
    reason: str
    """One sentence that names the file."""


def read_photograph(source: Source, pixel_limit: float, on_bad_image: str) -> np.ndarray | Failed:
    """An image, upright, H x W x 3 uint8; or why not, where such a one is skipped.

    Raises:
        UserError: when it cannot be read and such a one stops.
    """
    try:
        return read_image(source.path, pixel_limit, apply_exif=True)
    except BadImageError as error:
        # The reader knows this setting under another name.
        sentence = str(error).replace("data.pixel_limit", "pixel_limit")
        if on_bad_image == "stop":
            raise UserError(f"{sentence} (on_bad_image is stop)") from error
        return Failed(source, sentence)


@dataclass(frozen=True)
class Scored:
    """An image and what the network says of it."""

    source: Source
    image_HW3: np.ndarray
    label_HW: np.ndarray
    """uint8, the most probable label of each pixel."""
    labels_J: np.ndarray
    """uint8, the labels that occur and the background, ascending."""
    probabilities_JHW: np.ndarray | None
    """float32, of those labels, where a CRF shall refine them."""
    seconds: float
    """Spent on it so far."""


@dataclass(frozen=True)
class Prediction:
    """What is known of an image when its files are written."""

    source: Source
    size: tuple[int, int]
    """Height and width in pixels, after the EXIF rotation."""
    pixels: dict[int, int]
    """Pixels of each label that occurs."""
    seconds: float
    """From reading to writing."""


@dataclass(frozen=True)
class Finisher:
    """Where the files of all images go, and how they are made."""

    folder: Path
    class_names: tuple[str, ...]
    """Object classes, without the background."""
    crf: CrfConfig | None
    overlays: bool
    overlay_size: int


def finish(finisher: Finisher, scored: Scored | Failed) -> Prediction | Failed:
    """Writes masks/NAME.png and overlays/NAME.png of an image; a failed one stays what it is.

    Raises:
        OSError: when the disk is full or not writable.
    """
    if isinstance(scored, Failed):
        return scored
    since = time.perf_counter()
    label_HW = scored.label_HW
    if finisher.crf is not None:
        label_HW = refined(scored, finisher.crf)
    name = f"{scored.source.name}.png"
    write_label(finisher.folder / "masks" / name, label_HW)
    if finisher.overlays:
        drawn_HW3 = labelled_picture(
            scored.image_HW3, label_HW, finisher.class_names, finisher.overlay_size
        )
        save_png(finisher.folder / "overlays" / name, drawn_HW3)
    counts_V = np.bincount(label_HW.ravel())
    pixels = {int(v): int(counts_V[v]) for v in np.flatnonzero(counts_V)}
    seconds = scored.seconds + time.perf_counter() - since
    return Prediction(scored.source, label_HW.shape, pixels, seconds)


def refined(scored: Scored, config: CrfConfig) -> np.ndarray:
    """The labels (H, W) uint8 after a CRF."""
    assert scored.probabilities_JHW is not None
    label_HW = crf_on_present(scored.image_HW3, scored.probabilities_JHW, config)
    return scored.labels_J[label_HW]


def image_record(prediction: Prediction, class_names: tuple[str, ...]) -> dict:
    """The image's entry in predictions.json: background first, then the largest class first."""
    height, width = prediction.size
    names = (BACKGROUND, *class_names)
    order = sorted(prediction.pixels.items(), key=lambda item: (item[0] != 0, -item[1], item[0]))
    return {
        "name": prediction.source.name,
        "source": str(prediction.source.path),
        "height": height,
        "width": width,
        "classes": [
            {
                "class": names[value],
                "label": value,
                "pixels": count,
                "share": round(count / (height * width), 6),
            }
            for value, count in order
        ],
        "seconds": round(prediction.seconds, 3),
    }
