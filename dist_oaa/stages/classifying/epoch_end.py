"""What happens after an epoch of `oaa classify`: measuring, and showing what was found."""

from pathlib import Path

import numpy as np

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import named_disk_errors
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.classifying.measure import INTEGRAL, Measurer
from dist_oaa.stages.classifying.stage import ClassifyStage
from dist_oaa.stages.gallery import KINDS, Gallery
from dist_oaa.stages.reporting import per_class_metrics, per_class_table
from dist_oaa.stages.tally import Measurement, listed_images, measured_images


class EpochEnd:
    """Measures after the epochs that `evaluate` asks for, on all ranks; rank 0 shows it.

    Args:
        tracker: None on other ranks than the first.
    """

    def __init__(
        self,
        config: ClassifyConfig,
        world: World,
        image_set: ImageSet,
        plan: Plan,
        measurer: Measurer,
        tracker: Tracker | None,
    ) -> None:
        self.config, self.world, self.image_set = config, world, image_set
        self.plan, self.measurer, self.tracker = plan, measurer, tracker
        branch = {INTEGRAL: "second branch"} if config.model.variant == "two_branch" else {}
        # The cumulative map comes last: the last one's evolution is drawn.
        self.kinds = {"cam": KINDS["cam"]} | branch | KINDS
        self.gallery = Gallery(
            Path(config.run_dir), image_set.class_names, config.data.pixel_limit, self.kinds
        )

    def __call__(self, stage: ClassifyStage, at: Position) -> dict[str, float]:
        """The figures as of `at`; empty after an epoch that is not measured.

        Raises:
            UserError: when a mask cannot be used, or the pictures cannot be written.
        """
        settings = self.config.evaluate
        last = at.epoch + 1 >= self.plan.epochs
        due = settings.every_epochs and (at.epoch + 1) % settings.every_epochs == 0
        if not (last or due):
            return {}
        names = listed_images(settings, self.image_set)
        chosen = measured_images(self.image_set, 0 if last else settings.images, names)
        found = self.measurer.measure(stage, np.union1d(chosen, self.measurer.gallery))
        self.world.agree(lambda: self._show(stage, found, at))
        return found.metrics | per_class_metrics(found, self.image_set.class_names)

    def _show(self, stage: ClassifyStage, found: Measurement, at: Position) -> None:
        if self.tracker is None:
            return
        table = per_class_table(found, self.image_set.class_names, self.kinds)
        self.tracker.text("per_class", table, at.step)
        with named_disk_errors(f"{self.config.run_dir}/pictures"):
            self.gallery.add(at.epoch, at.step, found.gallery, self.tracker)
            self.gallery.add_occluded(at.step, stage.drop.examples, self.tracker)
