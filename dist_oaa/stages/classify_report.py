"""What `oaa classify` says and shows of its figures."""

from collections.abc import Mapping

from dist_oaa.attention import native
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.evaluation.table import quality_table
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.loop import Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.gallery import KINDS
from dist_oaa.stages.tally import Measurement
from dist_oaa.stages.training import machine

COMPARED = ("/recall", "/noise", "/seed_miou", "/label_miou", "classifier/map")

# TensorBoard's "custom scalars": the CAM and all cumulative maps in one chart each.
ATTENTION_CHARTS = (
    ("recall per epoch", "recall"),
    ("noise per epoch", "noise"),
    ("seed mIoU (threshold tuned on masks)", "seed_miou"),
)
TRAINING_CHARTS = {
    "loss": ["Multiline", ["train/loss", "train/epoch_loss"]],
    "pairs": ["Multiline", ["accept_rate", "pairs/coverage", "pairs/fallback"]],
}
DROP_CHART = {"occluded by the drop layer": ["Multiline", ["drop/images", "drop/pixels"]]}


def charts(config: ClassifyConfig) -> dict:
    """The charts of a run: those whose curves it draws."""
    kinds = ["cam", "cumulative"]
    kinds += [f"cumulative_{name}" for name, _, _ in config.accumulate.compared]
    attention = {
        title: ["Multiline", [f"{kind}/{name}" for kind in kinds]]
        for title, name in ATTENTION_CHARTS
    }
    training = TRAINING_CHARTS | (DROP_CHART if config.drop.active else {})
    return {"attention": attention, "training": training}


def per_class_metrics(found: Measurement, class_names: tuple[str, ...]) -> dict[str, float]:
    """Recall and noise of each class that occurs, for metrics.jsonl."""
    return {
        f"per_class/{kind}/{measure}/{class_names[c]}": value
        for kind, classes in found.per_class.items()
        for c, values in classes.items()
        for measure, value in zip(("recall", "noise"), values, strict=True)
    }


def per_class_table(
    found: Measurement, class_names: tuple[str, ...], kinds: Mapping[str, str] = KINDS
) -> str:
    """The same as a Markdown table, for TensorBoard, of these kinds of maps with their titles."""
    shown = [kind for kind in kinds if kind in found.per_class]
    heads = [f"{kinds[kind]} {measure}" for kind in shown for measure in ("recall", "noise")]
    lines = ["| class | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(heads)]
    for c in sorted(found.per_class[shown[0]]) if shown else ():
        cells = [value for kind in shown for value in found.per_class[kind][c]]
        lines.append(f"| {class_names[c]} | " + " | ".join(f"{100 * v:.1f}" for v in cells) + " |")
    return "\n".join(lines)


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
    pairs = sum(len(sample.classes) for sample in image_set.samples)
    reporter.say(
        f"{len(image_set)} images, {len(image_set.class_names)} classes, {pairs} pairs "
        f"(labels: {image_set.label_source})"
    )
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
        reporter.say(f"resuming after {position.step} steps, in epoch {position.epoch + 1}")
        for change in changes:
            reporter.say(f"changed since the run began: {change}")


def conclude(
    reporter: Reporter,
    config: ClassifyConfig,
    image_set: ImageSet,
    position: Position,
    metrics: dict[str, float],
    tracker: Tracker | None,
) -> None:
    """Prints the result and how it was supervised; enters the run in TensorBoard's comparison."""
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
    reporter.say(f"classifier mAP {percent(metrics['classifier/map'])} on these training images")
    if "cam/recall" in metrics:
        rows = {
            "CAM (final classifier)": table_row(metrics, "cam"),
            f"cumulative ({config.accumulate.fusion})": table_row(metrics, "cumulative"),
        } | {
            f"compared: {rule}": table_row(metrics, f"cumulative_{name}")
            for rule, (name, _, _) in zip(
                config.accumulate.compare, config.accumulate.compared, strict=True
            )
        }
        reporter.console.print(quality_table(rows, title="attention quality, %"))
    for line in supervision(config, image_set):
        reporter.say(line)
    reporter.say(f"maps: {config.run_dir}/store")
    reporter.say(f"pictures: {config.run_dir}/pictures")
    reporter.say(f"curves: tensorboard --logdir {config.run_dir}")
    if tracker is not None:
        figures = {k: v for k, v in metrics.items() if k.endswith(COMPARED)}
        tracker.hparams(compared_settings(config), figures)


def percent(fraction: float) -> str:
    """A share as people read it."""
    return f"{100 * fraction:.0f} %"


def compared_settings(config: ClassifyConfig) -> dict[str, object]:
    """The settings by which TensorBoard compares runs."""
    return {
        "backbone": config.model.backbone,
        "output_stride": config.model.output_stride,
        "size": config.data.size,
        "lr": config.optim.lr,
        "epochs": config.optim.epochs,
        "batch_size": config.optim.batch_size,
        "gate": config.accumulate.gate,
        "fusion": config.accumulate.fusion,
        "start_epoch": config.accumulate.start_epoch,
        "map_size": config.accumulate.map_size,
    }


def table_row(metrics: dict[str, float], kind: str) -> dict[str, float]:
    """One kind of map as a row of the quality table."""
    names = {
        "recall": "recall",
        "noise": "noise",
        "seed_miou": "seed_miou",
        "seed_threshold": "seed_threshold",
        "label_miou": "labels_miou",
    }
    return {
        column: metrics[f"{kind}/{name}"]
        for name, column in names.items()
        if f"{kind}/{name}" in metrics
    }


def supervision(config: ClassifyConfig, image_set: ImageSet) -> list[str]:
    """The audit lines: all that the figures owe to anything but the images."""
    saliency = config.evaluate.saliency_dir
    used = f"{saliency} (for the label figures only)" if saliency else "none"
    lines = [
        f"supervision: image-level labels from {image_set.label_source}; CRF none",
        f"  trunk weights {config.model.weights}; saliency {used}",
    ]
    if any(sample.mask for sample in image_set.samples):
        lines.append("  masks were read for these figures only, and to choose the seed threshold")
    return lines
