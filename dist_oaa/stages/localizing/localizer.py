"""One list of images, looked at and measured on all ranks together.

Images are taken in name order, in batches whose make-up does not depend on the world size; rank r
takes every batch of number k with k % size == r. So each image counts exactly once, nothing is
padded with repeated images, and the figures are the same at any world size.

Legend: S map cells along a side; HW the pixels of an image; T thresholds; 4 the edges of a box.
"""

from contextlib import closing
from dataclasses import dataclass, field

import numpy as np

from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.localize import LocalizeConfig
from dist_oaa.data.crops import look_loader
from dist_oaa.data.images import read_mask, read_size
from dist_oaa.data.loader import MEASURE, Batch, check_bad_images
from dist_oaa.data.sample import Sample
from dist_oaa.evaluation.boxes import Overlaps, above, component_boxes, overlaps, single_box
from dist_oaa.evaluation.localization import Localization, Thresholds
from dist_oaa.evaluation.maps import own_maximum, resize_map
from dist_oaa.evaluation.pixel_precision import PixelPrecision
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter, one_pass
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.localizing.lists import MeasuredList
from dist_oaa.stages.localizing.looking import Looked, Looker
from dist_oaa.stages.tally import gallery_images

Corners = tuple[float, ...]


@dataclass(frozen=True)
class Guess:
    """A class with the box of its map."""

    class_index: int
    probability: float
    box: Corners | None
    """None where the map attends to nothing."""


@dataclass(frozen=True)
class LocalizedImage:
    """What is known of an image once it is measured."""

    id: str
    size: tuple[int, int]
    """Height and width in pixels."""
    guesses: list[Guess]
    """Most probable first."""
    true: list[Guess]
    """The image's own classes, which GT-known is told."""
    iou: list[float]
    """How well the box of each of these meets the truth."""
    map_SS: np.ndarray | None = None
    """Of the most probable class, for images of the gallery."""


@dataclass
class FoundList:
    """A measured list, the same on every rank."""

    counts: Localization
    pixels: PixelPrecision
    masks: int = 0
    """Images that have a mask, a count."""
    images: list[LocalizedImage] = field(default_factory=list)
    """In name order; empty where no thresholds were given."""
    skipped: list[str] = field(default_factory=list)
    """Unreadable images, one sentence each."""
    broken: int = 0
    """Pairs whose features were not finite in some view, a count."""


@dataclass
class ListLocalizer:
    """Measures one list, once.

    Args:
        thresholds_T: the grid.
        thresholds: those of the boxes that are kept; None keeps none, to choose them first.
    """

    world: World
    listed: MeasuredList
    config: LocalizeConfig
    looker: Looker
    thresholds_T: np.ndarray
    thresholds: Thresholds | None
    stop: StopFlag
    reporter: Reporter

    def __post_init__(self) -> None:
        self.looker.broken = 0
        self.found = FoundList(Localization(self.thresholds_T), PixelPrecision())
        drawn = self.config.gallery if self.thresholds else 0
        self._gallery = set(gallery_images(self.listed.image_set, drawn).tolist())

    def run(self) -> FoundList:
        """Looks at all images; called by all ranks.

        Raises:
            UserError: an image or mask that cannot be used, or scores that are not finite.
            Interrupted: after a signal.
        """
        world, parts = self.world, self.parts()
        stride, pin = self.looker.model.trunk.stride, world.device.type == "cuda"
        config = self.config
        loader = look_loader(
            self.listed.image_set, config.data, config.views, config.crops, stride, pin, world.pulse
        )
        done = 0
        with (
            one_pass(self.reporter, world.pulse, "looking for objects", len(parts)) as tell,
            closing(loader),
        ):
            for step, looks in enumerate(loader.load(parts, MEASURE), start=1):
                images = self._take(looks, done)
                done += images
                tell(step, images)
        return self._sum_up()

    def parts(self) -> list[np.ndarray]:
        """This rank's batches as indices into the image set; as many on every rank, some empty."""
        samples = self.listed.image_set.samples
        order_N = np.array(sorted(range(len(samples)), key=lambda i: samples[i].id), np.int64)
        size = self.config.batch_size
        batches = [order_N[i : i + size] for i in range(0, len(order_N), size)]
        while len(batches) % self.world.size:
            batches.append(order_N[:0])
        return batches[self.world.rank :: self.world.size]

    def _take(self, looks: list[Batch], done: int) -> int:
        """Measures one batch; returns the images of all ranks' batches.

        A problem of any rank, or a signal, ends all of them here, not after hours at the end.
        """
        problem, bad = None, looks[0].bad
        try:
            check_bad_images(bad, self.config.data.on_bad_image)
            if len(looks[0]):
                wanted_BC = looks[0].labels_BC.numpy()
                for index, looked in zip(
                    looks[0].index_B.tolist(), self.looker.look(looks, wanted_BC), strict=True
                ):
                    self._measure(index, looked)
        except UserError as error:
            problem = str(error)
        request = [len(looks[0]), problem is not None, bool(self.stop.reason)]
        images, problems, stops = self.world.sum(np.array(request, dtype=np.int64)).tolist()
        if problems:
            self.world.raise_first(problem)
        self.found.skipped += bad
        if stops:
            reason = next(r for r in self.world.gather(self.stop.reason) if r)
            raise Interrupted(
                f"stopped by {reason} after {done + images} of {len(self.listed.image_set)} "
                f"images ({self.listed.name}); nothing was left behind, start it again"
            )
        return images

    def _measure(self, index: int, looked: Looked) -> None:
        sample = self.listed.image_set.samples[index]
        size = read_size(sample.path)
        truth = self.listed.boxes.of(sample)
        maps_HW = {c: resize_map(looked.maps[c], *size) for c in sample.classes}
        found = {
            c: overlaps(map_HW, truth[c], self.thresholds_T, self.config.components)
            for c, map_HW in maps_HW.items()
        }
        self.found.counts.update(looked.ranked, found)
        if sample.mask is not None:
            self._count_pixels(sample, maps_HW)
        if self.thresholds is not None:
            self.found.images.append(self._keep(index, sample, size, looked, found))

    def _count_pixels(self, sample: Sample, maps_HW: dict[int, np.ndarray]) -> None:
        mask_HW = read_mask(sample.mask)
        self.found.masks += 1
        for class_index, map_HW in maps_HW.items():
            try:
                self.found.pixels.update(own_maximum(map_HW), mask_HW, class_index)
            except ValueError as error:
                raise UserError(f"mask {sample.mask}: {error}") from error

    def _keep(
        self,
        index: int,
        sample: Sample,
        size: tuple[int, int],
        looked: Looked,
        found: dict[int, Overlaps],
    ) -> LocalizedImage:
        threshold, components = self.thresholds.single, self.config.components
        position = int(np.flatnonzero(self.thresholds_T == threshold)[0])

        def guess(class_index: int) -> Guess:
            box = box_of(looked.maps[class_index], size, threshold, components)
            return Guess(class_index, float(looked.probability_C[class_index]), box)

        return LocalizedImage(
            sample.id,
            size,
            [guess(c) for c in looked.ranked],
            [guess(c) for c in sample.classes],
            [float(found[c].single_T[position]) for c in sample.classes],
            looked.maps[looked.ranked[0]] if index in self._gallery else None,
        )

    def _sum_up(self) -> FoundList:
        found, world = self.found, self.world
        found.counts.counts[...] = world.sum(found.counts.counts)
        found.pixels.counts[...] = world.sum(found.pixels.counts)
        counts_2 = np.array([found.masks, self.looker.broken], dtype=np.int64)
        found.masks, found.broken = world.sum(counts_2).tolist()
        images = [image for part in world.gather(found.images) for image in part]
        found.images = sorted(images, key=lambda image: image.id)
        found.skipped = [sentence for part in world.gather(found.skipped) for sentence in part]
        return found


def box_of(
    map_SS: np.ndarray, size: tuple[int, int], threshold: float, components: str
) -> Corners | None:
    """The box of a map over an image of (height, width) pixels; None where it attends to nothing.

    Args:
        threshold: share of the map's maximum.
        components: largest or all.
    """
    boxes_K4 = component_boxes(above(resize_map(map_SS, *size), threshold))
    box_4 = single_box(boxes_K4, components)
    return None if box_4 is None else tuple(box_4.tolist())
