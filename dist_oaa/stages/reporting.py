"""What all stages say and show of their figures, in the same words."""

from collections.abc import Mapping
from typing import Any

from dist_oaa.config.run import EvaluateConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.evaluation.table import quality_table
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.tracking import Comparison
from dist_oaa.stages.tally import Measurement

COMPARED = ("/recall", "/noise", "/seed_miou", "/label_miou", "classifier/map", "classifier/top1")
"""Endings of the figures by which TensorBoard compares runs."""

ATTENTION_CHARTS = (
    ("recall per epoch", "recall"),
    ("noise per epoch", "noise"),
    ("seed mIoU (threshold tuned on masks)", "seed_miou"),
)

COLUMNS = {
    "recall": "recall",
    "noise": "noise",
    "seed_miou": "seed_miou",
    "seed_threshold": "seed_threshold",
    "label_miou": "labels_miou",
}
"""Figures of one kind of map, with their columns of the quality table."""


def attention_charts(kinds: list[str]) -> dict[str, list]:
    """Charts for TensorBoard's "custom scalars": all kinds of map in one chart each."""
    return {
        title: ["Multiline", [f"{kind}/{name}" for kind in kinds]]
        for title, name in ATTENTION_CHARTS
    }


def per_class_metrics(found: Measurement, class_names: tuple[str, ...]) -> dict[str, float]:
    """Recall and noise of each class that occurs, for metrics.jsonl."""
    return {
        f"per_class/{kind}/{measure}/{class_names[c]}": value
        for kind, classes in found.per_class.items()
        for c, values in classes.items()
        for measure, value in zip(("recall", "noise"), values, strict=True)
    }


def per_class_table(
    found: Measurement, class_names: tuple[str, ...], kinds: Mapping[str, str]
) -> str:
    """The same as a Markdown table, for TensorBoard, of these kinds of maps with their titles."""
    shown = [kind for kind in kinds if kind in found.per_class]
    heads = [f"{kinds[kind]} {measure}" for kind in shown for measure in ("recall", "noise")]
    lines = ["| class | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for c in sorted(found.per_class[shown[0]]) if shown else ():
        cells = [value for kind in shown for value in found.per_class[kind][c]]
        lines.append(f"| {class_names[c]} | " + " | ".join(f"{100 * v:.1f}" for v in cells) + " |")
    return "\n".join(lines)


def percent(fraction: float) -> str:
    """A share as people read it."""
    return f"{100 * fraction:.0f} %"


def say_images(reporter: Reporter, image_set: ImageSet) -> int:
    """Says what the data set holds; returns the number of (image, class) pairs."""
    pairs = sum(len(sample.classes) for sample in image_set.samples)
    reporter.say(
        f"{len(image_set)} images, {len(image_set.class_names)} classes, {pairs} pairs "
        f"(labels: {image_set.label_source})"
    )
    return pairs


def say_resumed(reporter: Reporter, position: Position, changes: list[str]) -> None:
    """Says where a run goes on, and which settings differ from its beginning."""
    reporter.say(f"resuming after {position.step} steps, in epoch {position.epoch + 1}")
    for change in changes:
        reporter.say(f"changed since the run began: {change}")


def show_quality(reporter: Reporter, metrics: Mapping[str, float], kinds: dict[str, str]) -> None:
    """Prints the quality table.

    Args:
        kinds: row name -> kind of map, as the metrics name it.
    """
    rows = {
        row: {
            column: metrics[f"{kind}/{name}"]
            for name, column in COLUMNS.items()
            if f"{kind}/{name}" in metrics
        }
        for row, kind in kinds.items()
    }
    reporter.console.print(quality_table(rows, title="attention quality, %"))


def say_supervision(
    reporter: Reporter, image_set: ImageSet, evaluate: EvaluateConfig, origin: str, *more: str
) -> None:
    """The audit lines: all that the figures owe to anything but the images.

    Args:
        origin: where weights and targets came from, in a few words.
    """
    saliency = evaluate.saliency_dir
    used = f"{saliency} (for the label figures only)" if saliency else "none"
    reporter.say(f"supervision: image-level labels from {image_set.label_source}; CRF none")
    reporter.say(f"  {origin}; saliency {used}")
    for line in more:
        reporter.say(f"  {line}")
    if any(sample.mask for sample in image_set.samples):
        reporter.say("  masks were read for these figures only, and to choose the seed threshold")


def say_places(reporter: Reporter, run_dir: str, maps: str) -> None:
    """Says where a training run's results lie."""
    reporter.say(f"maps: {run_dir}/{maps}")
    reporter.say(f"pictures: {run_dir}/pictures")
    reporter.say(f"curves: tensorboard --logdir {run_dir}")


def comparison_by(config: Any, **settings: object) -> Comparison:
    """How TensorBoard compares trainings that make attention.

    Args:
        config: with the groups `model`, `data` and `optim`.
        settings: those of the stage alone.
    """
    common = {
        "backbone": config.model.backbone,
        "output_stride": config.model.output_stride,
        "size": config.data.size,
        "lr": config.optim.lr,
        "epochs": config.optim.epochs,
        "batch_size": config.optim.batch_size,
    }
    return Comparison(common | settings, lambda name: name.endswith(COMPARED))
