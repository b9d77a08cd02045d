"""What `oaa integral` says and shows of its figures."""

from dataclasses import dataclass

from dist_oaa.config.integral import IntegralConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.evaluation.table import quality_table
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.loop import Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.classify_report import ATTENTION_CHARTS, COMPARED, percent, table_row
from dist_oaa.stages.integral_end import INTEGRAL, TARGET, WRITTEN
from dist_oaa.stages.training import machine
from dist_oaa.store.maps import MapSource

# TensorBoard's "custom scalars"; the target is measured once, at the end.
CHARTS = {
    "attention": {title: ["Multiline", [f"integral/{name}"]] for title, name in ATTENTION_CHARTS},
    "training": {
        "loss": ["Multiline", ["train/loss", "train/epoch_loss"]],
        "attended cells": ["Multiline", ["train/attended_cells"]],
    },
}


@dataclass(frozen=True)
class Origin:
    """What a run was made from."""

    source: MapSource
    weights: str
    """Where the weights that training starts from are from."""
    unknown: int
    """Pairs of the data set without a map, or with one that is zero everywhere."""
    unmapped: int
    """Images without any map."""


def announce(
    reporter: Reporter,
    config: IntegralConfig,
    world: World,
    image_set: ImageSet,
    origin: Origin,
    changes: list[str],
    position: Position,
) -> None:
    """Says what is about to run."""
    pairs = sum(len(sample.classes) for sample in image_set.samples)
    reporter.say(
        f"{len(image_set)} images, {len(image_set.class_names)} classes, {pairs} pairs "
        f"(labels: {image_set.label_source})"
    )
    source = origin.source
    reporter.say(
        f"targets: {len(source.pairs)} maps of {source.map_size} x {source.map_size} cells from "
        f"{source.folder}"
    )
    if origin.unknown:
        reporter.say(
            f"note: {origin.unknown} of {pairs} pairs have no map, or one that is zero everywhere: "
            f"they are left out of the loss ({origin.unmapped} images have no map at all and teach "
            "only which classes they lack)"
        )
    reporter.say(f"{config.model.backbone}: {origin.weights}")
    reporter.say(f"{machine(world)}; run directory {config.run_dir}")
    if config.integral.shards % world.size:
        reporter.say(
            f"note: {config.integral.shards} shards on {world.size} processes: some visit more "
            "images than others; a multiple of the processes balances them"
        )
    if config.resume:
        reporter.say(f"resuming after {position.step} steps, in epoch {position.epoch + 1}")
        for change in changes:
            reporter.say(f"changed since the run began: {change}")


def conclude(
    reporter: Reporter,
    config: IntegralConfig,
    image_set: ImageSet,
    origin: Origin,
    position: Position,
    metrics: dict[str, float],
    tracker: Tracker | None,
) -> None:
    """Prints the result and how it was supervised; enters the run in TensorBoard's comparison."""
    if not metrics:
        reporter.say(
            f"{config.run_dir} is complete: {position.epoch} epochs were done before; remove "
            f"{WRITTEN}/ to have the maps written again"
        )
        return
    for sentence in list(dict.fromkeys(position.skipped))[:10]:
        reporter.say(f"skipped: {sentence}")
    if "train/attended_cells" in metrics:
        share = percent(metrics["train/attended_cells"])
        reporter.say(f"attended (N+): {share} of the cells of the images' own classes")
    if f"{INTEGRAL}/recall" in metrics:
        rows = {
            f"{'cumulative' if origin.source.is_store else 'given'} (target)": table_row(
                metrics, TARGET
            ),
            f"integral ({config.integral.loss})": table_row(metrics, INTEGRAL),
        }
        reporter.console.print(quality_table(rows, title="attention quality, %"))
    for line in supervision(config, image_set, origin):
        reporter.say(line)
    reporter.say(f"maps: {config.run_dir}/{WRITTEN}")
    reporter.say(f"pictures: {config.run_dir}/pictures")
    reporter.say(f"curves: tensorboard --logdir {config.run_dir}")
    if tracker is not None:
        figures = {k: v for k, v in metrics.items() if k.endswith(COMPARED)}
        tracker.hparams(compared_settings(config), figures)


def compared_settings(config: IntegralConfig) -> dict[str, object]:
    """The settings by which TensorBoard compares runs."""
    return {
        "backbone": config.model.backbone,
        "output_stride": config.model.output_stride,
        "size": config.data.size,
        "lr": config.optim.lr,
        "epochs": config.optim.epochs,
        "batch_size": config.optim.batch_size,
        "loss": config.integral.loss,
        "threshold": config.integral.threshold,
        "normalise": config.integral.normalise,
        "views": config.views.phrase(),
    }


def supervision(config: IntegralConfig, image_set: ImageSet, origin: Origin) -> list[str]:
    """The audit lines: all that the figures owe to anything but the images."""
    saliency = config.evaluate.saliency_dir
    used = f"{saliency} (for the label figures only)" if saliency else "none"
    lines = [
        f"supervision: image-level labels from {image_set.label_source}; CRF none",
        f"  targets: {len(origin.source.pairs)} maps from {origin.source.folder}, each divided by "
        "its own maximum",
        f"  weights: {origin.weights}; saliency {used}",
        f"  views: {config.views.phrase()}",
    ]
    if any(sample.mask for sample in image_set.samples):
        lines.append("  masks were read for these figures only, and to choose the seed threshold")
    return lines
