"""What `oaa affinity` says and shows of its figures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from rich.table import Table

from dist_oaa.config.affinity import AffinityConfig
from dist_oaa.data.affinity_labels import ConfidentLabels
from dist_oaa.data.sample import ImageSet
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.tracking import Comparison
from dist_oaa.stages.pairing.stage import PAIRS
from dist_oaa.stages.reporting import say_images, say_resumed
from dist_oaa.stages.training import machine

# TensorBoard's "custom scalars".
CHARTS = {
    "training": {
        "loss": ["Multiline", ["train/loss", "train/epoch_loss"]],
        "affinity": ["Multiline", [f"affinity/{kind}" for kind in PAIRS]],
    },
}

TITLES = {
    "background": "both background",
    "object": "both of one class",
    "across": "of two labels",
}


@dataclass(frozen=True)
class Origin:
    """What a run was made from."""

    labels: ConfidentLabels
    weights: str
    """Where the weights that training starts from are from."""
    supervision: tuple[str, ...]
    """What the labels were made from, as the run that made them says it; empty for a folder."""


def announce(
    reporter: Reporter,
    config: AffinityConfig,
    world: World,
    image_set: ImageSet,
    origin: Origin,
    changes: list[str],
    position: Position,
) -> None:
    """Says what is about to run."""
    say_images(reporter, image_set)
    reporter.say(say_labels(origin.labels))
    settings = config.affinity
    reporter.say(f"{config.model.backbone}: {origin.weights}")
    reporter.say(
        f"cells of {settings.stride} px, compared up to {settings.radius} cells apart by "
        f"{sum(settings.channels)} features"
    )
    reporter.say(f"{machine(world)}; run directory {config.run_dir}")
    if settings.shards % world.size:
        reporter.say(
            f"note: {settings.shards} shards on {world.size} processes: some visit more images "
            "than others; a multiple of the processes balances them"
        )
    if config.resume:
        say_resumed(reporter, position, changes)


def say_labels(labels: ConfidentLabels) -> str:
    """Where the labels lie, in a few words."""
    if labels.background is None:
        return f"labels: {labels.folder}"
    return f"labels: objects of {labels.folder}, background of {labels.background}"


def conclude(
    reporter: Reporter,
    config: AffinityConfig,
    image_set: ImageSet,
    origin: Origin,
    position: Position,
    metrics: Mapping[str, float],
) -> None:
    """Prints the result and how it was supervised."""
    if not metrics:
        reporter.say(f"{config.run_dir} is complete: {position.epoch} epochs were done before")
        return
    for sentence in list(dict.fromkeys(position.skipped))[:10]:
        reporter.say(f"skipped: {sentence}")
    table = Table(title="affinity of pairs, %")
    table.add_column("pairs of cells")
    table.add_column("mean", justify="right")
    for kind in PAIRS:
        value = metrics[f"affinity/{kind}"]
        table.add_row(TITLES[kind], "-" if math.isnan(value) else f"{100 * value:.1f}")
    reporter.console.print(table)
    reporter.say(f"supervision: image-level labels from {image_set.label_source}")
    reporter.say(f"  {origin.weights}")
    reporter.say(f"  {say_labels(origin.labels)}")
    for line in origin.supervision or ["saliency and CRF: as in these labels, which do not say"]:
        reporter.say(f"    {line}")
    if any(sample.mask for sample in image_set.samples) and config.affinity.gallery:
        reporter.say("  masks were read for the last column of the picture only")
    reporter.say(f"pictures: {config.run_dir}/pictures")
    reporter.say(f"curves: tensorboard --logdir {config.run_dir}")
    reporter.say(
        "use: oaa pseudo-label --labels.refine '\\[random_walk]' "  # escaped for the console
        f"--labels.random_walk.affinity learned --labels.random_walk.checkpoint {config.run_dir}"
    )


def comparison(config: AffinityConfig) -> Comparison:
    """How TensorBoard compares runs of this stage."""
    settings = {
        "backbone": config.model.backbone,
        "size": config.data.size,
        "lr": config.optim.lr,
        "epochs": config.optim.epochs,
        "radius": config.affinity.radius,
    }
    return Comparison(settings, lambda name: name.startswith("affinity/"))
