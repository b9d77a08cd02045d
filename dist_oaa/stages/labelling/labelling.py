"""All images of a set from maps to labels: the sweep for the background first, where it is asked
for, then the labels, both spread over processes and ranks.

Shapes: K classes of one image, SS the square grid of a map, C object classes, V palette values.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from dist_oaa.config.data import DataConfig
from dist_oaa.config.labels import LabelsConfig
from dist_oaa.data.loader import check_bad_images
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.background import SweepChoice, ThresholdSweep
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.labelling.labeller import (
    Labelled,
    Labeller,
    LabelTask,
    label_one,
    sweep_image,
)
from dist_oaa.stages.labelling.pool import WorkerPool
from dist_oaa.stages.labelling.rounds import share, work_through
from dist_oaa.stages.tally import gallery_images, unit
from dist_oaa.store.maps import MapSource

VALUES = 256
"""Palette values of a label image."""


@dataclass
class Drawn:
    """One image of the gallery."""

    sample: Sample
    attention_SS: np.ndarray | None
    """The largest of its maps in each cell, float32; None where it has none."""
    label_HW: np.ndarray
    saliency_HW: np.ndarray | None


@dataclass
class Found:
    """What the labels are, the same on every rank."""

    threshold: float
    """Score of the background; without meaning where there is saliency."""
    choice: SweepChoice | None
    """How it was chosen; None where it was not swept."""
    labels: Confusion
    """The labels against the masks."""
    dense: Confusion
    """The same with nothing ignored."""
    measured: int
    """Images with a mask."""
    pixels_V: np.ndarray
    """int64: pixels of each palette value over all labels."""
    skipped: dict[str, str]
    """Unreadable images by name, each with its sentence."""
    empty: list[str]
    """Images without any attention, which are ignored whole."""
    without_map: int
    """Pairs of the other images that have no map, or one that is zero everywhere."""
    gallery: list[Drawn]


@dataclass
class Labelling:
    """Labels every image of a set once, on all ranks together; see `run`."""

    world: World
    reporter: Reporter
    stop: StopFlag
    image_set: ImageSet
    """In the order of names."""
    data: DataConfig
    labels: LabelsConfig
    source: MapSource
    saliency_dir: Path | None
    processes: int
    """Of this rank."""
    gallery: int
    _attention: dict[str, np.ndarray] = field(default_factory=dict, init=False)
    _empty: list[str] = field(default_factory=list, init=False)
    _without_map: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        samples = self.image_set.samples
        self._mine = share(self.world, samples)
        self._drawn = {samples[i].id for i in gallery_images(self.image_set, self.gallery)}

    def run(self, folder: Path) -> Found:
        """Writes the labels into a folder, as ID.png; called by all ranks, once.

        Raises:
            UserError: when an image (with data.on_bad_image stop), mask, map or saliency map
                cannot be used, or the disk fails.
            RunError: when a process died.
            Interrupted: after a signal.
        """
        num_classes = len(self.image_set.class_names)
        limit = self.data.pixel_limit
        made = (self.labels, self.saliency_dir, num_classes, limit, folder)
        with WorkerPool(self.processes, Labeller, *made) as pool:
            choice = self._sweep(pool) if self.sweeps else None
            threshold = choice.threshold if choice else self.labels.background.threshold
            found = Found(
                threshold,
                choice,
                Confusion(num_classes),
                Confusion(num_classes),
                *(0, np.zeros(VALUES, np.int64), {}, [], 0, []),
            )
            self.reporter.say("labels")
            results = pool.map(label_one, self._tasks(threshold), self.stop)
            take = partial(self._take, found)
            work_through(self.world, self.reporter, results, len(self.image_set), take)
        self._gather(found)
        return found

    @property
    def sweeps(self) -> bool:
        """Whether the background's threshold is chosen by looking at all images first."""
        return self.labels.saliency == "none" and self.labels.background.method == "sweep"

    def _sweep(self, pool: WorkerPool) -> SweepChoice:
        self.reporter.say("background: trying thresholds on all images (no labels, no masks)")
        sweep = ThresholdSweep(self.labels.background)

        def take(counts: np.ndarray | None) -> None:
            if counts is not None:
                sweep.counts += counts

        results = pool.map(sweep_image, self._tasks(0.0), self.stop)
        work_through(self.world, self.reporter, results, len(self.image_set), take)
        sweep.counts[...] = self.world.sum(sweep.counts)
        return sweep.result()

    def _tasks(self, threshold: float) -> Iterator[LabelTask]:
        """This rank's images: those with maps as the source reads them, then the others."""
        self._attention, self._empty, self._without_map = {}, [], 0
        left = {sample.id: sample for sample in self._mine}
        records = self.source.of(left.keys())
        # A store and a folder both give an image's maps one after another.
        for image_id, group in itertools.groupby(records, key=lambda record: record[0]):
            maps = {c: unit(map_SS) for _, c, map_SS in group if map_SS.any()}
            yield self._task(left.pop(image_id), maps, threshold)
        for sample in left.values():
            yield self._task(sample, {}, threshold)

    def _task(self, sample: Sample, maps: dict[int, np.ndarray], threshold: float) -> LabelTask:
        classes = tuple(c for c in sample.classes if c in maps)
        if not classes:
            self._empty.append(sample.id)
        else:
            self._without_map += len(sample.classes) - len(classes)
        size = self.source.map_size
        maps_KSS = np.array([maps[c] for c in classes], np.float32).reshape(-1, size, size)
        keep = sample.id in self._drawn
        if keep and classes:
            self._attention[sample.id] = maps_KSS.max(axis=0)
        return LabelTask(sample, classes, maps_KSS, threshold, keep)

    def _take(self, found: Found, labelled: Labelled) -> None:
        if labelled.bad:
            check_bad_images([labelled.bad], self.data.on_bad_image)
            found.skipped[labelled.image_id] = labelled.bad
            return
        found.pixels_V += labelled.pixels_V
        if labelled.labels is not None:
            found.labels.counts += labelled.labels
            found.dense.counts += labelled.dense
            found.measured += 1
        if labelled.label_HW is not None:
            found.gallery.append(
                Drawn(
                    next(s for s in self._mine if s.id == labelled.image_id),
                    self._attention.get(labelled.image_id),
                    labelled.label_HW,
                    labelled.saliency_HW,
                )
            )

    def _gather(self, found: Found) -> None:
        """Puts together what the ranks found."""
        for counts in (found.labels.counts, found.dense.counts, found.pixels_V):
            counts[...] = self.world.sum(counts)
        numbers = np.array([found.measured, self._without_map])
        found.measured, found.without_map = self.world.sum(numbers).tolist()
        parts = self.world.gather((found.skipped, self._empty, found.gallery))
        found.skipped = dict(sorted(item for part in parts for item in part[0].items()))
        found.empty = sorted({name for part in parts for name in part[1]} - found.skipped.keys())
        found.gallery = sorted(
            (drawn for part in parts for drawn in part[2]), key=lambda drawn: drawn.sample.id
        )
