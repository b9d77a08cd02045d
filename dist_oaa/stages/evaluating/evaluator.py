"""All images of a set on all ranks together: each is segmented and measured exactly once.

Rank r of W takes the images r, r + W, ... in name order, and no rank repeats one to fill up. What
they count are integers, so that the figures do not depend on the world size.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np

from dist_oaa.config.errors import Interrupted, RunError, UserError
from dist_oaa.data.sample import ImageSet
from dist_oaa.evaluation.boundary import BoundaryScore
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.evaluating.measuring import Measured, Measurer, Segmented, measure_one
from dist_oaa.stages.evaluating.segmenting import FolderSegmenter, NetworkSegmenter
from dist_oaa.stages.labelling.pool import WorkerPool
from dist_oaa.stages.labelling.rounds import share, work_through


@dataclass
class Found:
    """What the images gave: of one rank while it works, of all ranks after `sum`."""

    confusion: Confusion
    boundary: BoundaryScore
    images: int = 0
    """Images that were segmented."""
    measured: int = 0
    """Those of them that have a mask."""
    skipped: dict[int, str] = field(default_factory=dict)
    """By position: why an image could not be read."""
    gallery: dict[int, np.ndarray] = field(default_factory=dict)
    """By position: label images to be drawn."""

    def take(self, one: Measured) -> None:
        """Adds one image."""
        if one.bad:
            self.skipped[one.index] = one.bad
            return
        self.images += 1
        if one.confusion is not None:
            self.measured += 1
            self.confusion.counts += one.confusion
            self.boundary.counts += one.boundary
        if one.label_HW is not None:
            self.gallery[one.index] = one.label_HW

    def sum(self, world: World) -> None:
        """Adds up what all ranks have; each then has the whole. Called by all, once."""
        for counts in (self.confusion.counts, self.boundary.counts):
            counts[...] = world.sum(counts)
        self.images, self.measured = world.sum(np.array([self.images, self.measured])).tolist()
        for mine in (self.skipped, self.gallery):
            for part in world.gather(dict(mine)):
                mine.update(part)


@dataclass(frozen=True)
class Evaluator:
    """Segments and measures a set of images."""

    world: World
    image_set: ImageSet
    segmenter: NetworkSegmenter | FolderSegmenter
    measurer: Measurer
    """Its folders are made anew, and taken away again after a failure."""
    processes: int
    """Processes of this rank that refine and measure; 0 does it in this one."""
    stop: StopFlag
    reporter: Reporter

    def run(self, conclude: Callable[[Found], None]) -> Found:
        """Does everything; called by all ranks, once.

        Args:
            conclude: called on rank 0 when all images are done, to publish the results.

        Raises:
            UserError, RunError, Interrupted: on all ranks; the folders are gone then.
        """
        classes = self.measurer.num_classes
        found = Found(Confusion(classes), BoundaryScore(classes, self.measurer.tolerance))
        self.world.only_first(self._make_folders)
        try:
            self._work(found)
            found.sum(self.world)
            self.world.only_first(lambda: conclude(found))
        except (UserError, RunError, Interrupted):
            # Raised by all ranks after the same round, and their processes have ended: nobody is
            # still writing.
            self.world.barrier()
            if self.world.is_first:
                self._remove_folders()
            raise
        return found

    def order(self) -> list[int]:
        """This rank's images, as positions in the image set."""
        samples = self.image_set.samples
        return share(self.world, sorted(range(len(samples)), key=lambda i: samples[i].id))

    def _work(self, found: Found) -> None:
        tasks = self.segmenter.segment(self.order())
        with ExitStack() as stack:
            if self.processes:
                fields = [getattr(self.measurer, f.name) for f in dataclasses.fields(Measurer)]
                pool = stack.enter_context(WorkerPool(self.processes, Measurer, *fields))
                results = pool.map(measure_one, tasks, self.stop)
            else:
                results = self._here(tasks)
            work_through(self.world, self.reporter, results, len(self.image_set), found.take)

    def _here(self, tasks: Iterable[Segmented]) -> Iterator[Measured]:
        for task in tasks:
            if self.stop.reason:
                raise Interrupted(f"stopped by {self.stop.reason}")
            yield measure_one(self.measurer, task)

    def _make_folders(self) -> None:
        self._remove_folders()
        for folder in self.measurer.folders:
            folder.mkdir(parents=True)

    def _remove_folders(self) -> None:
        for folder in self.measurer.folders:
            shutil.rmtree(folder, ignore_errors=True)
