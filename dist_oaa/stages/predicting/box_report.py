"""What `oaa predict` says of classes and boxes: predictions.json, the table, the audit lines."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from dist_oaa.config.predict import PredictConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.stages.localizing.localizer import Guess
from dist_oaa.stages.predicting.sources import Source
from dist_oaa.stages.predicting.summary import FORMAT, SUMMARY, Results
from dist_oaa.stages.trained import Trained
from dist_oaa.stages.training import machine


@dataclass(frozen=True)
class BoxPrediction:
    """What is known of an image when its files are written."""

    source: Source
    size: tuple[int, int]
    """Height and width in pixels, after the EXIF rotation."""
    guesses: list[Guess]
    """Most probable first; boxes in the same pixels."""
    seconds: float


@dataclass(frozen=True)
class Boxing:
    """How a map becomes a box."""

    threshold: float
    components: str
    origin: str
    """Where these come from, for people."""


@dataclass(frozen=True)
class BoxReport(Results[Trained, BoxPrediction]):
    """The classes and boxes of all images."""

    boxing: Boxing

    @property
    def supervision(self) -> list[str]:
        """The audit lines."""
        return [
            f"supervision: image-level labels of {self.trained.data.root}; saliency none; CRF none",
            f"checkpoint {self.config.checkpoint} at step {self.trained.step}, trunk weights "
            f"{self.trained.config.weights}",
            f"boxes: threshold {self.boxing.threshold:g} of each map's maximum, "
            f"{self.boxing.components} (from {self.boxing.origin})",
        ]

    def summary(self) -> dict[str, Any]:
        """What predictions.json holds; boxes are x0 y0 x1 y1, x1 and y1 exclusive."""
        return {
            "format": FORMAT,
            "checkpoint": self.config.checkpoint,
            "step": self.trained.step,
            "network": dataclasses.asdict(self.trained.config),
            "classes": list(self.trained.class_names),
            "supervision": self.supervision,
            "settings": dataclasses.asdict(self.boxing)
            | {"views": dataclasses.asdict(self.config.views)},
            "images": [self._record(prediction) for prediction in self.predictions],
            "failed": self.failures(),
        }

    def _record(self, prediction: BoxPrediction) -> dict[str, Any]:
        return {
            "name": prediction.source.name,
            "source": str(prediction.source.path),
            "height": prediction.size[0],
            "width": prediction.size[1],
            "predicted": [
                {
                    "class": self.trained.class_names[guess.class_index],
                    "probability": round(guess.probability, 6),
                    "box": guess.box,
                }
                for guess in prediction.guesses
            ],
            "seconds": round(prediction.seconds, 3),
        }


def announce(
    reporter: Reporter,
    config: PredictConfig,
    world: World,
    trained: Trained,
    boxing: Boxing,
    images: int,
) -> None:
    """Says what is about to run."""
    reporter.say(
        f"{trained.config.variant} on {trained.config.backbone} from {escape(config.checkpoint)}, "
        f"step {trained.step}, {len(trained.class_names)} classes"
    )
    reporter.say(
        f"{images} image{'s' * (images != 1)}; boxes at {boxing.threshold:g} of a map's maximum "
        f"(from {escape(boxing.origin)})"
    )
    reporter.say(f"{machine(world)}; out {escape(config.out)}")


def say_results(reporter: Reporter, report: BoxReport) -> None:
    """Prints what was found, what was left out, the audit lines, and where everything is."""
    out = report.config.out
    places = [f"overlays: {out}/overlays"] if report.config.overlays else []
    places.append(f"classes and boxes: {out}/{SUMMARY}")
    report.say(reporter, [], class_table(report), places)


def class_table(report: BoxReport) -> Table:
    """The most probable classes: of how many images, and how sure the network was."""
    rows: dict[int, list[float]] = {}
    for prediction in report.predictions:
        first = prediction.guesses[0]
        rows.setdefault(first.class_index, []).append(first.probability)
    count = len(report.predictions)
    table = Table(title=f"found in {count} image{'s' * (count != 1)}", title_justify="left")
    table.add_column("most probable class", overflow="fold", max_width=40)
    table.add_column("images", justify="right")
    table.add_column("mean\nprobability", justify="right")
    for index, values in sorted(rows.items(), key=lambda row: (-len(row[1]), row[0])):
        name = Text(report.trained.class_names[index])
        table.add_row(name, str(len(values)), f"{100 * sum(values) / len(values):.0f} %")
    return table
