"""`oaa localize`: the class and the box of each image by a trained classifier, measured.

Reads the run directory of the classifier and a data set with boxes; writes into its own run
directory: config.yaml, classes.txt, metrics.jsonl, tensorboard/, pictures/localization.png and,
last of all, boxes.json.
"""

from pathlib import Path

from rich.markup import escape

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dump_config, parse_config
from dist_oaa.config.localize import LocalizeConfig
from dist_oaa.evaluation.localization import Thresholds, threshold_grid
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.files import write_atomic
from dist_oaa.runtime.latest import LATEST
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import save_settings
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.localizing.lists import Lists, MeasuredList, open_lists
from dist_oaa.stages.localizing.localizer import FoundList, ListLocalizer
from dist_oaa.stages.localizing.looking import Looker
from dist_oaa.stages.localizing.report import KIND, Report, as_json
from dist_oaa.stages.run_settings import CHOOSING, inherited_data
from dist_oaa.stages.trained import Trained, load_classifier, trained_data
from dist_oaa.stages.training import machine

SUMMARY = "boxes.json"


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    given = parse_config(LocalizeConfig, prog, argv)
    config = parse_config(LocalizeConfig, prog, [*inherited(given), *argv])
    with open_world(config.runtime) as world, stop_on_signals() as stop:
        localize(config, world, stop)
    return 0


def inherited(given: LocalizeConfig) -> list[str]:
    """The `data` settings of the checkpoint's run, as arguments before those of the user.

    Raises:
        UserError: when there is no such run.
    """
    if not given.checkpoint:
        raise UserError("checkpoint is empty, expected the run directory of a trained classifier")
    theirs = trained_data(Path(given.checkpoint))
    return inherited_data(theirs, given.data, (*CHOOSING, "boxes"))


def localize(config: LocalizeConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Predicts and measures the boxes; returns the figures.

    Raises:
        UserError, Interrupted: see config/errors.py; the same on every rank.
    """
    run_dir = Path(config.run_dir)
    world.only_first(lambda: check_folder(run_dir))
    trained = world.agree(lambda: load_classifier(Path(config.checkpoint)))
    lists = world.only_first(lambda: open_lists(config, trained))
    reporter = Reporter(world.is_first, config.runtime.log_every)
    activation = trained.activation if config.activation == "auto" else config.activation
    looker = world.agree(
        lambda: Looker(
            trained, world.device, config.views, activation, config.map_size, config.precision
        )
    )
    announce(reporter, config, world, lists, trained, activation)
    chosen = config.threshold
    thresholds_T = threshold_grid(chosen.count, *([chosen.value] * (chosen.choose == "fixed")))

    def measure(listed: MeasuredList, thresholds: Thresholds | None) -> FoundList:
        return ListLocalizer(
            world, listed, config, looker, thresholds_T, thresholds, stop, reporter
        ).run()

    chosen_on, thresholds = None, Thresholds.same(chosen.value)
    if lists.validation is not None:
        chosen_on = measure(lists.validation, None)
        check_any(chosen_on, lists.validation)
        thresholds = chosen_on.counts.best()
        reporter.say(f"threshold {thresholds.single:g}, frozen; now the {lists.reported.name}")
    found = measure(lists.reported, thresholds)
    check_any(found, lists.reported)
    report = Report(config, trained, lists, found, thresholds, chosen_on)
    world.only_first(lambda: publish(report, run_dir))
    say_results(reporter, report)
    return report.metrics


def check_folder(run_dir: Path) -> None:
    """Refuses a run directory whose results would be overwritten.

    Raises:
        UserError: when it holds a trained network or finished boxes.
    """
    if (run_dir / "checkpoints" / LATEST).exists():
        raise UserError(
            f"run_dir {run_dir} holds a training run, expected a folder of its own for the boxes"
        )
    if (run_dir / SUMMARY).exists():
        raise UserError(
            f"{run_dir / SUMMARY} exists, and finished results are never overwritten: choose "
            "another run_dir or remove this one"
        )


def check_any(found: FoundList, listed: MeasuredList) -> None:
    """Refuses a list of which no image could be measured.

    Raises:
        UserError: likewise.
    """
    if not found.counts.images:
        raise UserError(
            f"none of the {len(listed.image_set)} images of the {listed.name} can be used"
            + (f", first: {found.skipped[0]}" if found.skipped else "")
        )


def publish(report: Report, run_dir: Path) -> None:
    """Makes everything appear, boxes.json last; on rank 0.

    Raises:
        UserError, OSError: when the disk is full or not writable.
    """
    class_names = report.lists.reported.image_set.class_names
    save_settings(run_dir, dump_config(report.config), class_names)
    report.save(run_dir)
    write_atomic(run_dir / SUMMARY, as_json(report.summary()))


def announce(
    reporter: Reporter,
    config: LocalizeConfig,
    world: World,
    lists: Lists,
    trained: Trained,
    activation: str,
) -> None:
    """Says what is about to run."""
    images, boxes = lists.reported.image_set, lists.reported.boxes
    count = sum(map(len, boxes.by_image.values()))
    reporter.say(
        f"{len(images)} images, {len(images.class_names)} classes, {count} boxes "
        f"({lists.reported.name}; boxes: {boxes.source})"
    )
    if boxes.clipped:
        reporter.say(f"{boxes.clipped} boxes stuck out of their image by up to a pixel: clipped")
    if lists.validation is not None:
        count = len(lists.validation.image_set)
        reporter.say(f"threshold chosen on {count} images ({lists.validation.name})")
    reporter.say(
        f"{trained.config.variant} on {trained.config.backbone} from {escape(config.checkpoint)}, "
        f"step {trained.step}"
    )
    reporter.say(
        f"class from {config.crops.phrase()}; map: {config.views.phrase()}, data.size "
        f"{config.data.size}, activation {activation}"
    )
    reporter.say(f"{machine(world)}; run directory {escape(config.run_dir)}")


def say_results(reporter: Reporter, report: Report) -> None:
    """Prints the figures, what they owe to anything but the images, and where everything is."""
    found, run_dir = report.found, escape(report.config.run_dir)
    for sentence in found.skipped[:10]:
        reporter.say(f"skipped: {escape(sentence)}")
    if found.skipped:
        reporter.say(f"{len(found.skipped)} images were skipped and are not measured")
    if found.broken:
        reporter.say(
            f"note: features of {found.broken} pairs were not finite; their views count as 0"
        )
    reporter.console.print(report.table())
    first, *others = report.supervision
    for line in (first, *(f"  {line}" for line in others)):
        reporter.say(escape(line))
    if report.config.gallery:
        reporter.say(f"pictures: {run_dir}/pictures/{KIND}.png")
    reporter.say(f"boxes: {run_dir}/{SUMMARY}")
