"""The gallery: each image from its tags to its label, as small pictures that the page carries."""

import base64
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.data.coco_mask import InstanceMask
from dist_oaa.data.images import read_image, read_mask
from dist_oaa.evaluation.pictures import mask_colours, overlay
from dist_oaa.stages.page.runs import ShownRun, of_stage

SIDE = 220
"""Longer side of a picture in pixels."""
CAM_EPOCHS = 3
PIXEL_LIMIT = 80.0


@dataclass(frozen=True)
class Tile:
    """One picture with its caption."""

    caption: str
    source: str
    """A data URI."""


@dataclass(frozen=True)
class Card:
    """All pictures of one image."""

    title: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class Photo:
    """Where an image and its true mask lie."""

    id: str
    path: Path
    mask: Path | None
    classes: tuple[int, ...]


def data_uri(picture_HW3: np.ndarray, side: int = SIDE) -> str:
    """A picture, made smaller, as a JPEG data URI."""
    image = Image.fromarray(picture_HW3)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def file_uri(path: Path) -> str:
    """A PNG file as a data URI, empty where there is none."""
    if not path.is_file():
        return ""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def cards(runs: Sequence[ShownRun], photos: Iterable[Photo]) -> list[Card]:
    """One card for each image whose maps the classifier's run has kept."""
    known = {photo.id: photo for photo in photos}
    classify = of_stage(runs, "classify")
    if not classify:
        return []
    kept = KeptMaps(classify[0].folder)
    shown = [known[name] for name in kept.images("cam") if name in known]
    return [card(photo, kept, runs, classify[0].class_names) for photo in shown]


def card(
    photo: Photo, kept: "KeptMaps", runs: Sequence[ShownRun], class_names: tuple[str, ...]
) -> Card:
    """The pictures of one image, in the order in which they came to be."""
    try:
        image_HW3 = read_image(photo.path, PIXEL_LIMIT)
    except UserError:
        return Card(f"{photo.id}: the image is gone", ())
    tiles = [Tile("image", data_uri(image_HW3))]
    for epoch in kept.spread("cam", photo.id):
        tiles.append(
            map_tile(f"CAM, epoch {epoch + 1}", image_HW3, kept.map("cam", photo.id, epoch))
        )
    last = kept.epochs[-1]
    tiles.append(map_tile("cumulative", image_HW3, kept.map("cumulative", photo.id, last)))
    for run in of_stage(runs, "integral"):
        maps = KeptMaps(run.folder)
        if maps.epochs and photo.id in maps.images("integral"):
            map_SS = maps.map("integral", photo.id, maps.epochs[-1])
            tiles.append(map_tile(run.name, image_HW3, map_SS))
    labels = of_stage(runs, "pseudo-label")
    for run in labels:
        caption = "pseudo label" if len(labels) == 1 else f"pseudo label, {run.name}"
        tiles += label_tile(caption, run.folder / "labels" / f"{photo.id}.png")
    for run in of_stage(runs, "segment"):
        path = run.folder / "pictures" / "predictions" / f"{photo.id}.png"
        tiles += label_tile("prediction", path)
    if photo.mask is not None:
        tiles += label_tile("truth", photo.mask)
    # The maps are those of the image's first class.
    names = ", ".join(class_names[c] for c in photo.classes)
    return Card(f"{photo.id}: {names}", tuple(tiles))


def map_tile(caption: str, image_HW3: np.ndarray, map_SS: np.ndarray | None) -> Tile:
    """A map over its image; the image alone where there is no map."""
    picture = image_HW3 if map_SS is None else overlay(image_HW3, map_SS)
    return Tile(caption if map_SS is not None else f"{caption}: none", data_uri(picture))


def label_tile(caption: str, mask: Path | InstanceMask) -> list[Tile]:
    """A label image in its colours; nothing where there is none."""
    try:
        return [Tile(caption, data_uri(mask_colours(read_mask(mask))))]
    except UserError:
        return []


class KeptMaps:
    """The gallery's maps that a training run kept after each epoch (stages/gallery.py).

    Attributes:
        epochs: those that were kept, from 0, sorted.
    """

    def __init__(self, run_dir: Path) -> None:
        self._maps: dict[int, dict[str, np.ndarray]] = {}
        for path in sorted((run_dir / "pictures" / "maps").glob("epoch-*.npz")):
            with np.load(path, allow_pickle=False) as file:
                self._maps[int(path.stem.split("-")[1])] = {key: file[key] for key in file.files}
        self.epochs = sorted(self._maps)

    def images(self, kind: str) -> list[str]:
        """Names of the images of the last epoch's maps."""
        last = self._maps[self.epochs[-1]] if self.epochs else {}
        return [key.removesuffix(f".{kind}") for key in last if key.endswith(f".{kind}")]

    def spread(self, kind: str, name: str) -> list[int]:
        """CAM_EPOCHS of the epochs that have a map of an image, the last among them."""
        having = [epoch for epoch in self.epochs if f"{name}.{kind}" in self._maps[epoch]]
        # The first epochs attend to nothing yet: begin at a third of the way.
        picks = np.linspace(0, len(having) - 1, CAM_EPOCHS + 1)[1:]
        return sorted({having[round(i)] for i in picks})

    def keys(self, epoch: int) -> list[str]:
        """IMAGE.KIND of all maps of an epoch, those of an image in the order of their kinds."""
        return list(self._maps[epoch])

    def map(self, kind: str, name: str, epoch: int, index: int = 0) -> np.ndarray | None:
        """The map of an image's class, float32 in [0, 1]; None where there is none.

        Args:
            index: which of its classes, by its place among them.
        """
        maps_KSS = self._maps[epoch].get(f"{name}.{kind}")
        return None if maps_KSS is None else maps_KSS[index].astype(np.float32) / np.float32(255)
