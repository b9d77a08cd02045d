"""What `oaa predict` says of its results: predictions.json, the table, the audit lines."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dist_oaa.config.data import DataConfig
from dist_oaa.config.predict import PredictConfig
from dist_oaa.models.segmentation.scoring import view_size
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.stages.evaluating.supervision import network_lines
from dist_oaa.stages.predicting.finish import BACKGROUND, Prediction, image_record
from dist_oaa.stages.predicting.overlay import share_text
from dist_oaa.stages.predicting.summary import FORMAT, SUMMARY, Results
from dist_oaa.stages.trained_segmenter import TrainedSegmenter
from dist_oaa.stages.training import machine


@dataclass(frozen=True)
class Report(Results[TrainedSegmenter, Prediction]):
    """The masks of all images."""

    data: DataConfig
    """How the network looked at the images."""

    @property
    def supervision(self) -> list[str]:
        """The audit lines, in the words of `oaa evaluate`."""
        return network_lines(self.config, self.trained)

    @property
    def in_tiles(self) -> int:
        """Images that the network saw in pieces."""
        short_side = self.data.size if self.data.resize == "short_side" else 0
        if self.data.resize == "square":
            return 0
        largest = max(self.config.views.scales)
        views = [view_size(p.size, largest, short_side) for p in self.predictions]
        return sum(max(view) > self.config.tile for view in views)

    def summary(self) -> dict[str, Any]:
        """What predictions.json holds."""
        config, trained = self.config, self.trained
        return {
            "format": FORMAT,
            "checkpoint": config.checkpoint,
            "step": trained.step,
            "network": dataclasses.asdict(trained.config),
            "classes": [BACKGROUND, *trained.class_names],
            "supervision": self.supervision,
            "settings": {
                "resize": self.data.resize,
                "size": self.data.size if self.data.resize != "keep" else 0,
                "views": dataclasses.asdict(config.views),
                "tile": config.tile,
                "overlap": config.overlap,
                "precision": config.precision,
                "crf": dataclasses.asdict(config.dense_crf) if config.crf else None,
            },
            "images": [image_record(p, trained.class_names) for p in self.predictions],
            "failed": self.failures(),
        }


def looks(config: PredictConfig, data: DataConfig) -> str:
    """One phrase for how an image is seen."""
    sizes = {
        "keep": "at its own size",
        "short_side": f"with a short side of {data.size} px",
        "square": f"as a square of {data.size} px",
    }
    return f"{sizes[data.resize]}, {config.views.phrase()}, in tiles above {config.tile} px"


def announce(
    reporter: Reporter,
    config: PredictConfig,
    world: World,
    trained: TrainedSegmenter,
    data: DataConfig,
    images: int,
) -> None:
    """Says what is about to run."""
    reporter.say(
        f"{trained.config.architecture} on {trained.config.backbone} from "
        f"{escape(config.checkpoint)}, step {trained.step}, {len(trained.class_names)} classes"
    )
    reporter.say(f"{images} image{'s' * (images != 1)}, each seen {looks(config, data)}")
    reporter.say(f"{machine(world)}; out {escape(config.out)}")


def say_results(reporter: Reporter, report: Report) -> None:
    """Prints what was found, what was left out, the audit lines, and where everything is."""
    notes, out = [], report.config.out
    if report.in_tiles and report.data.resize == "keep":
        notes.append(
            f"note: seen in tiles, at their own size: {report.in_tiles}; a network "
            "trained on small images may do better with --size 500"
        )
    places = [f"masks: {out}/masks"]
    places += [f"overlays: {out}/overlays"] if report.config.overlays else []
    places.append(f"areas of the classes: {out}/{SUMMARY}")
    report.say(reporter, notes, class_table(report), places)


def class_table(report: Report) -> Table:
    """The classes that were found: in how many images, and how much of those they cover."""
    rows: dict[int, list[float]] = {}
    for prediction in report.predictions:
        height, width = prediction.size
        for value, count in prediction.pixels.items():
            rows.setdefault(value, []).append(count / (height * width))
    count = len(report.predictions)
    table = Table(title=f"found in {count} image{'s' * (count != 1)}", title_justify="left")
    table.add_column("class", overflow="fold", max_width=40)
    table.add_column("images", justify="right")
    table.add_column("area there\n(mean share)", justify="right")
    for value, shares in sorted(
        rows.items(), key=lambda row: (row[0] != 0, -len(row[1]), -sum(row[1]))
    ):
        name = (BACKGROUND, *report.trained.class_names)[value]
        table.add_row(Text(name), str(len(shares)), share_text(sum(shares) / len(shares)))
    return table
