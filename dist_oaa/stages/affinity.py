"""`oaa affinity`: train a network that tells which neighbouring cells belong together.

Reads a data set and pseudo labels; writes into the run directory: config.yaml, classes.txt,
checkpoints/, metrics.jsonl, tensorboard/ and pictures/. `oaa pseudo-label` walks along what it
has learnt (labels.random_walk.affinity: learned).
"""

import dataclasses
from contextlib import ExitStack, closing
from pathlib import Path

from dist_oaa.config.affinity import AffinityConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config
from dist_oaa.data.affinity_labels import (
    CollateCells,
    ConfidentLabels,
    LabelledCells,
)
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.data.sources import open_image_set
from dist_oaa.models.affinity_net import AffinityNet, build_affinity_net
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Plan, Position
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import check_run_dir
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.runtime.tracking import Tracker, open_tracker
from dist_oaa.runtime.trainable import Trainable
from dist_oaa.runtime.watching.pulse import STARTING
from dist_oaa.stages.entering import begin, enter
from dist_oaa.stages.learned_affinity import LearnedAffinity
from dist_oaa.stages.pairing.pictures import draw_boundaries
from dist_oaa.stages.pairing.report import CHARTS, Origin, announce, comparison, conclude
from dist_oaa.stages.pairing.stage import PairStage
from dist_oaa.stages.segmenting.labels import open_labels
from dist_oaa.stages.tally import gallery_images
from dist_oaa.stages.trained import load_classifier
from dist_oaa.stages.training import in_name_order, make_trainable, restore
from dist_oaa.store.ownership import assign_shards


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    return enter(AffinityConfig, affinity, prog, argv)


@dataclasses.dataclass
class Prepared:
    """All that is settled before the training begins."""

    image_set: ImageSet
    order: EpochOrder
    plan: Plan
    trainable: Trainable
    position: Position
    origin: Origin
    changes: list[str]
    """Settings that differ from the run's beginning, one line each."""


def prepare(config: AffinityConfig, world: World) -> Prepared:
    """Checks everything that can be wrong, and only then makes the run directory.

    Raises:
        UserError: the same on every rank.
    """
    run_dir, settings = Path(config.run_dir), config.affinity
    world.only_first(lambda: check_run_dir(run_dir, config.resume))
    image_set = world.agree(lambda: in_name_order(open_image_set(config.data)))
    image_set, labels, supervision = world.agree(lambda: choose_labels(config, image_set))
    if world.size > settings.shards:
        raise UserError(
            f"{world.size} processes were started, but affinity.shards is {settings.shards}, "
            "expected at least one shard for each process"
        )
    network, weights = world.agree(lambda: build_network(config))
    trainable = world.agree(lambda: make_trainable(network, config.optim, world))
    ids = [sample.id for sample in image_set.samples]
    shards, groups = settings.shards, config.optim.groups
    order = EpochOrder(assign_shards(ids, shards), shards, config.seed, groups)
    position = Position()
    if config.resume:
        _, position = world.agree(lambda: restore(trainable, run_dir))
    saved = dump_config(dataclasses.replace(config, resume=False))
    changes = begin(world, run_dir, saved, image_set.class_names)
    plan = Plan.of(config.optim, len(image_set))
    return Prepared(
        image_set, order, plan, trainable, position, Origin(labels, weights, supervision), changes
    )


def choose_labels(
    config: AffinityConfig, image_set: ImageSet
) -> tuple[ImageSet, ConfidentLabels, tuple[str, ...]]:
    """The label images to learn from, and the images that have one.

    Returns:
        the images without those of which labels.json says that they could not be read, their
        labels, and what these were made from, line by line.

    Raises:
        UserError: when a folder or a file is missing, or the labels are of other classes.
    """
    names = image_set.class_names
    sources = [open_labels(config.labels, names)]
    if config.background_labels:
        sources.append(open_labels(config.background_labels, names))
    skipped = frozenset().union(*(source.skipped for source in sources))
    samples = tuple(s for s in image_set.samples if s.id not in skipped)
    if not samples:
        raise UserError(f"{sources[0].folder} has a label for none of the {len(image_set)} images")
    behind = sources[1].folder if config.background_labels else None
    labels = ConfidentLabels(sources[0].folder, behind, len(names))
    labels.check(samples)
    supervision = tuple(dict.fromkeys(line for s in sources for line in s.supervision))
    return dataclasses.replace(image_set, samples=samples), labels, supervision


def build_network(config: AffinityConfig) -> tuple[AffinityNet, str]:
    """The network to train, on the CPU, and a phrase about where its weights come from.

    Raises:
        UserError: when the pretrained weights cannot be had, or affinity.init is no run with this
            trunk.
    """
    init = config.affinity.init
    if not init:
        network, report = build_affinity_net(config.model, config.affinity, config.seed)
        return network, report.summary()
    bare = dataclasses.replace(config.model, weights="none")
    network, _ = build_affinity_net(bare, config.affinity, config.seed)
    if config.resume:  # its weights come from the run's own checkpoint
        return network, f"began with the trunk of {init}"
    trained = load_classifier(Path(init))
    for key in ("backbone", "normalise"):
        there, here = getattr(trained.config, key), getattr(config.model, key)
        if there != here:
            raise UserError(
                f"affinity.init {init} has model.{key} {there}, and model.{key} is {here} here; "
                "expected the same"
            )
    given, wanted = trained.model.trunk.state_dict(), network.trunk.state_dict()
    missing = [name for name in wanted if name not in given]
    if missing:
        raise UserError(
            f"affinity.init {init} lacks {len(missing)} of the {len(wanted)} tensors of the trunk "
            f"(first {missing[0]}): its model.out_index is {trained.config.out_index}, expected "
            f"affinity.levels no deeper than that instead of {config.affinity.levels}"
        )
    network.trunk.load_state_dict({name: given[name] for name in wanted})
    return network, f"trunk of {init}, step {trained.step}"


def affinity(config: AffinityConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Trains from the start, or from the last checkpoint, to the end.

    Returns:
        the figures of the last epoch; none where everything was there before.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    reporter = Reporter(world.is_first, config.runtime.log_every)
    with world.pulse.doing(STARTING):
        ready = prepare(config, world)
    run_dir, position = Path(config.run_dir), ready.position
    announce(reporter, config, world, ready.image_set, ready.origin, ready.changes, position)
    with ExitStack() as stack:
        place = run_dir, "affinity", position.step, position.epoch
        tracker = open_tracker(world, stack, CHARTS, comparison(config), *place)
        loader = open_loader(config, world, ready)
        stack.enter_context(closing(loader))

        def draw(at: Position) -> None:
            if at.epoch + 1 >= ready.plan.epochs:
                world.only_first(lambda: draw_gallery(config, ready, at.step, tracker))

        stage = PairStage(config, world, ready.trainable, loader, ready.order, draw)
        metrics = stage.train(ready.plan, position, stop, reporter, tracker)
        about = ready.image_set, ready.origin, position, metrics
        world.agree(lambda: conclude(reporter, config, *about))
    return metrics


def open_loader(config: AffinityConfig, world: World, ready: Prepared) -> BatchLoader:
    """Loads images with the labels of their cells."""
    network, stride = ready.trainable.model, config.affinity.stride
    images = LabelledCells(
        ready.image_set, ready.origin.labels, config.data, network.multiple, stride, config.seed
    )
    return BatchLoader(
        ready.image_set,
        config.data,
        network.multiple,
        config.seed,
        pin=world.device.type == "cuda",
        pulse=world.pulse,
        images=images,
        collate=CollateCells(ready.image_set, stride),
    )


def draw_gallery(config: AffinityConfig, ready: Prepared, step: int, tracker: Tracker) -> None:
    """The picture of learned boundaries, on rank 0.

    Raises:
        UserError: when an image or label cannot be used, or the disk refuses.
    """
    network = ready.trainable.model
    samples = ready.image_set.samples
    chosen = [samples[i] for i in gallery_images(ready.image_set, config.affinity.gallery)]
    learned = LearnedAffinity(
        network.eval(), config.data, config.affinity, ready.image_set.class_names, step
    )
    draw_boundaries(Path(config.run_dir), learned, ready.origin.labels, chosen, step, tracker)
