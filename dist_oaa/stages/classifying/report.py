"""What `oaa classify` says and shows of its figures."""

from dist_oaa.attention import native
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.tracking import Comparison
from dist_oaa.stages.classifying.measure import INTEGRAL
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

# For TensorBoard's "custom scalars".
TRAINING_CHARTS = {
    "loss": ["Multiline", ["train/loss", "train/epoch_loss"]],
    "pairs": ["Multiline", ["accept_rate", "pairs/coverage", "pairs/fallback"]],
}
DROP_CHART = {"occluded by the drop layer": ["Multiline", ["drop/images", "drop/pixels"]]}


def charts(config: ClassifyConfig) -> dict:
    """The charts of a run: those whose curves it draws."""
    kinds = ["cam", "cumulative"]
    kinds += [f"cumulative_{name}" for name, _, _ in config.accumulate.compared]
    kinds += [INTEGRAL] if config.model.variant == "two_branch" else []
    training = TRAINING_CHARTS | (DROP_CHART if config.drop.active else {})
    return {"attention": attention_charts(kinds), "training": training}


def announce(
    reporter: Reporter,
    config: ClassifyConfig,
    world: World,
    image_set: ImageSet,
    weights: str,
    changes: list[str],
    position: Position,
) -> None:
    """Says what is about to run."""
    say_images(reporter, image_set)
    reporter.say(f"{config.model.backbone}: {weights}")
    reporter.say(f"{machine(world)}; run directory {config.run_dir}")
    if world.device.type == "cpu" and native.problem():
        reporter.say(f"note: maps accumulate in PyTorch, the C++ update {native.problem()}")
    if config.store.shards % world.size:
        reporter.say(
            f"note: {config.store.shards} shards on {world.size} processes: some own one more "
            "than others and do more work; a multiple of the processes balances them"
        )
    if config.resume:
        say_resumed(reporter, position, changes)


def conclude(
    reporter: Reporter,
    config: ClassifyConfig,
    image_set: ImageSet,
    position: Position,
    metrics: dict[str, float],
) -> None:
    """Prints the result and how it was supervised."""
    if not metrics:
        reporter.say(f"{config.run_dir} is complete: {position.epoch} epochs were done before")
        return
    for sentence in position.skipped[:10]:
        reporter.say(f"skipped: {sentence}")
    rate, once, fallen = (
        percent(metrics[name]) for name in ("accept_rate", "pairs/coverage", "pairs/fallback")
    )
    reporter.say(
        f"pairs accepted: {rate} in the last epoch, {once} at least once; {fallen} fell back"
    )
    figures = {name: metrics.get(f"classifier/{name}") for name in ("map", "top1", "top5")}
    titles = {"map": "mAP", "top1": "top-1", "top5": "top-5"}
    said = [f"{titles[name]} {percent(v)}" for name, v in figures.items() if v is not None]
    reporter.say(f"classifier {', '.join(said)} on these training images")
    if "cam/recall" in metrics:
        rows = {
            "CAM (final classifier)": "cam",
            f"cumulative ({config.accumulate.fusion})": "cumulative",
        } | {
            f"compared: {rule}": f"cumulative_{name}"
            for rule, (name, _, _) in zip(
                config.accumulate.compare, config.accumulate.compared, strict=True
            )
        }
        if f"{INTEGRAL}/recall" in metrics:
            rows["second branch"] = INTEGRAL
        show_quality(reporter, metrics, rows)
    say_supervision(reporter, image_set, config.evaluate, f"trunk weights {config.model.weights}")
    say_places(reporter, config.run_dir, "store")


def comparison(config: ClassifyConfig) -> Comparison:
    """How TensorBoard compares runs of this stage."""
    return comparison_by(
        config,
        variant=config.model.variant,
        labels=config.model.labels,
        gate=config.accumulate.gate,
        fusion=config.accumulate.fusion,
        start_epoch=config.accumulate.start_epoch,
        map_size=config.accumulate.map_size,
        drop=config.drop.where,
        delta=config.drop.delta,
        beta=config.drop.beta,
    )
