"""What pseudo labels are worth and what they owe to anything but the images: for the terminal,
for labels.json, for TensorBoard and metrics.jsonl.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from rich.table import Table

from dist_oaa.config.labels import LabelsConfig
from dist_oaa.config.pseudo_label import PseudoLabelConfig
from dist_oaa.evaluation.counts import IGNORED
from dist_oaa.evaluation.pictures import save_png
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import save_settings
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.labelling.labelling import Found, Labelling
from dist_oaa.stages.labelling.origin import Origin, describe, origin_of
from dist_oaa.stages.labelling.pictures import labels_picture
from dist_oaa.stages.reporting import say_images

FORMAT = 1
"""Of labels.json."""
SHOWN = 5
"""Images that a message names."""
STAGE = "pseudo-label"


class Report:
    """Everything that is said of finished labels.

    Args:
        origin: the run that the maps come from.
    """

    def __init__(
        self, config: PseudoLabelConfig, labelling: Labelling, found: Found, origin: Origin
    ) -> None:
        self.config, self.labelling, self.found, self.origin = config, labelling, found, origin
        self.class_names = labelling.image_set.class_names
        self.names = ("background", *self.class_names)
        self.labels, self.dense = found.labels.result(), found.dense.result()

    @property
    def metrics(self) -> dict[str, float]:
        """labels/miou and so on, fractions from 0 to 1; empty where no image has a mask."""
        if not self.found.measured:
            return {}
        return {
            "labels/miou": self.labels.miou,
            "labels/ignored": self.labels.ignored,
            "labels/dense_miou": self.dense.miou,
        }

    @property
    def per_class(self) -> dict[str, float]:
        """IoU of each class that occurs, as metrics.jsonl names it."""
        return {
            f"per_class/labels/iou/{self.names[value]}": iou
            for value, iou in self.labels.per_class.items()
        }

    @property
    def shares(self) -> dict[str, float]:
        """Shares of all pixels of all labels: ignored, background, and each class that occurs."""
        pixels_V = self.found.pixels_V
        total = max(1, int(pixels_V.sum()))
        occurring = [v for v in range(1, len(self.names)) if pixels_V[v]]
        values = {"ignored": IGNORED, "background": 0} | {self.names[v]: v for v in occurring}
        return {name: int(pixels_V[value]) / total for name, value in values.items()}

    @property
    def supervision(self) -> list[str]:
        """The audit lines."""
        config, image_set = self.config.labels, self.labelling.image_set
        crf = "on the labels" if "crf" in config.refine else "none"
        lines = [
            f"supervision: image-level labels from {image_set.label_source}; CRF {crf}",
            f"maps {describe(self.labelling.source, self.config.maps)}",
            f"made by {'; '.join(self.origin.trunks) or 'a network that is not recorded'}",
            f"saliency {saliency_phrase(config, self.labelling.saliency_dir)}",
            f"background: {background_phrase(config, self.found)}",
            f"refinement {refinement_phrase(config)}",
        ]
        if self.found.measured:
            lines.append("masks were read for these figures only")
        return lines

    def summary(self) -> dict[str, Any]:
        """What labels.json holds; the same at any number of ranks and processes."""
        found = self.found
        return {
            "format": FORMAT,
            "maps": self.config.maps,
            "trunks": self.origin.trunks,
            "settings": dataclasses.asdict(self.config.labels),
            "threshold": None if self.config.labels.saliency != "none" else found.threshold,
            "supervision": self.supervision,
            "class_names": list(self.class_names),
            "fingerprint": self.labelling.image_set.fingerprint,
            "images": len(self.labelling.image_set),
            "skipped": found.skipped,
            "empty": found.empty,
            "pairs_without_map": found.without_map,
            "pixels": self.shares,
            "measured": found.measured,
            # JSON has no nan: a figure that does not exist is null.
            "metrics": {
                name: value if math.isfinite(value) else None
                for name, value in (self.metrics | self.per_class).items()
            },
        }

    def save(self, run_dir: Path, config_yaml: str) -> None:
        """Writes what lies beside the labels; on rank 0.

        Raises:
            UserError, OSError: when the disk is full or not writable.
        """
        save_settings(run_dir, config_yaml, self.class_names)
        # Whatever an attempt that was killed at this very moment has logged is void.
        tracker = Tracker(run_dir, STAGE, resumed_step=-1)
        try:
            tracker.log(0, 0, self.metrics | self.per_class)
            tracker.text("supervision", "\n\n".join(self.supervision), 0)
            if self.found.gallery:
                picture = labels_picture(
                    self.found.gallery, self.class_names, self.config.data.pixel_limit
                )
                save_png(run_dir / "pictures" / "labels.png", picture)
                tracker.image("labels", picture, 0)
        finally:
            tracker.close()


def saliency_phrase(config: LabelsConfig, folder: Path | None) -> str:
    """Which saliency, and what it was made with."""
    return {
        "none": "none",
        "dir": f"maps of {folder} (whatever they were made with counts)",
        "spectral": "spectral residual (no weights)",
        "rembg": f"rembg {config.rembg_model} (trained on masks of salient objects)",
    }[config.saliency]


def background_phrase(config: LabelsConfig, found: Found) -> str:
    """Where the background comes from, and how its threshold was chosen."""
    if config.saliency != "none":
        return "1 - saliency"
    if found.choice is None:
        return f"threshold {found.threshold:g} on attention, as set"
    return (
        f"threshold {found.threshold:.2f} on attention, chosen on {found.choice.images} images "
        f"without masks ({config.background.objective})"
    )


def refinement_phrase(config: LabelsConfig) -> str:
    """What refined the scores, in order."""
    walk = config.random_walk
    on = {"colour": "colours", "features": "trunk features", "learned": "learned affinities"}
    where = on[walk.affinity]
    if walk.affinity != "colour":
        behind = "; ".join(origin_of(Path(walk.checkpoint)).trunks) or "not recorded"
        where += f" of {walk.checkpoint} ({behind})"
    phrases = {
        "crf": "dense CRF",
        "pamr": "PAMR",
        "random_walk": f"random walk on {where}",
    }
    return ", then ".join(phrases[name] for name in config.refine) or "none"


def announce(
    reporter: Reporter, config: PseudoLabelConfig, world: World, labelling: Labelling
) -> None:
    """Says what is about to run."""
    say_images(reporter, labelling.image_set)
    reporter.say(f"maps {describe(labelling.source, config.maps)}")
    ranks = "" if world.size == 1 else f"{world.size} ranks of "
    count = labelling.processes
    reporter.say(f"{ranks}{count} process{'es' * (count > 1)}; run directory {config.run_dir}")


def say_results(reporter: Reporter, report: Report) -> None:
    """Prints the figures, what was left out, the audit lines, and where everything is."""
    found = report.found
    say_left_out(reporter, report)
    if report.metrics:
        reporter.console.print(figures_table(report))
        reporter.console.print(class_table(report))
    reporter.say(
        f"{tenths(report.shares['ignored'])} % of all pixels are ignored, "
        f"{tenths(report.shares['background'])} % background"
    )
    first, *others = report.supervision
    reporter.say(first)
    for line in others:
        reporter.say(f"  {line}")
    reporter.say(f"labels: {report.config.run_dir}/labels")
    if found.gallery:
        reporter.say(f"pictures: {report.config.run_dir}/pictures")


def images_were(count: int) -> str:
    """How many, as the beginning of a sentence."""
    return "1 image was" if count == 1 else f"{count} images were"


def say_left_out(reporter: Reporter, report: Report) -> None:
    """Names the images without a label, and those that are ignored whole."""
    found = report.found
    for sentence in list(found.skipped.values())[:SHOWN]:
        reporter.say(f"skipped: {sentence}")
    if found.skipped:
        reporter.say(f"{images_were(len(found.skipped))} skipped: no label")
    if found.empty:
        more = ", ..." if len(found.empty) > SHOWN else ""
        reporter.say(
            f"note: {images_were(len(found.empty))} ignored whole, without any attention: "
            f"{', '.join(found.empty[:SHOWN])}{more}"
        )
    if found.without_map:
        reporter.say(
            f"note: {found.without_map} other (image, class) pairs have no attention; their class "
            "is nowhere labelled"
        )


def tenths(fraction: float) -> str:
    """A share as a percentage with one decimal; a dash where it does not exist."""
    return "-" if math.isnan(fraction) else f"{100 * fraction:.1f}"


def figures_table(report: Report) -> Table:
    """Percentages over all classes."""
    table = Table(title=f"pseudo labels of {report.found.measured} images, %", title_justify="left")
    for heading in ("mIoU", "ignored\npixels", "mIoU, nothing\nignored"):
        table.add_column(heading, justify="right")
    figures = (report.labels.miou, report.labels.ignored, report.dense.miou)
    table.add_row(*map(tenths, figures))
    return table


def class_table(report: Report) -> Table:
    """IoU of each class, two classes a row, at most 80 columns wide."""
    table = Table(
        title="IoU by class, %",
        caption="full: nothing ignored; a dash: in no label and no mask",
        title_justify="left",
        caption_justify="left",
    )
    for _ in range(2):
        table.add_column("class", overflow="fold", max_width=22)
        table.add_column("IoU", justify="right", no_wrap=True)
        table.add_column("full", justify="right", no_wrap=True)
    cells = [
        (
            name,
            tenths(report.labels.per_class.get(v, math.nan)),
            tenths(report.dense.per_class.get(v, math.nan)),
        )
        for v, name in enumerate(report.names)
    ]
    half = -(-len(cells) // 2)
    for left, right in zip(cells[:half], [*cells[half:], ("", "", "")], strict=False):
        table.add_row(*left, *right)
    return table
