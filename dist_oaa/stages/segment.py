"""`oaa segment`: train a segmentation network on pseudo labels.

Reads a data set and label images (a run of `oaa pseudo-label`, or a folder of PNGs); writes into
the run directory: config.yaml, classes.txt, supervision.json, checkpoints/, metrics.jsonl,
tensorboard/ and pictures/.
"""

import dataclasses
from contextlib import ExitStack, closing
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config
from dist_oaa.config.segment import SegmentConfig
from dist_oaa.data.label_images import LabelledCollate, LabelledImages
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.data.sources import layout_of, open_image_set
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import check_run_dir
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.tracking import open_tracker
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.runtime.watching.pulse import STARTING
from dist_oaa.stages.entering import begin, enter
from dist_oaa.stages.run_settings import difference
from dist_oaa.stages.segmenting.epoch_end import Validation
from dist_oaa.stages.segmenting.labels import Training, choose_training
from dist_oaa.stages.segmenting.report import (
    CHARTS,
    Origin,
    announce,
    comparison,
    conclude,
    draw_inputs,
    note_supervision,
    record_supervision,
)
from dist_oaa.stages.segmenting.stage import SegmentStage
from dist_oaa.stages.training import in_name_order, make_trainable, restore
from dist_oaa.store.ownership import assign_shards


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    return enter(SegmentConfig, segment, prog, argv)


@dataclasses.dataclass
class Prepared:
    """All that is settled before the training begins."""

    image_set: ImageSet
    images: LabelledImages
    order: EpochOrder
    plan: Plan
    trainable: Trainable
    validation: Validation
    position: Position
    origin: Origin
    changes: list[str]
    """Settings that differ from the run's beginning, one line each."""


def prepare(config: SegmentConfig, world: World) -> Prepared:
    """Checks everything that can be wrong, and only then makes the run directory.

    Raises:
        UserError: the same on every rank.
    """
    run_dir = Path(config.run_dir)
    world.only_first(lambda: check_run_dir(run_dir, config.resume))
    world.agree(lambda: check_world(config, world))
    image_set = world.agree(lambda: in_name_order(open_image_set(config.data)))
    training, labels = world.agree(lambda: choose_training(config, image_set))
    measured = world.agree(lambda: validation_images(config, image_set, training))
    network, weights = world.agree(lambda: build_network(config, image_set))
    trainable = world.agree(lambda: make_trainable(network, config.optim, world))
    plan = Plan.of(config.optim, len(training.samples))
    validation = Validation(config, world, measured, image_set, plan, network)
    shards = config.segment.shards
    ids = [sample.id for sample in training.samples]
    order = EpochOrder(assign_shards(ids, shards), shards, config.seed, config.optim.groups)
    images = LabelledImages(training.samples, config.data, len(image_set.class_names), config.seed)
    position = Position()
    if config.resume:
        _, position = world.agree(lambda: restore(trainable, run_dir))
    origin = Origin(training, labels, weights)
    saved = dump_config(dataclasses.replace(config, resume=False))
    changes = begin(world, run_dir, saved, image_set.class_names)
    world.only_first(lambda: record_supervision(config, origin))
    return Prepared(
        image_set, images, order, plan, trainable, validation, position, origin, changes
    )


def check_world(config: SegmentConfig, world: World) -> None:
    """Refuses settings that this many processes cannot work with.

    Raises:
        UserError: more processes than shards, or batch norm that cannot be synchronised.
    """
    if world.size > config.segment.shards:
        raise UserError(
            f"{world.size} processes were started, but segment.shards is "
            f"{config.segment.shards}, expected at least one shard for each process"
        )
    if config.network.batch_norm != "sync" or world.size == 1:
        return
    if world.device.type != "cuda":
        raise UserError(
            "network.batch_norm is sync, which needs GPUs where there are several processes; use "
            "frozen or train"
        )
    if config.optim.accumulate > 1:
        # Ranks may have different numbers of micro-batches; the layers would wait for each other.
        raise UserError(
            f"network.batch_norm is sync and optim.accumulate {config.optim.accumulate}, expected "
            "1: statistics of a part of a batch are not those of the batch"
        )


def validation_images(
    config: SegmentConfig, image_set: ImageSet, training: Training
) -> ImageSet | None:
    """The images to measure on, in the order of names; None where there is no list of any.

    Raises:
        UserError: the list cannot be read, has other classes, or holds images whose true mask is
            trained on.
    """
    split = config.evaluate.split
    if not split or layout_of(config.data) not in ("voc", "coco"):
        return None  # other layouts have no masks
    try:
        found = open_image_set(dataclasses.replace(config.data, split=split, limit=0))
    except UserError as error:
        raise UserError(str(error).replace("data.split", "evaluate.split")) from error
    if found.class_names != image_set.class_names:
        raise UserError(
            f"the list {split} (evaluate.split) has other classes than {config.data.split}: "
            f"{difference(found.class_names, image_set.class_names)}; set data.classes"
        )
    ids = {sample.id for sample in found.samples}
    known = sum(sample.is_truth and sample.id in ids for sample in training.samples)
    if known:
        raise UserError(
            f"data.pixel_fraction takes the true masks of {known} images that are measured "
            f"(evaluate.split {split}): choose another list for one of them"
        )
    return in_name_order(found)


def build_network(config: SegmentConfig, image_set: ImageSet) -> tuple[SegmentationNetwork, str]:
    """The network to train, on the CPU, and a phrase about where its weights come from.

    Raises:
        UserError: when the pretrained weights cannot be had.
    """
    network, report = build_segmenter(config.network, len(image_set.class_names), config.seed)
    return network, report.summary()


def segment(config: SegmentConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Trains from the start, or from the last checkpoint, to the end.

    Returns:
        the figures of the last epoch; none where everything was done before.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    reporter = Reporter(world.is_first, config.runtime.log_every)
    with world.pulse.doing(STARTING):
        ready = prepare(config, world)
    run_dir, position, validation = Path(config.run_dir), ready.position, ready.validation
    measured, origin = validation.image_set, ready.origin
    announce(reporter, config, world, origin, measured, ready.changes, position)
    with ExitStack() as stack:
        place = run_dir, "segment", position.step, position.epoch
        validation.tracker = open_tracker(world, stack, CHARTS, comparison(config), *place)
        if not config.resume:
            world.only_first(lambda: note_supervision(config, origin, validation.tracker))
            world.only_first(lambda: draw_inputs(config, ready.images, validation.tracker))
        stage = SegmentStage(
            config,
            world,
            ready.trainable,
            stack.enter_context(closing(open_loader(config, ready, world))),
            ready.order,
            origin.training.true_masks / len(origin.training.samples),
            validation,
        )
        metrics = stage.train(
            ready.plan, position, stop, reporter, validation.tracker, save_before_end=True
        )
        about = ready.image_set.class_names, position, metrics, validation.result
        world.agree(lambda: conclude(reporter, config, origin, *about))
    return metrics


def open_loader(config: SegmentConfig, ready: Prepared, world: World) -> BatchLoader:
    """Batches of images with their labels."""
    return BatchLoader(
        ready.image_set,
        config.data,
        ready.trainable.model.stride,
        config.seed,
        pin=world.device.type == "cuda",
        pulse=world.pulse,
        images=ready.images,
        collate=LabelledCollate(ready.images.samples, config.data.augment.crop),
    )
