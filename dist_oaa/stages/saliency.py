"""`oaa saliency`: one grey saliency map for each image of a data set, over all cores and ranks.

Writes into its run directory: saliency/ (ID.png, of the size of its image), config.yaml,
classes.txt, pictures/saliency.png and, last of all, saliency.json. `oaa pseudo-label` and every
stage that measures labels read the folder: `--labels.saliency dir --labels.saliency_dir RUN`.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dist_oaa.config.load import dump_config, parse_config
from dist_oaa.config.saliency import SaliencyConfig
from dist_oaa.data.images import read_image, read_mask
from dist_oaa.data.loader import check_bad_images
from dist_oaa.data.sample import ImageSet
from dist_oaa.data.sources import open_image_set
from dist_oaa.evaluation.pictures import grid, mask_colours, save_png
from dist_oaa.labels.saliency import rembg_session
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.rundir import save_settings
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.labelling.output import OutputFolder
from dist_oaa.stages.labelling.pictures import grey
from dist_oaa.stages.labelling.pool import WorkerPool
from dist_oaa.stages.labelling.report import SHOWN, images_were
from dist_oaa.stages.labelling.rounds import processes_of, share, work_through
from dist_oaa.stages.labelling.salience import (
    SaliencyTask,
    Salient,
    make_saliency,
    write_saliency,
)
from dist_oaa.stages.tally import gallery_images
from dist_oaa.stages.training import in_name_order


@dataclass
class Written:
    """What was written, the same on every rank after `gather`."""

    skipped: dict[str, str] = field(default_factory=dict)
    """Unreadable images by name, each with its sentence."""
    gallery: list[Salient] = field(default_factory=list)

    def gather(self, world: World) -> None:
        """Puts together what the ranks wrote."""
        parts = world.gather((self.skipped, self.gallery))
        self.skipped = dict(sorted(item for part in parts for item in part[0].items()))
        self.gallery = sorted((s for part in parts for s in part[1]), key=lambda s: s.sample.id)


def main(prog: str, argv: list[str]) -> int:
    """Runs the stage; returns the exit code."""
    config = parse_config(SaliencyConfig, prog, argv)
    with open_world(config.runtime) as world, stop_on_signals() as stop:
        saliency(config, world, stop)
    return 0


def saliency(config: SaliencyConfig, world: World, stop: StopFlag) -> Written:
    """Writes the maps.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    output = OutputFolder(Path(config.run_dir), "saliency")
    world.only_first(output.check_new)
    image_set = in_name_order(world.agree(lambda: open_image_set(config.data)))
    if config.method == "rembg":
        # Once, before all processes at once ask for the weights.
        world.only_first(lambda: bool(rembg_session(config.rembg_model)))
    reporter = Reporter(world.is_first, config.runtime.log_every)
    reporter.say(f"{len(image_set)} images of {config.data.root}; {phrase(config)}")
    written, processes = Written(), processes_of(config.processes)
    with output.made(world) as folder:
        made = (config.method, config.rembg_model, config.data.pixel_limit, folder)
        with WorkerPool(processes, make_saliency, *made) as pool:
            results = pool.map(write_saliency, tasks(config, world, image_set), stop)
            take = Taker(config, written)
            work_through(world, reporter, results, len(image_set), take)
        written.gather(world)
        world.only_first(lambda: conclude(config, image_set, written, output))
    say_results(reporter, config, written)
    return written


def tasks(config: SaliencyConfig, world: World, image_set: ImageSet) -> list[SaliencyTask]:
    """This rank's images."""
    drawn = {image_set.samples[i].id for i in gallery_images(image_set, config.gallery)}
    return [SaliencyTask(s, s.id in drawn) for s in share(world, image_set.samples)]


@dataclass
class Taker:
    """Keeps what is to be told of each image."""

    config: SaliencyConfig
    written: Written

    def __call__(self, result: Salient) -> None:
        """Takes one result.

        Raises:
            UserError: for an unreadable image with data.on_bad_image stop.
        """
        if result.bad:
            check_bad_images([result.bad], self.config.data.on_bad_image)
            self.written.skipped[result.sample.id] = result.bad
        elif result.saliency_HW is not None:
            self.written.gallery.append(result)


def conclude(
    config: SaliencyConfig, image_set: ImageSet, written: Written, output: OutputFolder
) -> None:
    """Everything beside the maps, then the maps, then their summary; on rank 0.

    Raises:
        UserError, OSError: when the disk is full or not writable.
    """
    run_dir = Path(config.run_dir)
    save_settings(run_dir, dump_config(config), image_set.class_names)
    if written.gallery:
        save_png(run_dir / "pictures" / "saliency.png", picture(written, config.data.pixel_limit))
    output.publish(summary(config, image_set, written))


def summary(config: SaliencyConfig, image_set: ImageSet, written: Written) -> dict[str, Any]:
    """What saliency.json holds."""
    return {
        "format": 1,
        "made_with": phrase(config),
        "images": len(image_set),
        "skipped": written.skipped,
    }


def phrase(config: SaliencyConfig) -> str:
    """What the maps are made with, in a few words."""
    if config.method == "rembg":
        return f"rembg {config.rembg_model} (trained on masks of salient objects)"
    return "spectral residual (no weights)"


def picture(written: Written, pixel_limit: float) -> np.ndarray:
    """Image, saliency and truth of the gallery."""
    rows, columns = [], ["image", "saliency", "truth"]
    for salient in written.gallery:
        row = [read_image(salient.sample.path, pixel_limit), grey(salient.saliency_HW)]
        if salient.sample.mask is not None:
            row.append(mask_colours(read_mask(salient.sample.mask)))
        rows.append(row)
    titles = [salient.sample.id for salient in written.gallery]
    return grid(rows, titles, columns[: max(map(len, rows))])


def say_results(reporter: Reporter, config: SaliencyConfig, written: Written) -> None:
    """Says what was left out and where everything is."""
    for sentence in list(written.skipped.values())[:SHOWN]:
        reporter.say(f"skipped: {sentence}")
    if written.skipped:
        reporter.say(f"{images_were(len(written.skipped))} skipped: no saliency map")
    reporter.say(f"supervision: saliency {phrase(config)}; image-level labels were not looked at")
    reporter.say(f"saliency: {config.run_dir}/saliency")
    if written.gallery:
        reporter.say(f"pictures: {config.run_dir}/pictures")
