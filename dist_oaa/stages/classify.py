"""`oaa classify`: train a classifier on image-level labels while its attention accumulates.

Reads a data set; writes into the run directory: config.yaml, checkpoints/, store/ (the cumulative
maps), metrics.jsonl, tensorboard/ and pictures/.
"""

import dataclasses
from contextlib import ExitStack, closing
from pathlib import Path

from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.attention.batch import Rules
from dist_oaa.attention.fusions import find_fusion, stored_dtype
from dist_oaa.config.accumulate import AccumulateConfig
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config
from dist_oaa.data.holdout import kept
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.data.sources import open_image_set
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.weights import WeightsReport
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import check_run_dir, was_cut_off
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.tracking import open_tracker
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.runtime.watching.pulse import STARTING
from dist_oaa.stages.classifying.epoch_end import EpochEnd
from dist_oaa.stages.classifying.measure import Measurer
from dist_oaa.stages.classifying.report import announce, charts, comparison, conclude
from dist_oaa.stages.classifying.stage import ClassifyStage
from dist_oaa.stages.entering import begin, enter
from dist_oaa.stages.tally import drawn_images
from dist_oaa.stages.training import in_name_order, make_trainable, restore
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.writer import StoreWriter, prepare_store


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    return enter(ClassifyConfig, classify, prog, argv)


@dataclasses.dataclass
class Prepared:
    """All that is settled before the store is opened."""

    image_set: ImageSet
    plan: Plan
    measurer: Measurer
    trainable: Trainable
    weights: WeightsReport
    rules: dict[str, Rules]
    """By kind of map: the run's own rule first, then those that are compared with it."""
    manifests: dict[str, Manifest]
    """The store of each rule."""
    position: Position
    generation: int
    """The published generation of the store, 0 for a new one."""
    changes: list[str]
    """Settings that differ from the run's beginning, one line each."""


def prepare(config: ClassifyConfig, world: World) -> Prepared:
    """Checks everything that can be wrong, and only then makes the run directory.

    Raises:
        UserError: the same on every rank.
    """
    run_dir = Path(config.run_dir)
    image_set = world.agree(lambda: training_images(config))
    plan = Plan.of(config.optim, len(image_set))
    rules = rules_of(config.accumulate)
    manifests = world.agree(
        lambda: {kind: manifest_of(image_set, config, rule.fusion) for kind, rule in rules.items()}
    )
    world.agree(lambda: check_plan(config, plan, world))
    gallery = world.agree(lambda: drawn_images(image_set, config.evaluate))
    measurer = world.agree(lambda: Measurer(config, world, image_set, gallery))
    model, weights = world.agree(
        lambda: build_classifier(config.model, len(image_set.class_names), config.seed)
    )
    trainable = world.agree(lambda: make_trainable(model, config.optim, world))
    world.only_first(lambda: check_run_dir(run_dir, config.resume))
    manifests = world.only_first(
        lambda: {
            kind: prepare_store(
                store_folder(run_dir, kind), manifest, config.resume, was_cut_off(run_dir)
            )
            for kind, manifest in manifests.items()
        }
    )
    position, generation = Position(), 0
    if config.resume:
        checkpoint, position = world.agree(lambda: restore(trainable, run_dir))
        generation = checkpoint.generation
    saved = dump_config(dataclasses.replace(config, resume=False))
    changes = begin(world, run_dir, saved, image_set.class_names)
    return Prepared(
        image_set,
        plan,
        measurer,
        trainable,
        weights,
        rules,
        manifests,
        position,
        generation,
        changes,
    )


def classify(config: ClassifyConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Trains from the start, or from the last checkpoint, to the end.

    Returns:
        the measurements of the last epoch.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    with world.pulse.doing(STARTING):
        ready = prepare(config, world)
    run_dir, position = Path(config.run_dir), ready.position
    reporter = Reporter(world.is_first, config.runtime.log_every)
    with ExitStack() as stack:
        accumulators = world.agree(lambda: open_accumulators(config, world, ready, stack))
        place = run_dir, "classify", position.step, position.epoch
        tracker = open_tracker(world, stack, charts(config), comparison(config), *place)
        pin, stride = world.device.type == "cuda", ready.trainable.model.trunk.stride
        loader = BatchLoader(
            ready.image_set, config.data, stride, config.seed, pin, pulse=world.pulse
        )
        stack.enter_context(closing(loader))
        manifest = next(iter(ready.manifests.values()))
        order = EpochOrder(manifest.shard_N, manifest.shards, config.seed, config.optim.groups)
        epoch_end = EpochEnd(config, world, ready.image_set, ready.plan, ready.measurer, tracker)
        stage = ClassifyStage(
            config,
            world,
            ready.trainable,
            loader,
            order,
            accumulators,
            ready.rules,
            epoch_end,
            ready.plan.last_pass,
        )
        weights, changes = ready.weights.summary(), ready.changes
        announce(reporter, config, world, ready.image_set, weights, changes, position)
        metrics = stage.train(ready.plan, position, stop, reporter, tracker)
        about = ready.image_set, position, metrics
        world.agree(lambda: conclude(reporter, config, *about))
    return metrics


def training_images(config: ClassifyConfig) -> ImageSet:
    """The images that the run trains on, in the order of their names.

    Raises:
        UserError: when the data set cannot be opened, nothing is left of it after the images that
            are held out, or an image has not the one class of `model.labels: single`.
    """
    whole = open_image_set(config.data)
    image_set = in_name_order(kept(whole, config.data.holdout))
    if config.model.labels == "multi":
        return image_set
    if len(image_set.class_names) < 2:
        raise UserError(
            f"model.labels is single, but data.root {config.data.root} has only the class "
            f"{image_set.class_names[0]!r}, expected two or more to choose from"
        )
    for sample in image_set.samples:
        if len(sample.classes) != 1:
            names = ", ".join(image_set.class_names[c] for c in sample.classes)
            raise UserError(
                f"model.labels is single, but image {sample.id!r} has {len(sample.classes)} "
                f"classes ({names}) in {image_set.label_source} of {config.data.root}; expected "
                "one class for each image, or model.labels multi"
            )
    return image_set


def rules_of(settings: AccumulateConfig) -> dict[str, Rules]:
    """By kind of map, as metrics name it: the run's own rule, then the compared ones."""
    chosen = [("cumulative", settings.gate, settings.fusion)]
    chosen += [(f"cumulative_{name}", gate, fusion) for name, gate, fusion in settings.compared]
    return {
        kind: Rules(gate, settings.tau, fusion, rho=settings.rho) for kind, gate, fusion in chosen
    }


def store_folder(run_dir: Path, kind: str) -> Path:
    """Where the maps of a rule lie: store, or store-NAME for a compared one."""
    return run_dir / kind.replace("cumulative", "store", 1).replace("_", "-", 1)


def manifest_of(image_set: ImageSet, config: ClassifyConfig, fusion: str) -> Manifest:
    """What a store of this run is about.

    Raises:
        UserError: when the fusion is unknown or an image's name cannot be kept in a store.
    """
    return Manifest(
        map_size=config.accumulate.map_size,
        dtype=stored_dtype(config.accumulate.dtype, find_fusion(fusion)),
        fusion=fusion,
        shards=config.store.shards,
        class_names=image_set.class_names,
        fingerprint=image_set.fingerprint,
        image_ids=tuple(sample.id for sample in image_set.samples),
        classes=tuple(sample.classes for sample in image_set.samples),
    )


def check_plan(config: ClassifyConfig, plan: Plan, world: World) -> None:
    """Refuses a run that could not do what it is for.

    Raises:
        UserError: when ranks would own no shard, or no epoch would be accumulated or taught to the
            second branch.
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
    first = config.model.two_branch.start_epoch
    if config.model.variant == "two_branch" and first >= plan.epochs:
        raise UserError(
            f"model.two_branch.start_epoch is {first} (counted from 0), but the run has "
            f"{plan.epochs} epochs: the second branch would learn nothing"
        )


def open_accumulators(
    config: ClassifyConfig, world: World, ready: Prepared, stack: ExitStack
) -> dict[str, AttentionAccumulator]:
    """The maps of this rank by kind, open for writing until the stack ends.

    Raises:
        UserError: see StoreWriter and AttentionAccumulator.
    """
    accumulators = {}
    for kind, manifest in ready.manifests.items():
        folder = store_folder(Path(config.run_dir), kind)
        writer = StoreWriter(
            folder,
            manifest,
            world.rank,
            world.size,
            ready.generation,
            config.store.local_dir,
            config.optim.groups,
        )
        store = stack.enter_context(closing(writer))
        accumulators[kind] = AttentionAccumulator(store, world.device)
    return accumulators
