"""What a segmentation is worth and what it owes to anything but the images: for the terminal, for
evaluation.json, for TensorBoard and metrics.jsonl.
"""

import contextlib
import dataclasses
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dist_oaa.config.evaluate import EvaluationConfig
from dist_oaa.data.images import BadImageError, read_image, read_mask
from dist_oaa.data.sample import ImageSet
from dist_oaa.evaluation.boundary import BoundaryResult
from dist_oaa.evaluation.confusion_picture import confusion_picture
from dist_oaa.evaluation.pictures import grid, mask_colours, save_png
from dist_oaa.evaluation.segmentation import SegmentationResult
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.evaluating.evaluator import Found

FORMAT = 1
"""Of evaluation.json."""
STAGE = "evaluate"
MOST_ROWS = 41
"""Classes of the table; of more, those with the lowest IoU are shown."""


@dataclass(frozen=True)
class Report:
    """Everything that is said of a measured segmentation."""

    config: EvaluationConfig
    image_set: ImageSet
    found: Found
    supervision: list[str]
    """The audit lines."""
    step: int = 0
    """Optimiser steps of the checkpoint."""

    @property
    def names(self) -> tuple[str, ...]:
        """By palette value."""
        return ("background", *self.image_set.class_names)

    @cached_property
    def segmentation(self) -> SegmentationResult:
        """Overlap."""
        return self.found.confusion.result()

    @cached_property
    def boundary(self) -> BoundaryResult:
        """Outlines."""
        return self.found.boundary.result()

    @property
    def metrics(self) -> dict[str, float]:
        """segmentation/miou and so on, fractions from 0 to 1; empty where no image has a mask."""
        if not self.found.measured:
            return {}
        return {
            "segmentation/miou": self.segmentation.miou,
            "segmentation/boundary_f": self.boundary.f,
            "segmentation/pixel_accuracy": self.segmentation.pixel_accuracy,
            "segmentation/mean_accuracy": self.segmentation.mean_accuracy,
            "segmentation/ignored": self.segmentation.ignored,
        }

    @property
    def per_class(self) -> dict[str, float]:
        """IoU and boundary F-score of each class that occurs, as metrics.jsonl names them."""
        scores = {"iou": self.segmentation.per_class}
        scores["boundary_f"] = {k: f for k, (_, _, f) in self.boundary.per_class.items()}
        return {
            f"per_class/segmentation/{measure}/{self.names[value]}": score
            for measure, by_value in scores.items()
            for value, score in by_value.items()
        }

    @property
    def absent(self) -> list[str]:
        """Classes in no mask and in no prediction: they are in no mean."""
        return [n for k, n in enumerate(self.names) if k not in self.segmentation.per_class]

    def summary(self) -> dict[str, Any]:
        """What evaluation.json holds; the same at any number of ranks and processes."""
        config, found = self.config, self.found
        samples = self.image_set.samples
        return {
            "format": FORMAT,
            "checkpoint": config.checkpoint,
            "step": self.step,
            "predictions": config.predictions,
            "data": {"root": config.data.root, "split": config.data.split},
            "views": dataclasses.asdict(config.views),
            "crf": dataclasses.asdict(config.dense_crf) if config.crf else None,
            "boundary_tolerance": config.boundary_tolerance,
            "supervision": self.supervision,
            "class_names": list(self.image_set.class_names),
            "images": found.images,
            "measured": found.measured,
            "skipped": {samples[i].id: found.skipped[i] for i in sorted(found.skipped)},
            "absent": self.absent if found.measured else [],
            "metrics": {name: _exists(value) for name, value in self.metrics.items()},
            "per_class": [self._row(k) for k in self.segmentation.per_class],
            "confusion": found.confusion.counts.tolist(),
        }

    def _row(self, k: int) -> dict[str, Any]:
        precision, recall, f = self.boundary.per_class.get(k, (math.nan,) * 3)
        return {
            "class": self.names[k],
            "label": k,
            "iou": self.segmentation.per_class[k],
            "accuracy": self.segmentation.recall.get(k),
            "boundary_f": _exists(f),
            "boundary_precision": _exists(precision),
            "boundary_recall": _exists(recall),
        }

    def save(self, run_dir: Path) -> None:
        """Writes metrics and pictures; on rank 0.

        Raises:
            UserError, OSError: when the disk is full or not writable.
        """
        # Whatever an attempt that was killed at this very moment has logged is void.
        tracker = Tracker(run_dir, STAGE, resumed_step=-1)
        try:
            tracker.log(0, self.step, self.metrics | self.per_class)
            tracker.text("supervision", "\n\n".join(self.supervision), self.step)
            for name, picture in self.pictures().items():
                save_png(run_dir / "pictures" / f"{name}.png", picture)
                tracker.image(name, picture, self.step)
        finally:
            tracker.close()

    def pictures(self) -> dict[str, np.ndarray]:
        """By name: the confusion matrix, and a few images with prediction and truth."""
        drawn = {}
        if self.found.measured:
            drawn["confusion"] = confusion_picture(self.found.confusion.counts, self.names)
        rows, titles = [], []
        samples = self.image_set.samples
        for index in sorted(self.found.gallery, key=lambda i: samples[i].id):
            sample = samples[index]
            row: list[np.ndarray | None] = [None]
            # Label images in a folder can be measured without their images.
            with contextlib.suppress(BadImageError):
                row = [read_image(sample.path, self.config.data.pixel_limit)]
            row.append(mask_colours(self.found.gallery[index]))
            if sample.mask is not None:
                row.append(mask_colours(read_mask(sample.mask)))
            rows.append(row)
            titles.append(sample.id)
        if rows:
            prediction = "prediction after CRF" if self.config.crf else "prediction"
            columns = ["image", prediction, "truth"][: max(map(len, rows))]
            drawn["predictions"] = grid(rows, titles, columns)
        return drawn

    def table(self) -> Table:
        """Percentages of each class and their means, at most 80 columns wide."""
        rows = [self._row(k) for k in self.segmentation.per_class]
        title = f"segmentation of {self.found.measured} images, %"
        if len(rows) > MOST_ROWS:
            title += f" (the {MOST_ROWS} lowest of {len(rows)} classes)"
            rows = sorted(rows, key=lambda row: row["iou"])[:MOST_ROWS]
        table = Table(title=title, title_justify="left")
        table.add_column("class", overflow="fold", max_width=26)
        for heading in (
            "IoU",
            "accuracy",
            "boundary\nF",
            "boundary\nprecision",
            "boundary\nrecall",
        ):
            table.add_column(heading, justify="right", no_wrap=True)
        keys = ("iou", "accuracy", "boundary_f", "boundary_precision", "boundary_recall")
        for row in rows:
            table.add_row(row["class"], *(tenths(row[key]) for key in keys))
        table.add_section()
        means = [self.segmentation.miou, self.segmentation.mean_accuracy, self.boundary.f]
        table.add_row("mean", *map(tenths, means), "", "", style="bold")
        return table


def tenths(fraction: float | None) -> str:
    """A share as a percentage with one decimal; a dash where it does not exist."""
    return "-" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.1f}"


def as_json(summary: dict[str, Any]) -> bytes:
    """The summary as a file holds it, one matrix row a line."""
    rows = ",\n  ".join(json.dumps(row) for row in summary["confusion"])
    text = json.dumps(summary | {"confusion": []}, indent=1, ensure_ascii=False, allow_nan=False)
    # The matrix is the last entry; indented, each number would have a line of its own.
    return (text.removesuffix("[]\n}") + f"[\n  {rows}\n ]\n}}\n").encode()


def _exists(value: float) -> float | None:
    return None if math.isnan(value) else value
