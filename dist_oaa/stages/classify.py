"""`oaa classify`: train a classifier on image-level labels while its attention accumulates.

Reads a data set; writes into the run directory: config.yaml, checkpoints/, store/ (the cumulative
maps), metrics.jsonl, tensorboard/ and pictures/.
"""

import dataclasses
import math
from pathlib import Path

import numpy as np

from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config, parse_config
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.data.sources import open_image_set
from dist_oaa.evaluation.table import quality_table
from dist_oaa.models.classifier import build_classifier
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.files import named_disk_errors
from dist_oaa.runtime.loop import Loop, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import prepare_run_dir
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.classify_stage import ClassifyStage
from dist_oaa.stages.gallery import Gallery
from dist_oaa.stages.measure import Measurement, Measurer, measured_images
from dist_oaa.stages.training import Trainable, machine, make_trainable, restore
from dist_oaa.store.facade import StoreWriter, prepare_store
from dist_oaa.store.manifest import Manifest


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    config = parse_config(ClassifyConfig, prog, argv)
    with open_world(config.runtime) as world, stop_on_signals() as stop:
        classify(config, world, stop)
    return 0


def classify(config: ClassifyConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Trains from the start, or from the last checkpoint, to the end.

    Returns:
        the measurements of the last epoch.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    run_dir = Path(config.run_dir)
    reporter = Reporter(world.is_first, config.runtime.log_every)
    image_set = world.agree(lambda: in_name_order(open_image_set(config.data)))
    gallery = gallery_images(image_set, config.evaluate.gallery)
    measurer = world.agree(lambda: Measurer(config, world, image_set, gallery))
    model, report = world.agree(
        lambda: build_classifier(config.model, len(image_set.class_names), config.seed)
    )
    manifest = manifest_of(image_set, config)
    world.agree(lambda: check_world(world, manifest))
    saved = dump_config(dataclasses.replace(config, resume=False))
    changes = world.only_first(lambda: prepare_run_dir(run_dir, saved, config.resume))
    manifest = world.only_first(lambda: prepare_store(run_dir / "store", manifest, config.resume))

    trainable = make_trainable(model, config.optim, world)
    position, generation = Position(), 0
    if config.resume:
        checkpoint, position = world.agree(lambda: restore(trainable, run_dir))
        generation = checkpoint.generation
    store = world.agree(
        lambda: StoreWriter(
            run_dir / "store",
            manifest,
            world.rank,
            world.size,
            generation,
            config.store.local_dir,
        )
    )
    tracker = loader = None
    try:
        accumulator = world.agree(lambda: AttentionAccumulator(store, world.device))
        if world.is_first:
            tracker = Tracker(run_dir, "classify", position.step if config.resume else None)
        announce(reporter, config, world, image_set, report.summary(), changes, position)
        loader = BatchLoader(
            image_set,
            config.data,
            model.trunk.stride,
            config.seed,
            pin=world.device.type == "cuda",
        )
        loop = build_loop(
            config, world, stop, image_set, trainable, loader, accumulator, position, measurer,
            tracker, reporter,
        )  # fmt: skip
        metrics = loop.run()
        conclude(reporter, config, image_set, position, metrics, tracker)
    finally:
        if loader is not None:
            loader.close()
        store.close()
        if tracker is not None:
            tracker.close()
    return metrics


def in_name_order(image_set: ImageSet) -> ImageSet:
    """The same images, numbered as the store's table numbers them."""
    return dataclasses.replace(
        image_set, samples=tuple(sorted(image_set.samples, key=lambda sample: sample.id))
    )


def gallery_images(image_set: ImageSet, count: int) -> np.ndarray:
    """Indices of the images that are drawn; always among the measured ones."""
    return measured_images(image_set, count) if count else np.array([], dtype=np.int64)


def manifest_of(image_set: ImageSet, config: ClassifyConfig) -> Manifest:
    """What the store of this run is about."""
    return Manifest(
        map_size=config.accumulate.map_size,
        dtype=config.accumulate.stored_dtype,
        fusion=config.accumulate.fusion,
        shards=config.store.shards,
        class_names=image_set.class_names,
        fingerprint=image_set.fingerprint,
        image_ids=tuple(sample.id for sample in image_set.samples),
        classes=tuple(sample.classes for sample in image_set.samples),
    )


def check_world(world: World, manifest: Manifest) -> None:
    """Refuses a world with ranks that would own no shard."""
    if world.size > manifest.shards:
        raise UserError(
            f"{world.size} processes were started, but store.shards is {manifest.shards}, "
            f"expected at least one shard for each process"
        )


def build_loop(
    config: ClassifyConfig,
    world: World,
    stop: StopFlag,
    image_set: ImageSet,
    trainable: Trainable,
    loader: BatchLoader,
    accumulator: AttentionAccumulator,
    position: Position,
    measurer: Measurer,
    tracker: Tracker | None,
    reporter: Reporter,
) -> Loop:
    """Puts stage, measuring and loop together."""
    order = EpochOrder(accumulator.store.manifest.shard_N, config.store.shards, config.seed)
    steps_per_epoch = order.steps(config.optim.batch_size)
    total_steps = config.optim.epochs * steps_per_epoch
    if config.optim.max_steps:
        total_steps = min(total_steps, config.optim.max_steps)
    epochs = math.ceil(total_steps / steps_per_epoch)
    gallery = None
    if tracker is not None:
        gallery = Gallery(Path(config.run_dir), image_set.class_names, config.data.pixel_limit)

    def show(found: Measurement, at: Position) -> None:
        if tracker is not None:
            tracker.text("per_class", per_class_table(found, image_set.class_names), at.step)
            with named_disk_errors(f"{config.run_dir}/pictures"):
                gallery.add(at.epoch, at.step, found.gallery, tracker)

    def measure(at: Position) -> dict[str, float]:
        last, every = at.epoch + 1 >= epochs, config.evaluate.every_epochs
        if not last and not (every and (at.epoch + 1) % every == 0):
            return {}
        chosen = measured_images(image_set, 0 if last else config.evaluate.images)
        found = measurer.measure(stage, np.union1d(chosen, measurer.gallery))
        world.agree(lambda: show(found, at))
        return found.metrics | per_class_metrics(found, image_set.class_names)

    stage = ClassifyStage(
        config, world, trainable, loader, order, accumulator, measure,
        last_pass=max(0, (total_steps - steps_per_epoch) // steps_per_epoch),
    )  # fmt: skip
    return Loop(
        world, stage, trainable.model, trainable.wrapped, trainable.optimizer, trainable.scaler,
        steps_per_epoch, total_steps, config.optim.accumulate, Path(config.run_dir),
        config.checkpoint, stop, reporter, tracker, config.runtime.log_every, position,
    )  # fmt: skip


def per_class_metrics(found: Measurement, class_names: tuple[str, ...]) -> dict[str, float]:
    """Recall and noise of each class that occurs, for metrics.jsonl."""
    return {
        f"per_class/{kind}/{measure}/{class_names[c]}": value
        for kind, classes in found.per_class.items()
        for c, values in classes.items()
        for measure, value in zip(("recall", "noise"), values, strict=True)
    }


def per_class_table(found: Measurement, class_names: tuple[str, ...]) -> str:
    """The same as a Markdown table, for TensorBoard."""
    lines = [
        "| class | CAM recall | CAM noise | cumulative recall | cumulative noise |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for c in sorted(found.per_class.get("cam", {})):
        cells = [*found.per_class["cam"][c], *found.per_class["cumulative"][c]]
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
    """Prints the result and how it was supervised."""
    if not metrics:
        reporter.say(f"{config.run_dir} is complete: {position.epoch} epochs were done before")
        return
    for sentence in position.skipped[:10]:
        reporter.say(f"skipped: {sentence}")
    reporter.say(
        f"accepted {100 * metrics['accept_rate']:.0f} % of the pairs in the last epoch; "
        f"{100 * metrics['coverage']:.0f} % were accepted at least once, "
        f"{100 * metrics['fallback']:.0f} % fell back to the last epoch's attention; "
        f"classifier mAP {100 * metrics['classifier/map']:.1f} % on these training images"
    )
    if "cam/recall" in metrics:
        rows = {
            "CAM (final classifier)": table_row(metrics, "cam"),
            f"cumulative ({config.accumulate.fusion})": table_row(metrics, "cumulative"),
        }
        reporter.console.print(quality_table(rows, title="attention quality, %"))
    reporter.say(supervision(config, image_set))
    reporter.say(
        f"maps: {config.run_dir}/store   pictures: {config.run_dir}/pictures   "
        f"curves: tensorboard --logdir {config.run_dir}"
    )
    if tracker is not None:
        plain = {
            key: getattr(getattr(config, group), key)
            for group, keys in {
                "model": ("backbone", "output_stride"),
                "optim": ("lr", "epochs", "batch_size"),
                "accumulate": ("gate", "fusion", "start_epoch", "map_size"),
                "data": ("size",),
            }.items()
            for key in keys
        }
        tracker.hparams(plain, {k: v for k, v in metrics.items() if not k.startswith("per_class/")})


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


def supervision(config: ClassifyConfig, image_set: ImageSet) -> str:
    """The audit line: all that the figures above owe to anything but the images."""
    saliency = config.evaluate.saliency_dir
    return (
        f"supervision: image-level labels ({image_set.label_source}); trunk weights "
        f"{config.model.weights}; saliency {saliency or 'none'}"
        f"{' (label figures only)' if saliency else ''}; CRF none; masks read for these figures "
        "only, and to choose the seed threshold"
    )
