"""What a localisation is worth and what it owes to anything but the images: for the terminal, for
boxes.json, for TensorBoard and metrics.jsonl.
"""

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dist_oaa.config.localize import LocalizeConfig
from dist_oaa.data.images import read_image
from dist_oaa.evaluation.box_pictures import draw_boxes
from dist_oaa.evaluation.boxes import best_iou
from dist_oaa.evaluation.localization import IOUS, Thresholds
from dist_oaa.evaluation.pictures import grid, overlay, save_png
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.localizing.lists import Lists
from dist_oaa.stages.localizing.localizer import FoundList, Guess, LocalizedImage
from dist_oaa.stages.trained import Trained

FORMAT = 1
"""Of boxes.json."""
STAGE = "localize"
KIND = "localization"
BOUND = "this list: an upper bound"


@dataclass(frozen=True)
class Report:
    """Everything that is said of a measured list."""

    config: LocalizeConfig
    trained: Trained
    lists: Lists
    found: FoundList
    thresholds: Thresholds
    chosen_on: FoundList | None
    """The validation list, measured; None where the threshold is fixed."""

    @property
    def how(self) -> str:
        """Where the thresholds come from, in a word or two."""
        return "fixed" if self.chosen_on is None else "validation list, frozen"

    @cached_property
    def swept(self) -> dict[str, float]:
        """The measures at the thresholds that are best for the reported list."""
        return self.found.counts.at(self.found.counts.best())

    @cached_property
    def metrics(self) -> dict[str, float]:
        """localization/top1 and so on, fractions from 0 to 1.

        Those whose name ends in _swept have their threshold from the reported list itself, all
        others from elsewhere.
        """
        counts = self.found.counts
        named = {f"{KIND}/{name}": value for name, value in counts.at(self.thresholds).items()}
        named |= {
            f"{KIND}/{name}_swept": self.swept[name] for name in ("max_box_acc", "max_box_acc_v2")
        }
        if self.found.masks:
            named[f"{KIND}/pxap"] = self.found.pixels.result()
        named |= {f"classifier/{name}": value for name, value in counts.accuracy().items()}
        named[f"{KIND}/threshold"] = self.thresholds.single
        return named

    @property
    def supervision(self) -> list[str]:
        """The audit lines."""
        lists, images = self.lists, self.lists.reported.image_set
        lines = [
            f"supervision: image-level labels from {images.label_source}; CRF none",
            f"checkpoint {self.config.checkpoint} at step {self.trained.step}, trunk weights "
            f"{self.trained.config.weights}; saliency none",
            f"boxes from {lists.reported.boxes.source} were read for these figures only",
        ]
        if lists.validation is None:
            lines.append(f"threshold {self.thresholds.single:g} of each map's maximum: fixed")
        else:
            lines.append(
                f"threshold {self.thresholds.single:g} of each map's maximum: chosen on the boxes "
                f"of {len(lists.validation.image_set)} images ({lists.validation.name}), frozen"
            )
        if lists.trained_on is None:
            lines.append("how many of these images were trained on is unknown: that list is gone")
        elif lists.trained_on:
            lines.append(
                f"note: the checkpoint was trained on {lists.trained_on} of these "
                f"{len(images)} images"
            )
        if self.found.masks:
            lines.append(f"masks of {self.found.masks} images were read for PxAP only")
        return lines

    def table(self) -> Table:
        """Percentages, each with its threshold and where that comes from; 80 columns wide."""
        counts, at = self.found.counts, self.thresholds
        values, best = counts.at(at), counts.best()
        accuracy = counts.accuracy()
        table = Table(
            title=f"localisation in {counts.images} images, %",
            title_justify="left",
            caption=f"threshold: share of a map's maximum; {self.config.components} component"
            f"{'s' * (self.config.components == 'all')}; v2: IoU .3 .5 .7",
            caption_justify="left",
        )
        table.add_column("measure", overflow="fold")
        table.add_column("%", justify="right", no_wrap=True)
        table.add_column("threshold", no_wrap=True)
        table.add_column("chosen on", overflow="fold")
        one, v2 = f"{at.single:.2f}", spaced(at.components)
        table.add_row("top-1 localisation", percent(values["top1"]), one, self.how)
        table.add_row("top-5 localisation", percent(values["top5"]), one, self.how)
        table.add_row("GT-known", percent(values["gt_known"]), one, self.how)
        acc = percent(values["max_box_acc"])
        table.add_row("MaxBoxAcc", acc, f"{at.largest:.2f}", self.how)
        table.add_row("MaxBoxAccV2", percent(values["max_box_acc_v2"]), v2, self.how)
        table.add_section()
        row = percent(self.swept["max_box_acc"])
        table.add_row("MaxBoxAcc, as published", row, f"{best.largest:.2f}", BOUND)
        row = percent(self.swept["max_box_acc_v2"])
        table.add_row("MaxBoxAccV2, as published", row, spaced(best.components), BOUND)
        table.add_section()
        if self.found.masks:
            table.add_row("PxAP", percent(self.found.pixels.result()), "-", "needs none")
        table.add_row("top-1 class", percent(accuracy["top1"]), "-", "needs none")
        table.add_row("top-5 class", percent(accuracy["top5"]), "-", "needs none")
        return table

    def summary(self) -> dict[str, Any]:
        """What boxes.json holds; the same at any number of ranks."""
        config, lists = self.config, self.lists
        validation = None
        if lists.validation is not None and self.chosen_on is not None:
            validation = {
                "list": lists.validation.name,
                "images": self.chosen_on.counts.images,
                "metrics": exists(self.chosen_on.counts.at(self.thresholds)),
            }
        return {
            "format": FORMAT,
            "convention": "box: x0 y0 x1 y1 in pixels of the stored image, x1 and y1 exclusive",
            "checkpoint": config.checkpoint,
            "step": self.trained.step,
            "data": {"root": config.data.root, "list": lists.reported.name},
            "boxes": {
                "source": lists.reported.boxes.source,
                "clipped": lists.reported.boxes.clipped,
            },
            "views": dataclasses.asdict(config.views),
            "class_from": config.crops.phrase(),
            "components": config.components,
            "thresholds": {
                "how": self.how,
                "box": self.thresholds.single,
                "max_box_acc": self.thresholds.largest,
                "max_box_acc_v2": dict(
                    zip(map(str, IOUS), self.thresholds.components, strict=True)
                ),
            },
            "validation": validation,
            "supervision": self.supervision,
            "class_names": list(lists.reported.image_set.class_names),
            "metrics": exists(self.metrics),
            "skipped": self.found.skipped,
            "images": [self._record(image) for image in self.found.images],
        }

    def _record(self, image: LocalizedImage) -> dict[str, Any]:
        names = self.lists.reported.image_set.class_names
        truth = self.lists.reported.boxes.by_image[image.id]

        def said(guess: Guess) -> dict[str, Any]:
            return {
                "class": names[guess.class_index],
                "probability": round(guess.probability, 6),
                "box": guess.box,
            }

        return {
            "id": image.id,
            "height": image.size[0],
            "width": image.size[1],
            "predicted": [said(guess) for guess in image.guesses],
            "true": [
                said(guess) | {"iou": round(iou, 6)}
                for guess, iou in zip(image.true, image.iou, strict=True)
            ],
            "truth": [{"class": names[box.class_index], "box": box.corners} for box in truth],
        }

    def save(self, run_dir: Path) -> None:
        """Writes metrics and pictures; on rank 0.

        Raises:
            UserError, OSError: when the disk is full or not writable.
        """
        # Whatever an attempt that was killed at this very moment has logged is void.
        tracker = Tracker(run_dir, STAGE, resumed_step=-1)
        try:
            tracker.log(0, self.trained.step, self.metrics)
            tracker.text("supervision", "\n\n".join(self.supervision), self.trained.step)
            picture = self.picture()
            if picture is not None:
                save_png(run_dir / "pictures" / f"{KIND}.png", picture)
                tracker.image(KIND, picture, self.trained.step)
        finally:
            tracker.close()

    def picture(self) -> np.ndarray | None:
        """Photographs and maps of the gallery's images with their boxes: truth red, prediction
        green."""
        images = self.lists.reported.image_set
        samples = {sample.id: sample for sample in images.samples}
        rows, titles = [], []
        for image in self.found.images:
            if image.map_SS is None:
                continue
            photo_HW3 = read_image(samples[image.id].path, self.config.data.pixel_limit)
            guess = image.guesses[0]
            truth = [box.corners for box in self.lists.reported.boxes.by_image[image.id]]
            green = [guess.box] if guess.box else []
            iou = best_iou(green, truth)
            shown = (photo_HW3, overlay(photo_HW3, image.map_SS))
            rows.append([draw_boxes(picture_HW3, truth, green) for picture_HW3 in shown])
            is_right = guess.class_index in samples[image.id].classes
            said = (
                "class right" if is_right else f"taken for {images.class_names[guess.class_index]}"
            )
            titles.append(f"{image.id}\n{said}, IoU {iou:.2f}")
        columns = ["truth red, prediction green", "attention of the predicted class"]
        return grid(rows, titles, columns, cell=200) if rows else None


def percent(fraction: float) -> str:
    """A share as a percentage with one decimal; a dash where it does not exist."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def spaced(thresholds: tuple[float, ...]) -> str:
    """Thresholds, one for each least IoU; one alone where they are all the same."""
    texts = [f"{value:.2f}".lstrip("0") for value in thresholds]
    return f"{thresholds[0]:.2f}" if len(set(texts)) == 1 else " ".join(texts)


def as_json(summary: dict[str, Any]) -> bytes:
    """The summary as a file holds it, one image a line."""
    rows = ",\n  ".join(json.dumps(row, ensure_ascii=False) for row in summary["images"])
    text = json.dumps(summary | {"images": []}, indent=1, ensure_ascii=False, allow_nan=False)
    # The images are the last entry; indented, each number would have a line of its own.
    return (text.removesuffix("[]\n}") + f"[\n  {rows}\n ]\n}}\n").encode()


def exists(metrics: dict[str, float]) -> dict[str, float | None]:
    """Figures as JSON has them: null for one that does not exist."""
    return {name: None if math.isnan(value) else value for name, value in metrics.items()}
