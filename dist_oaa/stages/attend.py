"""`oaa attend`: the attention maps of a trained classifier over a data set.

Reads the run directory of the classifier and a data set; writes into its own run directory, all at
once when the last image is done: attention/, config.yaml, classes.txt, metrics.jsonl, tensorboard/
and pictures/attention.png.
"""

import dataclasses
from pathlib import Path

from dist_oaa.config.attend import AttendConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config, parse_config
from dist_oaa.config.model import OptimConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sources import open_image_set
from dist_oaa.evaluation.pictures import save_png
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.latest import LATEST
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import CLASSES, save_settings
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.runtime.tracking import Tracker
from dist_oaa.stages.attending import Attender, check_new
from dist_oaa.stages.gallery import attention_picture
from dist_oaa.stages.reporting import per_class_metrics, say_supervision, show_quality
from dist_oaa.stages.run_settings import CHOOSING, inherited_data
from dist_oaa.stages.tally import Measurement
from dist_oaa.stages.trained import Trained, load_classifier, trained_data
from dist_oaa.stages.training import machine

KIND = "attention"


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    given = parse_config(AttendConfig, prog, argv)
    config = parse_config(AttendConfig, prog, [*inherited(given), *argv])
    with open_world(config.runtime) as world, stop_on_signals() as stop:
        attend(config, world, stop)
    return 0


def inherited(given: AttendConfig) -> list[str]:
    """The `data` settings of the checkpoint's run, as arguments before those of the user.

    Raises:
        UserError: when there is no such run.
    """
    if not given.checkpoint:
        raise UserError("checkpoint is empty, expected the run directory of a trained classifier")
    theirs = trained_data(Path(given.checkpoint))
    return inherited_data(theirs, given.data, (*CHOOSING, "split", "limit"))


def attend(config: AttendConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Writes and measures the maps; returns the figures.

    Raises:
        UserError, Interrupted: see config/errors.py; the same on every rank.
    """
    run_dir = Path(config.run_dir)
    world.only_first(lambda: check_folder(run_dir))
    trained = world.agree(lambda: load_classifier(Path(config.checkpoint)))
    image_set = world.agree(lambda: images_of(config, trained))
    reporter = Reporter(world.is_first, config.runtime.log_every)
    attender = world.agree(
        lambda: Attender(
            world,
            image_set,
            config.data,
            config.views,
            config.evaluate,
            OptimConfig(batch_size=config.batch_size, precision=config.precision),
            trained.model,
            trained.activation if config.activation == "auto" else config.activation,
            KIND,
            config.map_size,
            stop,
            reporter,
        )
    )
    announce(reporter, config, world, image_set, trained)
    found = attender.run(
        run_dir / "attention", lambda found: save_all(config, image_set, trained, found)
    )
    report(reporter, config, image_set, trained, attender, found)
    return found.metrics


def check_folder(run_dir: Path) -> None:
    """Refuses a run directory whose results would be overwritten.

    Raises:
        UserError: when it holds a trained network or finished maps.
    """
    if (run_dir / "checkpoints" / LATEST).exists():
        raise UserError(
            f"run_dir {run_dir} holds a training run, expected a folder of its own for the maps"
        )
    check_new(run_dir / "attention")


def images_of(config: AttendConfig, trained: Trained) -> ImageSet:
    """The data set, with its classes numbered as the checkpoint numbers them.

    Raises:
        UserError: when the data set cannot be opened or has other classes.
    """
    data = config.data
    if not data.classes and not (Path(data.root) / CLASSES).exists():
        # Without a list, a data set that lacks some class would number the others anew.
        data = dataclasses.replace(data, classes=list(trained.class_names))
    image_set = open_image_set(data)
    if image_set.class_names != trained.class_names:
        theirs, ours = ", ".join(trained.class_names[:4]), ", ".join(image_set.class_names[:4])
        raise UserError(
            f"data.root {data.root} has {len(image_set.class_names)} classes ({ours}, ...), "
            f"expected the {len(trained.class_names)} of the checkpoint {config.checkpoint} in "
            f"their order ({theirs}, ...)"
        )
    return image_set


def save_all(
    config: AttendConfig, image_set: ImageSet, trained: Trained, found: Measurement
) -> None:
    """What lies beside the maps; on rank 0, just before they appear."""
    run_dir = Path(config.run_dir)
    save_settings(run_dir, dump_config(config), image_set.class_names)
    # Whatever an attempt that was killed at this very moment has logged is void.
    tracker = Tracker(run_dir, "attend", resumed_step=-1)
    try:
        tracker.log(
            0, trained.step, found.metrics | per_class_metrics(found, image_set.class_names)
        )
        if found.gallery:
            picture = attention_picture(
                found.gallery, {KIND: "attention"}, image_set.class_names, config.data.pixel_limit
            )
            save_png(run_dir / "pictures" / "attention.png", picture)
            tracker.image("attention", picture, trained.step)
    finally:
        tracker.close()


def announce(
    reporter: Reporter, config: AttendConfig, world: World, image_set: ImageSet, trained: Trained
) -> None:
    """Says what is about to run."""
    pairs = sum(len(sample.classes) for sample in image_set.samples)
    reporter.say(
        f"{len(image_set)} images of {config.data.root}, {pairs} pairs "
        f"(labels: {image_set.label_source})"
    )
    reporter.say(f"{trained.config.backbone} from {config.checkpoint}, step {trained.step}")
    reporter.say(f"views: {config.views.phrase()}, data.size {config.data.size}")
    reporter.say(f"{machine(world)}; run directory {config.run_dir}")


def report(
    reporter: Reporter,
    config: AttendConfig,
    image_set: ImageSet,
    trained: Trained,
    attender: Attender,
    found: Measurement,
) -> None:
    """Prints the figures, what they owe to anything but the images, and where everything is."""
    for sentence in attender.skipped[:10]:
        reporter.say(f"skipped: {sentence}")
    if attender.skipped:
        reporter.say(f"{len(attender.skipped)} images were skipped; their pairs have no map")
    if attender.broken:
        reporter.say(
            f"note: features of {attender.broken} pairs were not finite; their views count as 0"
        )
    if found.metrics:
        show_quality(reporter, found.metrics, {f"attention ({config.views.phrase()})": KIND})
    say_supervision(
        reporter,
        image_set,
        config.evaluate,
        f"checkpoint {config.checkpoint} at step {trained.step}, trunk weights "
        f"{trained.config.weights}",
        f"views: {config.views.phrase()}; activation {attender.activation}",
    )
    reporter.say(f"maps: {config.run_dir}/attention")
    if found.gallery:
        reporter.say(f"pictures: {config.run_dir}/pictures")
