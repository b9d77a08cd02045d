"""`oaa classify`: train a classifier on image-level labels while its attention accumulates.

Reads a data set; writes into the run directory: config.yaml, checkpoints/, store/ (the cumulative
maps), metrics.jsonl, tensorboard/ and pictures/.
"""

import dataclasses
from contextlib import ExitStack, closing
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
from dist_oaa.models.classifier import build_classifier
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.loop import Loop, Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import prepare_run_dir
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.classify_report import CHARTS, announce, conclude
from dist_oaa.stages.classify_stage import ClassifyStage
from dist_oaa.stages.epoch_end import EpochEnd
from dist_oaa.stages.measure import Measurer, measured_images
from dist_oaa.stages.training import make_trainable, restore
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
    plan = Plan.of(config.optim, len(image_set))
    manifest = world.agree(lambda: manifest_of(image_set, config))
    world.agree(lambda: check_plan(config, plan, world))
    gallery = gallery_images(image_set, config.evaluate.gallery)
    measurer = world.agree(lambda: Measurer(config, world, image_set, gallery))
    model, weights = world.agree(
        lambda: build_classifier(config.model, len(image_set.class_names), config.seed)
    )
    saved = dump_config(dataclasses.replace(config, resume=False))
    changes = world.only_first(lambda: prepare_run_dir(run_dir, saved, config.resume))
    manifest = world.only_first(lambda: prepare_store(run_dir / "store", manifest, config.resume))

    trainable, position, generation = make_trainable(model, config.optim, world), Position(), 0
    if config.resume:
        checkpoint, position = world.agree(lambda: restore(trainable, run_dir))
        generation = checkpoint.generation
    with ExitStack() as stack:
        store = world.agree(lambda: open_store(config, world, manifest, generation))
        stack.enter_context(closing(store))
        accumulator = world.agree(lambda: AttentionAccumulator(store, world.device))
        tracker = None
        if world.is_first:
            resumed = position.step if config.resume else None
            tracker = Tracker(run_dir, "classify", resumed, position.epoch)
            tracker.charts(CHARTS)
            stack.enter_context(closing(tracker))
        pin = world.device.type == "cuda"
        loader = BatchLoader(image_set, config.data, model.trunk.stride, config.seed, pin)
        stack.enter_context(closing(loader))
        order = EpochOrder(manifest.shard_N, manifest.shards, config.seed)
        epoch_end = EpochEnd(config, world, image_set, plan, measurer, tracker)
        stage = ClassifyStage(
            config, world, trainable, loader, order, accumulator, epoch_end, plan.last_pass
        )
        announce(reporter, config, world, image_set, weights.summary(), changes, position)
        loop = Loop(
            world=world,
            stage=stage,
            trainable=trainable,
            plan=plan,
            run_dir=run_dir,
            checkpoints=config.checkpoint,
            stop=stop,
            reporter=reporter,
            tracker=tracker,
            log_every=config.runtime.log_every,
            position=position,
        )
        metrics = loop.run()
        conclude(reporter, config, image_set, position, metrics, tracker)
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
    """What the store of this run is about.

    Raises:
        UserError: when an image's name cannot be kept in a store.
    """
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


def check_plan(config: ClassifyConfig, plan: Plan, world: World) -> None:
    """Refuses a run that could not do what it is for.

    Raises:
        UserError: when ranks would own no shard, or no epoch would be accumulated.
    """
    if world.size > config.store.shards:
        raise UserError(
            f"{world.size} processes were started, but store.shards is {config.store.shards}, "
            "expected at least one shard for each process"
        )
    if config.accumulate.start_epoch >= plan.epochs:
        raise UserError(
            f"accumulate.start_epoch is {config.accumulate.start_epoch} (counted from 0), but the "
            f"run has {plan.epochs} epochs: nothing would be accumulated"
        )


def open_store(
    config: ClassifyConfig, world: World, manifest: Manifest, generation: int
) -> StoreWriter:
    """The shards of this rank, open for writing.

    Raises:
        UserError: see StoreWriter.
    """
    return StoreWriter(
        Path(config.run_dir) / "store",
        manifest,
        world.rank,
        world.size,
        generation,
        config.store.local_dir,
    )
