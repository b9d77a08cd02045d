"""What happens after an epoch of `oaa integral`, and after the last one: the final maps.

After an epoch the current model is measured on the images of `evaluate`, in a single view. After
the last epoch RUN/attention/ is written, with the views of `views`, for every image; its figures
are those of the run, beside the figures of the maps that were learnt ("target").
"""

import dataclasses
import shutil
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import Interrupted
from dist_oaa.config.integral import IntegralConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.loader import MEASURE, Batch, BatchLoader
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.models.classifier import OnlineCAMClassifier
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import named_disk_errors
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.attending import Attender
from dist_oaa.stages.gallery import Gallery
from dist_oaa.stages.reporting import per_class_metrics, per_class_table
from dist_oaa.stages.tally import (
    ImageMaps,
    MapTally,
    Measurement,
    drawn_images,
    listed_images,
    measured_images,
    unit,
)
from dist_oaa.store.maps import MapSource

INTEGRAL, TARGET = "integral", "target"
KINDS = {TARGET: "target", INTEGRAL: "integral"}
"""Kinds of maps as metrics name them, with their titles."""
WRITTEN = "attention"


class IntegralEnd:
    """Measures the model after an epoch and writes the final maps, on all ranks; rank 0 shows it.

    Args:
        image_set: in the order of names.

    Raises:
        UserError: when the saliency folder does not exist.

    Attributes:
        loader: the training's, free between epochs; given before the first call.
        tracker: given likewise, on the first rank alone.
    """

    def __init__(
        self,
        config: IntegralConfig,
        world: World,
        image_set: ImageSet,
        source: MapSource,
        plan: Plan,
        model: OnlineCAMClassifier,
        stop: StopFlag,
        reporter: Reporter,
    ) -> None:
        self.config, self.world, self.image_set, self.source = config, world, image_set, source
        self.plan, self.model, self.stop, self.reporter = plan, model, stop, reporter
        self.folder = Path(config.run_dir) / WRITTEN
        names, limit = image_set.class_names, config.data.pixel_limit
        self._drawn = Gallery(Path(config.run_dir), names, limit, KINDS)
        self._gallery = world.agree(lambda: drawn_images(image_set, config.evaluate))
        self._single = self._attender(ViewsConfig())
        self.loader: BatchLoader | None = None
        self.tracker: Tracker | None = None

    def _attender(self, views: ViewsConfig) -> Attender:
        return Attender(
            self.world,
            self.image_set,
            self.config.data,
            views,
            self.config.evaluate,
            self.config.optim,
            self.model,
            "sigmoid",
            INTEGRAL,
            self.source.map_size,
            self.stop,
            self.reporter,
        )

    def __call__(self, at: Position) -> dict[str, float]:
        """The figures as of `at`; empty after an epoch that is not measured.

        Raises:
            UserError: when a mask cannot be used, or maps or pictures cannot be written.
            Interrupted: by a signal while the final maps were written.
        """
        settings = self.config.evaluate
        if at.epoch + 1 >= self.plan.epochs:
            return self.finish(at)
        if not settings.every_epochs or (at.epoch + 1) % settings.every_epochs:
            return {}
        chosen = self._gallery
        if any(sample.mask for sample in self.image_set.samples):
            names = listed_images(settings, self.image_set)
            measured = measured_images(self.image_set, settings.images, names)
            chosen = np.union1d(measured, chosen)
        found = self.measure(chosen)
        self.world.agree(lambda: self._show(found, at))
        return found.metrics | per_class_metrics(found, self.image_set.class_names)

    def measure(self, indices: np.ndarray) -> Measurement:
        """The current model on some images, in a single view.

        Raises:
            UserError: when an image or a mask cannot be used.
        """
        tally = MapTally(self.config.evaluate, self.config.data.root, self.image_set)
        pictures: list[ImageMaps] = []
        self.world.agree(lambda: self._local(indices, tally, pictures))
        tally.sum(self.world)
        images = [image for part in self.world.gather(pictures) for image in part]
        metrics = tally.figures(INTEGRAL)
        per_class = {INTEGRAL: tally.per_class} if tally.images_1[0] else {}
        return Measurement(metrics, per_class, sorted(images, key=lambda i: i.sample.id))

    def _part(self, indices: np.ndarray) -> np.ndarray:
        # By number and not by shard: measuring needs none of the resident targets.
        return indices[self.world.rank :: self.world.size]

    def _local(self, indices: np.ndarray, tally: MapTally, pictures: list[ImageMaps]) -> None:
        self.model.eval()
        optim, world = self.config.optim, self.world
        size = max(1, optim.batch_size // (optim.groups or world.size))
        parts = [indices[i : i + size] for i in range(0, len(indices), size)]
        for batch in self.loader.load(parts[world.rank :: world.size], MEASURE):
            for index, maps_KSS in self._maps(batch):
                sample = self.image_set.samples[index]
                tally.add(sample, maps_KSS)
                if index in self._gallery:
                    pictures.append(ImageMaps(sample, {INTEGRAL: maps_KSS}))

    def _maps(self, batch: Batch) -> list[tuple[int, np.ndarray]]:
        if len(batch) == 0:
            return []
        maps_PSS, _ = self._single.maps([batch])
        owner_P = batch.labels_BC.nonzero(as_tuple=True)[0].numpy()
        return [(i, unit(maps_PSS[owner_P == b])) for b, i in enumerate(batch.index_B.tolist())]

    def finish(self, at: Position) -> dict[str, float]:
        """Writes the final maps, in place of those of a shorter training; returns all figures.

        Raises:
            UserError: when an image or mask cannot be used, or the disk fails.
            Interrupted: by a signal; the checkpoint of the finished training stands.
        """
        targets = self._measure_targets()
        self.reporter.stop()  # the maps have a bar of their own
        self.reporter.say(f"writing the maps of {len(self.image_set)} images")
        attender = self._attender(self.config.views)
        self.world.only_first(self._clear)
        try:
            found = attender.run(self.folder)
        except Interrupted as error:
            raise Interrupted(
                f"the training is complete, but its maps are not ({error}): use --resume"
            ) from error
        at.skipped += attender.skipped
        found.metrics |= targets.metrics
        found.per_class |= targets.per_class
        self.world.agree(lambda: self._show(found, at))
        return found.metrics | per_class_metrics(found, self.image_set.class_names)

    def make_up(self, at: Position) -> dict[str, float]:
        """For a training that was finished before: writes its maps where they are missing.

        Returns:
            their figures, which are logged; empty where the maps are there.

        Raises:
            as `finish`.
        """
        if self.world.only_first(self.folder.is_dir):
            return {}
        last = dataclasses.replace(at, epoch=at.epoch - 1)
        metrics = self.finish(last)
        if self.tracker is not None:
            self.tracker.log(last.epoch, last.step, metrics, closes_epoch=True)
        return metrics

    def _clear(self) -> None:
        with named_disk_errors(str(self.folder)):
            if self.folder.exists():
                shutil.rmtree(self.folder)

    def _measure_targets(self) -> Measurement:
        """What was learnt, on all images that have masks."""
        mine = self._part(measured_images(self.image_set, 0)).tolist()
        samples = tuple(s for s in (self.image_set.samples[i] for i in mine) if s.mask)
        part = dataclasses.replace(self.image_set, samples=samples)
        tally = MapTally(self.config.evaluate, self.config.data.root, part)
        self.world.agree(lambda: tally.add_records(self.source.of({s.id for s in samples})))
        tally.sum(self.world)
        metrics = tally.figures(TARGET)
        return Measurement(metrics, {TARGET: tally.per_class} if metrics else {})

    def _show(self, found: Measurement, at: Position) -> None:
        if self.tracker is None:
            return
        table = per_class_table(found, self.image_set.class_names, KINDS)
        self.tracker.text("per_class", table, at.step)
        learnt = self._targets_of([image.sample for image in found.gallery])
        for image in found.gallery:
            image.maps[TARGET] = learnt[image.sample.id]
        with named_disk_errors(f"{self.config.run_dir}/pictures"):
            self._drawn.add(at.epoch, at.step, found.gallery, self.tracker)

    def _targets_of(self, samples: list[Sample]) -> dict[str, np.ndarray]:
        """Targets of some images, K x S x S; zero where there is no map."""
        size = self.source.map_size
        maps = {s.id: np.zeros((len(s.classes), size, size), np.float32) for s in samples}
        classes = {s.id: s.classes for s in samples}
        for image_id, class_index, map_SS in self.source.of(maps.keys()):
            maps[image_id][classes[image_id].index(class_index)] = unit(map_SS)
        return maps
