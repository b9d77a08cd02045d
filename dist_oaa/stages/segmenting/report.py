"""What `oaa segment` says and shows, and the record of its supervision."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from dist_oaa.config.segment import SegmentConfig
from dist_oaa.data.label_images import Fault, LabelledImages
from dist_oaa.data.sample import ImageSet
from dist_oaa.evaluation.pictures import grid, mask_colours, save_png
from dist_oaa.evaluation.segmentation import SegmentationResult
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.files import named_disk_errors, write_atomic
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.tracking import Comparison, Tracker
from dist_oaa.stages.reporting import percent, say_resumed
from dist_oaa.stages.run_settings import SUPERVISION
from dist_oaa.stages.segmenting.labels import LabelFolder, Training
from dist_oaa.stages.training import machine

CHARTS = {
    "segmentation": {
        "mIoU per epoch": ["Multiline", ["segmentation/miou", "segmentation/pixel_accuracy"]],
    },
    "training": {
        "loss": ["Multiline", ["train/loss", "train/epoch_loss"]],
        "labelled pixels": ["Multiline", ["train/labelled_pixels"]],
    },
}
COLUMNS = 3
"""Classes side by side in the table."""


@dataclass(frozen=True)
class Origin:
    """What a run was made from."""

    training: Training
    labels: LabelFolder
    weights: str
    """Where the weights that training starts from are from."""

    def supervision(self, config: SegmentConfig) -> list[str]:
        """The audit lines: all that the network owes to anything but the images."""
        training, made = self.training, self.labels.supervision
        images, true = len(training.samples), training.true_masks
        labels = f"label images of {self.labels.folder} for {images - true} of {images} images"
        lines = [f"supervision: {labels if true < images else 'no label images'}"]
        if true:
            lines.append(
                f"TRUE MASKS of {true} of {images} images "
                f"(data.pixel_fraction {config.data.pixel_fraction:g})"
            )
        if true < images:
            first = f"the labels: {made[0].removeprefix('supervision: ')}" if made else ""
            lines += [first or "how the labels were made is not recorded beside them", *made[1:]]
        lines.append(f"weights: {self.weights}")
        return lines


def announce(
    reporter: Reporter,
    config: SegmentConfig,
    world: World,
    origin: Origin,
    validation: ImageSet | None,
    changes: list[str],
    position: Position,
) -> None:
    """Says what is about to run."""
    training = origin.training
    images, true = len(training.samples), training.true_masks
    share = f" (data.fraction {config.data.fraction:g})" if config.data.fraction < 1 else ""
    labels = f"labels from {origin.labels.folder}" if true < images else "no label images"
    reporter.say(f"{images} of {training.of} images{share}, {labels}")
    if true:
        reporter.say(
            f"note: {true} of them are trained on with their TRUE masks "
            f"(data.pixel_fraction {config.data.pixel_fraction:g})"
        )
    if training.skipped:
        reporter.say(f"note: {training.skipped} images have no label, as labels.json says")
    if validation is None:
        reporter.say("nothing is measured while it trains (evaluate.split is empty or has no list)")
    else:
        reporter.say(f"measured on {len(validation)} images of the list {config.evaluate.split}")
    network = config.network
    reporter.say(f"{network.architecture} on {network.backbone}: {origin.weights}")
    reporter.say(f"{machine(world)}; run directory {config.run_dir}")
    if config.segment.shards % world.size:
        reporter.say(
            f"note: {config.segment.shards} shards on {world.size} processes: some visit more "
            "images than others; a multiple of the processes balances them"
        )
    if config.resume:
        say_resumed(reporter, position, changes)


def record_supervision(config: SegmentConfig, origin: Origin) -> None:
    """Writes RUN/supervision.json, what later stages say of this network; on rank 0.

    Raises:
        UserError: when the disk is full or not writable.
    """
    training = origin.training
    record = {
        "labels": config.labels,
        "images": len(training.samples),
        "true_masks": training.true_masks,
        "supervision": origin.supervision(config),
    }
    path = Path(config.run_dir) / SUPERVISION
    with named_disk_errors(str(path)):
        write_atomic(path, (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode())


def note_supervision(config: SegmentConfig, origin: Origin, tracker: Tracker) -> None:
    """Says in TensorBoard what the training learns from; on rank 0.

    Raises:
        UserError: when the disk is full or fails.
    """
    tracker.text("supervision", "\n\n".join(origin.supervision(config)), 0)


def draw_inputs(config: SegmentConfig, images: LabelledImages, tracker: Tracker) -> None:
    """Draws a few images and their labels as the first epoch trains on them; on rank 0.

    Raises:
        UserError: when the disk is full or not writable.
    """
    count = min(config.evaluate.gallery, len(images))
    picks = np.linspace(0, len(images) - 1, count).round().astype(int).tolist()
    items = [images[index, 0] for index in picks]
    # Whatever is at fault here is reported by the training itself.
    shown = [item for item in items if not isinstance(item, Fault)]
    if not shown:
        return
    page = grid(
        [[image_HW3, mask_colours(label_HW)] for _, image_HW3, label_HW in shown],
        [
            images.samples[index].id + (" (true mask)" if images.samples[index].is_truth else "")
            for index, _, _ in shown
        ],
        ["input", "label"],
    )
    folder = Path(config.run_dir) / "pictures"
    with named_disk_errors(str(folder)):
        save_png(folder / "inputs.png", page)
        tracker.image("inputs", page, 0)


def conclude(
    reporter: Reporter,
    config: SegmentConfig,
    origin: Origin,
    class_names: tuple[str, ...],
    position: Position,
    metrics: dict[str, float],
    result: SegmentationResult | None,
) -> None:
    """Prints the result and how it was supervised."""
    if not metrics:
        reporter.say(f"{config.run_dir} is complete: {position.epoch} epochs were done before")
        return
    for sentence in list(dict.fromkeys(position.skipped))[:10]:
        reporter.say(f"skipped: {sentence}")
    if metrics.get("train/blank_crops"):
        reporter.say(
            f"note: {metrics['train/blank_crops']:.0f} crops of the last epoch had no labelled "
            "pixel and taught nothing"
        )
    if "segmentation/miou" in metrics:
        reporter.console.print(iou_table(result, class_names))
        reporter.say(
            f"mIoU {100 * result.miou:.1f} % over the {len(result.per_class)} labels that occur, "
            f"pixel accuracy {percent(result.pixel_accuracy)} (list {config.evaluate.split}, "
            "single view, no CRF)"
        )
    first, *others = origin.supervision(config)
    for line in [first, *(f"  {line}" for line in others)]:
        reporter.say(line)
    if "segmentation/miou" in metrics:
        reporter.say(
            f"  masks of the list {config.evaluate.split} were read for these figures only"
        )
    reporter.say(f"pictures: {config.run_dir}/pictures")
    reporter.say(f"curves: tensorboard --logdir {config.run_dir}")


def iou_table(result: SegmentationResult, class_names: tuple[str, ...]) -> Table:
    """IoU of each class, a few classes a row, at most 80 columns wide; absent ones show a dash."""
    table = Table(title="IoU by class, %", title_justify="left")
    for _ in range(COLUMNS):
        table.add_column("class", overflow="fold", max_width=15)
        table.add_column("IoU", justify="right", no_wrap=True)
    values = [result.per_class.get(k, math.nan) for k in range(len(class_names) + 1)]
    cells = [
        (name, "-" if math.isnan(value) else f"{100 * value:.1f}")
        for name, value in zip(("background", *class_names), values, strict=True)
    ]
    rows = -(-len(cells) // COLUMNS)
    cells += [("", "")] * (rows * COLUMNS - len(cells))
    for row in range(rows):
        table.add_row(*(text for cell in cells[row::rows] for text in cell))
    return table


def comparison(config: SegmentConfig) -> Comparison:
    """How TensorBoard compares runs of this stage."""
    settings = {
        "architecture": config.network.architecture,
        "backbone": config.network.backbone,
        "batch_norm": config.network.batch_norm,
        "crop": config.data.augment.crop,
        "loss": config.segment.loss,
        "pixel_fraction": config.data.pixel_fraction,
        "fraction": config.data.fraction,
        "lr": config.optim.lr,
        "epochs": config.optim.epochs,
        "batch_size": config.optim.batch_size,
    }
    return Comparison(settings, lambda name: name.startswith("segmentation/"))
