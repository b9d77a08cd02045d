"""`oaa evaluate`: what a segmentation network, or a folder of label images, is worth on masks.

Reads the run directory of `oaa segment` (or a folder of PNGs) and a data set; writes into its own
run directory: config.yaml, classes.txt, metrics.jsonl, tensorboard/, pictures/confusion.png and
pictures/predictions.png, predictions/ where it is asked to and, last of all, evaluation.json.
"""

import os
from pathlib import Path

import torch

from dist_oaa.config.errors import UserError
from dist_oaa.config.evaluate import EvaluationConfig
from dist_oaa.config.extras import check_extras
from dist_oaa.config.load import dump_config, parse_config
from dist_oaa.data.sample import ImageSet
from dist_oaa.runtime.distributed import (
    World,
    arithmetic_threads,
    open_world,
    threads_per_rank,
)
from dist_oaa.runtime.files import sync_folder, write_atomic
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import save_settings
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.attending import check_new
from dist_oaa.stages.evaluating.evaluator import Evaluator, Found
from dist_oaa.stages.evaluating.images import (
    classes_of_folder,
    images_of,
    predictions_folder,
    submission_folder,
)
from dist_oaa.stages.evaluating.measuring import Measurer
from dist_oaa.stages.evaluating.report import Report, as_json, tenths
from dist_oaa.stages.evaluating.segmenting import FolderSegmenter, NetworkSegmenter, build_scorer
from dist_oaa.stages.evaluating.supervision import folder_lines, network_lines
from dist_oaa.stages.run_settings import inherited_data
from dist_oaa.stages.tally import gallery_images
from dist_oaa.stages.trained_segmenter import TrainedSegmenter, load_segmenter, segmenter_data
from dist_oaa.stages.training import machine

EARLIER = ("attention", "store", "checkpoints", "labels")
"""What other stages leave in their run directories."""
SUMMARY = "evaluation.json"
FEW = 16
"""Label images in a folder that are not worth the start of processes."""


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    given = parse_config(EvaluationConfig, prog, argv)
    config = parse_config(EvaluationConfig, prog, [*inherited(given), *argv])
    with open_world(config.runtime) as world, stop_on_signals() as stop:
        evaluate(config, world, stop)
    return 0


def inherited(given: EvaluationConfig) -> list[str]:
    """The `data` settings of the checkpoint's run, as arguments before those of the user.

    Raises:
        UserError: when there is no such run, or it is not clear what to measure.
    """
    if predictions_folder(given) is not None:
        return []
    theirs = segmenter_data(Path(given.checkpoint))
    return inherited_data(theirs, given.data)


def evaluate(config: EvaluationConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Segments and measures all images; returns the figures.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    world.agree(lambda: check_extras({"crf": config.crf}))
    world.only_first(lambda: check_folders(config))
    folder = world.agree(lambda: predictions_folder(config))
    trained = None
    if folder is None:
        trained = world.agree(lambda: load_segmenter(Path(config.checkpoint)))
    names = trained.class_names if trained else classes_of_folder(folder)
    origin = f"the checkpoint {config.checkpoint}" if trained else f"the label images of {folder}"
    image_set = world.agree(lambda: images_of(config, names, origin))
    lines = network_lines(config, trained) if trained else folder_lines(folder)
    if any(sample.mask for sample in image_set.samples):
        lines.append("masks were read for these figures only")
    reporter = Reporter(world.is_first, config.runtime.log_every)
    places = written_folders(config)
    evaluator = world.agree(
        lambda: build_evaluator(config, world, stop, reporter, image_set, trained, folder)
    )
    announce(reporter, config, world, image_set, trained, evaluator.processes)

    def report_on(found: Found) -> Report:
        return Report(config, image_set, found, lines, trained.step if trained else 0)

    found = evaluator.run(lambda found: publish(report_on(found), places))
    report = report_on(found)
    say_results(reporter, report)
    return report.metrics


def build_evaluator(
    config: EvaluationConfig,
    world: World,
    stop: StopFlag,
    reporter: Reporter,
    image_set: ImageSet,
    trained: TrainedSegmenter | None,
    folder: Path | None,
) -> Evaluator:
    """What does the work, with the cores of this rank dealt out.

    Raises:
        UserError: when the settings do not fit the network or the machine.
    """
    processes = processes_of(config, world, len(image_set))
    kept = frozenset(gallery_images(image_set, config.gallery).tolist())
    segmenter: NetworkSegmenter | FolderSegmenter = FolderSegmenter(image_set, kept)
    if trained is not None:
        if world.device.type == "cpu" and processes and not config.runtime.threads:
            # More threads than cores would wait for each other in turn.
            left = threads_per_rank() - processes
            torch.set_num_threads(max(1, min(arithmetic_threads(), left)))
        scorer = build_scorer(config, trained, world)
        segmenter = NetworkSegmenter(image_set, config.data, scorer, config.crf, kept)
    measurer = Measurer(
        len(image_set.class_names),
        config.boundary_tolerance,
        config.dense_crf,
        tuple(written_folders(config)),
        folder,
    )
    return Evaluator(world, image_set, segmenter, measurer, processes, stop, reporter)


def processes_of(config: EvaluationConfig, world: World, images: int) -> int:
    """Processes of this rank beside itself; 0 where they would not pay.

    A network on a CPU wants cores, too: without a CRF it gets them all, else half of them.
    """
    cores = threads_per_rank()
    if config.predictions:
        wanted = config.processes or cores
        return wanted if wanted > 1 and images > FEW else 0
    if config.processes or world.device.type != "cpu":
        return config.processes or cores
    return max(1, cores // 2) if config.crf else 0


def written_folders(config: EvaluationConfig) -> dict[Path, Path]:
    """Where label images are written while they are made -> where they appear at the end."""
    finals = []
    if config.save_predictions:
        finals.append(Path(config.run_dir).resolve() / "predictions")
    if config.submission:
        finals.append(submission_folder(config).resolve())
    # A name without process id: what a killed attempt left behind is replaced.
    return {final.with_name(f".{final.name}.tmp"): final for final in finals}


def check_folders(config: EvaluationConfig) -> None:
    """Refuses to mix with another stage's results, or to overwrite any.

    Raises:
        UserError: likewise.
    """
    run_dir = Path(config.run_dir)
    for other in EARLIER:
        if (run_dir / other).exists():
            raise UserError(
                f"run_dir {run_dir} holds another run ({other}/), expected a folder of its own "
                "for the evaluation"
            )
    if (run_dir / SUMMARY).exists():
        raise UserError(
            f"{run_dir / SUMMARY} exists, and finished results are never overwritten: choose "
            "another run_dir or remove this one"
        )
    for final in written_folders(config).values():
        check_new(final)


def publish(report: Report, places: dict[Path, Path]) -> None:
    """Makes everything appear, evaluation.json last; on rank 0.

    Raises:
        UserError, OSError: when the disk is full or not writable.
    """
    run_dir = Path(report.config.run_dir)
    save_settings(run_dir, dump_config(report.config), report.image_set.class_names)
    report.save(run_dir)
    for working, final in places.items():
        os.replace(working, final)
        sync_folder(final.parent)
    write_atomic(run_dir / SUMMARY, as_json(report.summary()))


def announce(
    reporter: Reporter,
    config: EvaluationConfig,
    world: World,
    image_set: ImageSet,
    trained: TrainedSegmenter | None,
    processes: int,
) -> None:
    """Says what is about to run."""
    masks = sum(sample.mask is not None for sample in image_set.samples)
    reporter.say(f"{len(image_set)} images of {config.data.root}, {masks} with a mask")
    if trained is not None:
        crf = f"dense CRF, {config.dense_crf.iterations} iterations" if config.crf else "no CRF"
        reporter.say(
            f"{trained.config.architecture} on {trained.config.backbone} from "
            f"{config.checkpoint}, step {trained.step}"
        )
        reporter.say(f"views: {config.views.phrase()}; {crf}")
    else:
        reporter.say(f"label images of {config.predictions}")
    beside = f", {processes} more for each to refine and measure" if processes else ""
    reporter.say(f"{machine(world)}{beside}; run directory {config.run_dir}")


def say_results(reporter: Reporter, report: Report) -> None:
    """Prints the figures, what they owe to anything but the images, and where everything is."""
    config, found = report.config, report.found
    for index in sorted(found.skipped)[:10]:
        reporter.say(f"skipped: {found.skipped[index]}")
    if found.skipped:
        reporter.say(f"{len(found.skipped)} images were skipped and are not measured")
    if found.measured:
        reporter.console.print(report.table())
        ignored = report.segmentation.ignored
        reporter.say(
            f"pixel accuracy {tenths(report.segmentation.pixel_accuracy)} %; boundaries within "
            f"{100 * config.boundary_tolerance:g} % of the diagonal"
            + (f"; {tenths(ignored)} % of the predictions are ignored pixels" if ignored else "")
        )
        if report.absent:
            reporter.say(f"in no mask and no prediction, so in no mean: {', '.join(report.absent)}")
    if found.measured < found.images:
        reporter.say(f"{found.images - found.measured} images have no mask and are not measured")
    first, *others = report.supervision
    for line in (first, *(f"  {line}" for line in others)):
        reporter.say(line)
    for final in written_folders(config).values():
        reporter.say(f"label images: {final}")
    if config.submission:
        reporter.say(f"to submit: tar -C {config.submission} -czf results.tgz results")
    reporter.say(f"pictures: {config.run_dir}/pictures; figures: {config.run_dir}/{SUMMARY}")
