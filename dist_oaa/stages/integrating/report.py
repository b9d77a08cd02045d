"""What `oaa integral` says and shows of its figures."""

from dataclasses import dataclass

from dist_oaa.config.integral import IntegralConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.tracking import Comparison
from dist_oaa.stages.integrating.epoch_end import INTEGRAL, TARGET, WRITTEN
from dist_oaa.stages.reporting import (
    attention_charts,
    comparison_by,
    percent,
    say_images,
    say_places,
    say_resumed,
    say_supervision,
    show_quality,
)
from dist_oaa.stages.training import machine
from dist_oaa.store.maps import MapSource

# TensorBoard's "custom scalars"; the target is measured once, at the end.
CHARTS = {
    "attention": attention_charts([INTEGRAL]),
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
    pairs = say_images(reporter, image_set)
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
        say_resumed(reporter, position, changes)


def conclude(
    reporter: Reporter,
    config: IntegralConfig,
    image_set: ImageSet,
    origin: Origin,
    position: Position,
    metrics: dict[str, float],
) -> None:
    """Prints the result and how it was supervised."""
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
        given = "cumulative" if origin.source.is_store else "given"
        rows = {f"{given} (target)": TARGET, f"integral ({config.integral.loss})": INTEGRAL}
        show_quality(reporter, metrics, rows)
    maps = f"{len(origin.source.pairs)} maps from {origin.source.folder}"
    say_supervision(
        reporter,
        image_set,
        config.evaluate,
        f"weights: {origin.weights}",
        f"targets: {maps}, each divided by its own maximum",
        f"views: {config.views.phrase()}",
    )
    say_places(reporter, config.run_dir, WRITTEN)


def comparison(config: IntegralConfig) -> Comparison:
    """How TensorBoard compares runs of this stage."""
    return comparison_by(
        config,
        loss=config.integral.loss,
        threshold=config.integral.threshold,
        normalise=config.integral.normalise,
        views=config.views.phrase(),
    )
