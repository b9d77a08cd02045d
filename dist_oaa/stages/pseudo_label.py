"""`oaa pseudo-label`: from attention maps to pixel labels, over all cores and ranks.

Reads the maps of an earlier run and the images; writes into its own run directory: labels/ (one
palette PNG an image), config.yaml, classes.txt, metrics.jsonl, tensorboard/, pictures/labels.png
and, last of all, labels.json. The files are the same at any number of ranks and processes.
"""

import dataclasses
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.extras import check_extras
from dist_oaa.config.load import dump_config, parse_config
from dist_oaa.config.pseudo_label import PseudoLabelConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sources import open_image_set
from dist_oaa.labels.saliency import rembg_session
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import CLASSES
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.labelling.features import feature_source, needs_features
from dist_oaa.stages.labelling.labelling import Labelling
from dist_oaa.stages.labelling.origin import origin_of
from dist_oaa.stages.labelling.output import OutputFolder
from dist_oaa.stages.labelling.report import Report, announce, say_results
from dist_oaa.stages.labelling.rounds import processes_of
from dist_oaa.stages.run_settings import CHOOSING, difference, inherited_data
from dist_oaa.stages.training import in_name_order
from dist_oaa.store.maps import MapSource, open_maps


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    given = parse_config(PseudoLabelConfig, prog, argv)
    config = parse_config(PseudoLabelConfig, prog, [*inherited(given), *argv])
    with open_world(config.runtime) as world, stop_on_signals() as stop:
        pseudo_label(config, world, stop)
    return 0


def inherited(given: PseudoLabelConfig) -> list[str]:
    """The `data` settings of the maps' run, as arguments before those of the user.

    Raises:
        UserError: when the maps are not named, or nobody says which images they show.
    """
    if not given.maps:
        raise UserError("maps is empty, expected a run directory, a store or a folder of map files")
    if given.data.root:
        return []
    theirs = origin_of(Path(given.maps)).data
    if theirs is None:
        raise UserError(
            f"data.root is empty and {given.maps} does not say which images its maps show, "
            "expected the folder of the data set"
        )
    # Images are taken at their own size, whatever the network saw.
    return inherited_data(theirs, given.data, (*CHOOSING, "split", "limit"), ("pixel_limit",))


def pseudo_label(config: PseudoLabelConfig, world: World, stop: StopFlag) -> dict[str, float]:
    """Writes and measures the labels; returns the figures.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    run_dir = Path(config.run_dir)
    output = OutputFolder(run_dir, "labels")
    world.only_first(output.check_new)
    world.agree(lambda: check_extras({"labels.refine": config.labels.refine}))
    source = world.agree(lambda: open_maps(config.maps))
    image_set = world.agree(lambda: images_of(config, source))
    saliency_dir = world.agree(lambda: saliency_folder(config))
    world.only_first(lambda: try_networks(config))
    reporter = Reporter(world.is_first, config.runtime.log_every)
    labelling = Labelling(
        world=world,
        reporter=reporter,
        stop=stop,
        image_set=in_name_order(image_set),
        data=config.data,
        labels=config.labels,
        source=source,
        saliency_dir=saliency_dir,
        processes=processes_of(config.processes),
        gallery=config.gallery,
    )
    announce(reporter, config, world, labelling)
    with output.made(world) as folder:
        found = labelling.run(folder)
        report = Report(config, labelling, found, origin_of(Path(config.maps)))
        world.only_first(lambda: conclude(report, output, config))
    say_results(reporter, report)
    return report.metrics


def try_networks(config: PseudoLabelConfig) -> None:
    """Opens the networks that the settings name once, before many processes do it at once.

    Raises:
        UserError: when one cannot be had.
    """
    if config.labels.saliency == "rembg":
        rembg_session(config.labels.rembg_model)  # which also fetches its weights
    if needs_features(config.labels):
        feature_source(config.labels.random_walk)


def conclude(report: Report, output: OutputFolder, config: PseudoLabelConfig) -> None:
    """Everything beside the labels, then the labels, then their summary; on rank 0.

    Raises:
        UserError, OSError: when the disk is full or not writable.
    """
    report.save(Path(config.run_dir), dump_config(config))
    output.publish(report.summary())


def images_of(config: PseudoLabelConfig, source: MapSource) -> ImageSet:
    """The data set, with its classes numbered as those of the maps.

    Raises:
        UserError: when it cannot be opened, has other classes, or none of its images has a map.
    """
    data = config.data
    if not data.classes and not (Path(data.root) / CLASSES).exists():
        # Without a list, a data set that lacks some class would number the others anew.
        data = dataclasses.replace(data, classes=list(source.class_names))
    image_set = open_image_set(data)
    if image_set.class_names != source.class_names:
        raise UserError(
            f"data.root {data.root} has other classes than the maps {config.maps}, expected the "
            f"same in the same order: {difference(source.class_names, image_set.class_names)}"
        )
    with_map = {name for name, _ in source.pairs}
    if not any(sample.id in with_map for sample in image_set.samples):
        raise UserError(
            f"none of the {len(image_set)} images of {data.root} (data.split {data.split!r}) has a "
            f"map in {config.maps}, expected the data set that the maps show"
        )
    return image_set


def saliency_folder(config: PseudoLabelConfig) -> Path | None:
    """Where the saliency maps lie: below the data root, else where a path of the shell leads.

    The run directory of `oaa saliency` stands for its saliency/.

    Raises:
        UserError: when there is no such folder.
    """
    if config.labels.saliency != "dir":
        return None
    given = Path(config.labels.saliency_dir)
    for base in (Path(config.data.root) / given, given):
        for folder in (base / "saliency", base):
            if folder.is_dir():
                return folder
    raise UserError(
        f"labels.saliency_dir {Path(config.data.root) / given} is no folder, expected one with a "
        "grey PNG for each image"
    )
