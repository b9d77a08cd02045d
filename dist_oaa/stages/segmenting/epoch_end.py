"""What happens after an epoch of `oaa segment`: the network on the validation images.

Each image is looked at once, in a single view at the size of training, and its prediction counted
at the image's own size. Images are shared among the ranks by number, none twice.

Shapes: L label channels, H x W pixels of an image.
"""

from pathlib import Path

import cv2
import numpy as np

from dist_oaa.config.segment import SegmentConfig
from dist_oaa.data.images import BadImageError, read_image
from dist_oaa.data.label_images import read_label
from dist_oaa.data.loader import check_bad_images
from dist_oaa.data.palette import write_label
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.pictures import grid, mask_colours, save_png
from dist_oaa.evaluation.segmentation import Confusion, SegmentationResult
from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.models.segmentation.scoring import Scorer
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import named_disk_errors
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.tally import gallery_images, measured_images

DRAWN = 480
"""Longest side of a picture that is kept to be drawn, in pixels."""
PREDICTIONS = "predictions.png"


class Validation:
    """Measures the network on all ranks; rank 0 shows it.

    Args:
        image_set: the validation images in the order of names, or None to measure nothing.
        trained_on: the training images in the order of names; a few of them, the same that the
            stages before have drawn, are predicted after the last epoch.

    Attributes:
        tracker: given before the first call, on the first rank alone.
        result: the last measurement, the same on every rank.
    """

    def __init__(
        self,
        config: SegmentConfig,
        world: World,
        image_set: ImageSet | None,
        trained_on: ImageSet,
        plan: Plan,
        network: SegmentationNetwork,
    ) -> None:
        self.config, self.world, self.image_set, self.plan = config, world, image_set, plan
        self._trained_on = trained_on
        self._scorer = Scorer(
            network,
            world.device,
            tile=config.evaluate.tile,
            precision=config.optim.precision,
            size=config.data.size if config.data.resize == "short_side" else 0,
        )
        self.tracker: Tracker | None = None
        self.result: SegmentationResult | None = None

    def __call__(self, at: Position) -> dict[str, float]:
        """The figures as of `at`; empty where nothing has a mask or is due.

        Raises:
            UserError: an image or a mask cannot be used, or a picture cannot be written.
        """
        settings, image_set = self.config.evaluate, self.image_set
        last = at.epoch + 1 >= self.plan.epochs
        due = settings.every_epochs and (at.epoch + 1) % settings.every_epochs == 0
        if last:
            self.world.only_first(self._predict_trained)
        if image_set is None or not (last or due):
            return {}
        drawn = gallery_images(image_set, settings.gallery)
        chosen = drawn
        if any(sample.mask for sample in image_set.samples):
            measured = measured_images(image_set, 0 if last else settings.images)
            chosen = np.union1d(measured, drawn)
        return self._measure([image_set.samples[i] for i in chosen], set(drawn.tolist()), at)

    def _predict_trained(self) -> None:
        """Predictions of a few training images, as RUN/pictures/predictions/ID.png."""
        folder = Path(self.config.run_dir) / "pictures" / "predictions"
        data, samples = self.config.data, self._trained_on.samples
        for index in gallery_images(self._trained_on, self.config.evaluate.gallery):
            try:
                image_HW3 = read_image(samples[index].path, data.pixel_limit)
            except BadImageError as error:
                check_bad_images([str(error)], data.on_bad_image)
                continue
            with named_disk_errors(str(folder)):
                write_label(folder / f"{samples[index].id}.png", self._label(image_HW3))

    def _label(self, image_HW3: np.ndarray) -> np.ndarray:
        probabilities_LHW = self._scorer.probabilities(image_HW3)
        return probabilities_LHW.argmax(dim=0).to("cpu").numpy().astype(np.uint8)

    def _measure(self, samples: list[Sample], drawn: set[int], at: Position) -> dict[str, float]:
        confusion = Confusion(len(self.image_set.class_names))
        kept: list[tuple[str, list[np.ndarray]]] = []
        bad: list[str] = []
        names = {self.image_set.samples[i].id for i in drawn}
        mine = samples[self.world.rank :: self.world.size]
        self.world.agree(lambda: self._local(mine, names, confusion, kept, bad))
        at.skipped += [sentence for part in self.world.gather(bad) for sentence in part]
        confusion.counts[...] = self.world.sum(confusion.counts)
        pictures = sorted((row for part in self.world.gather(kept) for row in part), key=by_name)
        self.world.agree(lambda: self._show(pictures, at))
        self.result = confusion.result()
        return figures(self.result, self.image_set.class_names) if confusion.counts.any() else {}

    def _local(
        self,
        samples: list[Sample],
        drawn: set[str],
        confusion: Confusion,
        kept: list[tuple[str, list[np.ndarray]]],
        bad: list[str],
    ) -> None:
        data = self.config.data
        for sample in samples:
            try:
                image_HW3 = read_image(sample.path, data.pixel_limit)
            except BadImageError as error:
                check_bad_images([str(error)], data.on_bad_image)
                bad.append(str(error))
                continue
            label_HW = self._label(image_HW3)
            shown = [image_HW3, mask_colours(label_HW)]
            if sample.mask is not None:
                truth_HW = read_label(sample.mask, label_HW.shape, confusion.num_classes)
                confusion.update(label_HW, truth_HW)
                shown.append(mask_colours(truth_HW))
            if sample.id in drawn:
                kept.append((sample.id, [small(picture) for picture in shown]))

    def _show(self, pictures: list[tuple[str, list[np.ndarray]]], at: Position) -> None:
        if self.tracker is None or not pictures:
            return
        columns = ["image", "prediction", "truth (not trained on)"]
        page = grid(
            [row for _, row in pictures],
            [name for name, _ in pictures],
            columns[: max(len(row) for _, row in pictures)],
        )
        folder = Path(self.config.run_dir) / "pictures"
        with named_disk_errors(str(folder)):
            save_png(folder / PREDICTIONS, page)
            self.tracker.image("predictions", page, at.step)


def by_name(row: tuple[str, list[np.ndarray]]) -> str:
    """What pictures are sorted by."""
    return row[0]


def small(picture_HW3: np.ndarray) -> np.ndarray:
    """The picture at most DRAWN pixels long, every pixel one of its own."""
    height, width = picture_HW3.shape[:2]
    factor = DRAWN / max(height, width)
    if factor >= 1:
        return picture_HW3
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(picture_HW3, size, interpolation=cv2.INTER_NEAREST_EXACT)


def figures(result: SegmentationResult, class_names: tuple[str, ...]) -> dict[str, float]:
    """What metrics.jsonl holds of a measurement."""
    names = ("background", *class_names)
    per_class = {f"per_class/segmentation/iou/{names[k]}": v for k, v in result.per_class.items()}
    return {
        "segmentation/miou": result.miou,
        "segmentation/pixel_accuracy": result.pixel_accuracy,
        **per_class,
    }
