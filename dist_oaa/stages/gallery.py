"""Pictures of how the maps of a few images evolve, kept across resumes.

RUN/pictures/maps/epoch-0003.npz     the gallery's maps after epoch 3 (uint8, no pickle)
RUN/pictures/attention.png           image | CAM | cumulative | truth, after the last epoch
RUN/pictures/evolution.png           the cumulative map of each image over the epochs
RUN/pictures/occluded.png            inputs of the last epoch as the drop layer left them
"""

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dist_oaa.data.images import read_image, read_mask
from dist_oaa.evaluation.pictures import grid, mask_colours, overlay, save_png
from dist_oaa.runtime.files import write_atomic
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.tally import ImageMaps

MOST_COLUMNS = 5
KINDS = {"cam": "CAM", "cumulative": "cumulative"}
"""Which maps are drawn, with the titles of their columns."""


class Gallery:
    """Draws the gallery on rank 0.

    Args:
        pixel_limit: largest image that is read, in megapixels.
        kinds: which maps are drawn, with the titles of their columns; the last one's evolution.
    """

    def __init__(
        self,
        run_dir: Path,
        class_names: tuple[str, ...],
        pixel_limit: float,
        kinds: Mapping[str, str] = KINDS,
    ) -> None:
        self._folder = run_dir / "pictures"
        self._names, self._pixel_limit = class_names, pixel_limit
        self._kinds, self._evolving = dict(kinds), list(kinds)[-1]

    def add(self, epoch: int, step: int, images: list[ImageMaps], tracker: Tracker) -> None:
        """Keeps the maps as of the end of `epoch` and draws both pictures anew.

        Raises:
            OSError: when the disk is full.
        """
        if not images:
            return
        (self._folder / "maps").mkdir(parents=True, exist_ok=True)
        buffer = io.BytesIO()
        maps = {f"{i.sample.id}.{kind}": _bytes(m) for i in images for kind, m in i.maps.items()}
        np.savez_compressed(buffer, **maps)
        write_atomic(self._folder / "maps" / f"epoch-{epoch:04d}.npz", buffer.getvalue())
        for name, picture in (
            ("attention", attention_picture(images, self._kinds, self._names, self._pixel_limit)),
            ("evolution", self._evolution(images, epoch)),
        ):
            save_png(self._folder / f"{name}.png", picture)
            tracker.image(name, picture, step)

    def add_occluded(
        self, step: int, examples: list[tuple[str, np.ndarray]], tracker: Tracker
    ) -> None:
        """Draws inputs as the drop layer left them, by name.

        Raises:
            OSError: when the disk is full.
        """
        if not examples:
            return
        picture = grid(
            [[image] for _, image in examples], [name for name, _ in examples], ["input"]
        )
        save_png(self._folder / "occluded.png", picture)
        tracker.image("occluded", picture, step)

    def _evolution(self, images: list[ImageMaps], last_epoch: int) -> np.ndarray:
        epochs = self._epochs(last_epoch)
        kept = {}
        for epoch in epochs:
            with np.load(self._folder / "maps" / f"epoch-{epoch:04d}.npz") as file:
                kept[epoch] = {key: file[key] for key in file.files}
        rows = []
        for image in images:
            photo_HW3 = read_image(image.sample.path, self._pixel_limit)
            # A resumed run may draw other images than it began with: they lack early maps.
            maps = [kept[epoch].get(f"{image.sample.id}.{self._evolving}") for epoch in epochs]
            rows.append([_drawn(photo_HW3, maps_KSS) for maps_KSS in maps])
        titles = [_title(image, self._names) for image in images]
        return grid(rows, titles, [f"epoch {e + 1}" for e in epochs])

    def _epochs(self, last_epoch: int) -> list[int]:
        """At most MOST_COLUMNS of the kept epochs, evenly spread, the last one among them."""
        names = sorted((self._folder / "maps").glob("epoch-*.npz"))
        epochs = [e for e in (int(p.stem.split("-")[1]) for p in names) if e <= last_epoch]
        picks = np.linspace(0, len(epochs) - 1, min(MOST_COLUMNS, len(epochs)))
        return [epochs[round(i)] for i in picks]


def attention_picture(
    images: list[ImageMaps],
    kinds: dict[str, str],
    class_names: tuple[str, ...],
    pixel_limit: float,
) -> np.ndarray:
    """Image, maps of its first class, and the truth where there is any, one image a row.

    Args:
        images: at least one.
        kinds: which maps, with the titles of their columns.
        pixel_limit: largest image that is read, in megapixels.
    """
    rows = []
    for image in images:
        photo_HW3 = read_image(image.sample.path, pixel_limit)
        shown = [photo_HW3, *(overlay(photo_HW3, image.maps[kind][0]) for kind in kinds)]
        if image.sample.mask is not None:
            shown.append(mask_colours(read_mask(image.sample.mask)))
        rows.append(shown)
    columns = ["image", *kinds.values(), "truth (not trained on)"]
    titles = [_title(image, class_names) for image in images]
    return grid(rows, titles, columns[: max(map(len, rows))])


def _title(image: ImageMaps, class_names: tuple[str, ...]) -> str:
    return f"{class_names[image.sample.classes[0]]} {image.sample.id}"


def _drawn(photo_HW3: np.ndarray, maps_KSS: np.ndarray | None) -> np.ndarray | None:
    return None if maps_KSS is None else overlay(photo_HW3, maps_KSS[0].astype(np.float32) / 255)


def _bytes(maps_KSS: np.ndarray) -> np.ndarray:
    return np.round(np.clip(maps_KSS, 0, 1) * 255).astype(np.uint8)
