"""`oaa integral`: train the integral attention model on the maps of an earlier run (OAA+).

Reads a data set and maps (a store, a run directory or an export folder); writes into the run
directory: config.yaml, classes.txt, checkpoints/, metrics.jsonl, tensorboard/, pictures/ and, at
the end, attention/ with the model's own maps of all images.
"""

import dataclasses
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
import torch

from dist_oaa.attention.bank import DTYPES
from dist_oaa.attention.targets import TargetMaps
from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.config.integral import IntegralConfig
from dist_oaa.config.load import dump_config
from dist_oaa.data.holdout import kept
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.data.sources import open_image_set
from dist_oaa.models.classifier import OnlineCAMClassifier, build_classifier
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import check_run_dir
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.tracking import open_tracker
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.runtime.watching.pulse import STARTING
from dist_oaa.stages.entering import begin, enter
from dist_oaa.stages.integrating.epoch_end import IntegralEnd
from dist_oaa.stages.integrating.report import CHARTS, Origin, announce, comparison, conclude
from dist_oaa.stages.integrating.stage import IntegralStage
from dist_oaa.stages.run_settings import difference
from dist_oaa.stages.trained import load_classifier
from dist_oaa.stages.training import in_name_order, make_trainable, restore
from dist_oaa.store.maps import MapSource, open_maps
from dist_oaa.store.ownership import assign_shards


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    return enter(IntegralConfig, integral, prog, argv)


@dataclasses.dataclass
class Prepared:
    """All that is settled before the training begins."""

    image_set: ImageSet
    source: MapSource
    targets: TargetMaps
    order: EpochOrder
    plan: Plan
    trainable: Trainable
    end: IntegralEnd
    position: Position
    origin: Origin
    changes: list[str]
    """Settings that differ from the run's beginning, one line each."""


def prepare(config: IntegralConfig, world: World, stop: StopFlag, reporter: Reporter) -> Prepared:
    """Checks everything that can be wrong, and only then makes the run directory.

    Raises:
        UserError: the same on every rank.
    """
    run_dir = Path(config.run_dir)
    world.only_first(lambda: check_run_dir(run_dir, config.resume))
    image_set = world.agree(
        lambda: in_name_order(kept(open_image_set(config.data), config.data.holdout))
    )
    source = world.agree(lambda: open_targets(config, image_set))
    world.agree(lambda: check_shards(config, world))
    plan = Plan.of(config.optim, len(image_set))
    model, weights = world.agree(lambda: build_model(config, image_set))
    trainable = world.agree(lambda: make_trainable(model, config.optim, world))
    end = world.agree(
        lambda: IntegralEnd(config, world, image_set, source, plan, model, stop, reporter)
    )
    ids = [sample.id for sample in image_set.samples]
    shards, groups = config.integral.shards, config.optim.groups
    order = EpochOrder(assign_shards(ids, shards), shards, config.seed, groups)
    targets = world.agree(lambda: load_targets(world, image_set, source, order))
    position = Position()
    if config.resume:
        _, position = world.agree(lambda: restore(trainable, run_dir))
    unknown = int(world.sum(np.array([targets.unknown], dtype=np.int64))[0])
    mapped = len({image_id for image_id, _ in source.pairs})
    origin = Origin(source, weights, unknown, len(image_set) - mapped)
    saved = dump_config(dataclasses.replace(config, resume=False))
    changes = begin(world, run_dir, saved, image_set.class_names)
    return Prepared(
        image_set, source, targets, order, plan, trainable, end, position, origin, changes
    )


def open_targets(config: IntegralConfig, image_set: ImageSet) -> MapSource:
    """The maps to learn from; they must be of this data set.

    Raises:
        UserError: when there are none, or they are of other classes, images or labels.
    """
    if not config.maps:
        raise UserError(
            "maps is empty, expected a run directory, a store or a folder of `oaa store export`"
        )
    source = open_maps(config.maps)
    there, here = source.class_names, image_set.class_names
    if there != here:
        raise UserError(
            f"{source.folder} has other classes than data.root {config.data.root}: "
            f"{difference(there, here)}; expected maps of this data set"
        )
    classes = {sample.id: sample.classes for sample in image_set.samples}
    for image_id, class_index in source.pairs:
        if image_id not in classes:
            raise UserError(
                f"{source.folder} has a map of image {image_id!r}, which is not among the "
                f"{len(image_set)} images of data.root {config.data.root}; expected maps of these "
                "images (data.split and data.limit of the run that made them?)"
            )
        if class_index not in classes[image_id]:
            raise UserError(
                f"{source.folder} has a map of image {image_id!r} and class {here[class_index]!r}, "
                f"which is no label of that image in {image_set.label_source} of data.root "
                f"{config.data.root}; expected maps made with these labels"
            )
    if not source.pairs:
        raise UserError(f"{source.folder} has no map of any image, expected some to learn from")
    return source


def check_shards(config: IntegralConfig, world: World) -> None:
    """Refuses a world in which some rank would visit no image.

    Raises:
        UserError: when there are more processes than shards.
    """
    if world.size > config.integral.shards:
        raise UserError(
            f"{world.size} processes were started, but integral.shards is "
            f"{config.integral.shards}, expected at least one shard for each process"
        )


def build_model(config: IntegralConfig, image_set: ImageSet) -> tuple[OnlineCAMClassifier, str]:
    """The network to train, on the CPU, and a phrase about where its weights come from.

    Raises:
        UserError: when the pretrained weights cannot be had, or integral.init is no run of this
            network and these classes.
    """
    init, classes = config.integral.init, image_set.class_names
    if not init:
        model, report = build_classifier(config.model, len(classes), config.seed)
        return model, report.summary()
    model, _ = build_classifier(
        dataclasses.replace(config.model, weights="none"), len(classes), config.seed
    )
    if config.resume:  # its weights come from the run's own checkpoint
        return model, f"began with all weights of {init}"
    trained = load_classifier(Path(init))
    if trained.class_names != classes:
        raise UserError(
            f"integral.init {init} has other classes than data.root {config.data.root}: "
            f"{difference(trained.class_names, classes)}; expected a classifier of these classes"
        )
    try:
        model.load_state_dict(trained.model.state_dict())
    except RuntimeError as error:
        reason = in_one_line(error)
        raise UserError(
            f"integral.init {init} holds another network than the settings of model say; expected "
            f"those in {Path(init) / 'config.yaml'} ({reason})"
        ) from error
    return model, f"all weights from {init}, step {trained.step}"


def load_targets(
    world: World, image_set: ImageSet, source: MapSource, order: EpochOrder
) -> TargetMaps:
    """The maps of the images that this rank visits, on its device.

    Raises:
        UserError: when a map is damaged.
    """
    mine_N = order.owner_N(world.size) == world.rank
    samples = image_set.samples
    index = {sample.id: n for n, sample in enumerate(samples) if mine_N[n]}
    classes = [sample.classes for sample in samples]
    dtype: torch.dtype = DTYPES[source.dtype]
    targets = TargetMaps(classes, mine_N, source.map_size, dtype, world.device)
    targets.load((index[name], c, map_SS) for name, c, map_SS in source.of(index.keys()))
    return targets


def integral(config: IntegralConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Trains from the start, or from the last checkpoint, to the end, and writes the maps.

    Returns:
        the figures of the final maps; none where everything was there before.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    reporter = Reporter(world.is_first, config.runtime.log_every)
    with world.pulse.doing(STARTING):
        ready = prepare(config, world, stop, reporter)
    run_dir, position, end = Path(config.run_dir), ready.position, ready.end
    announce(reporter, config, world, ready.image_set, ready.origin, ready.changes, position)
    with ExitStack() as stack:
        place = run_dir, "integral", position.step, position.epoch
        end.tracker = open_tracker(world, stack, CHARTS, comparison(config), *place)
        pin, stride = world.device.type == "cuda", ready.trainable.model.trunk.stride
        end.loader = BatchLoader(
            ready.image_set, config.data, stride, config.seed, pin, pulse=world.pulse
        )
        stack.enter_context(closing(end.loader))
        stage = IntegralStage(
            config, world, ready.trainable, end.loader, ready.order, ready.targets, end
        )
        metrics = stage.train(
            ready.plan, position, stop, reporter, end.tracker, save_before_end=True
        ) or end.make_up(position)
        about = ready.image_set, ready.origin, position, metrics
        world.agree(lambda: conclude(reporter, config, *about))
    return metrics
