"""`oaa predict` by a classifier: the classes of photographs, and a box around the object.

Writes overlays/NAME.png and predictions.json, all at once when the last image is done. Rank r of W
takes the images r, r + W, ...; where a problem or a signal stops one rank, all stop.
"""

import dataclasses
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.localize import CropsConfig
from dist_oaa.config.predict import AS_TRAINED, PredictConfig
from dist_oaa.data.crops import batch_of
from dist_oaa.data.loader import Collate
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.pictures import save_png
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.labelling.rounds import share, work_through
from dist_oaa.stages.localizing.localizer import Guess, box_of
from dist_oaa.stages.localizing.looking import Looker
from dist_oaa.stages.predicting.box_report import (
    Boxing,
    BoxPrediction,
    BoxReport,
    announce,
    say_results,
)
from dist_oaa.stages.predicting.finish import Failed, read_photograph
from dist_oaa.stages.predicting.folder import (
    being_made,
    check_any,
    check_out,
    publish,
    working_folder,
)
from dist_oaa.stages.predicting.overlay import boxed_picture
from dist_oaa.stages.predicting.sources import Source, find_sources
from dist_oaa.stages.run_settings import read_settings
from dist_oaa.stages.trained import Trained, load_classifier

MAP_SIZE = 41


def is_classifier(run_dir: Path) -> bool:
    """Whether a run directory is that of a classifier; anything else is left to others."""
    try:
        tree = read_settings(run_dir, "")
    except UserError:
        return False
    return "model" in tree and "network" not in tree


def predict_boxes(config: PredictConfig, world: World, stop: StopFlag) -> BoxReport:
    """Writes overlays and the summary of all images.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    out = Path(config.out).resolve()
    folder = working_folder(out)
    world.only_first(lambda: check_out(out, config))
    sources = world.agree(lambda: find_sources(config.images))
    trained = world.agree(lambda: load_classifier(Path(config.checkpoint)))
    data = world.agree(lambda: as_seen(config, trained))
    boxing = world.agree(lambda: boxing_of(config))
    looker = world.agree(
        lambda: Looker(
            trained, world.device, config.views, trained.activation, MAP_SIZE, config.precision
        )
    )
    reporter = Reporter(world.is_first, config.runtime.log_every)
    announce(reporter, config, world, trained, boxing, len(sources))
    work = Work(config, looker, data, boxing, folder, stop)
    with being_made(folder, world):
        report = BoxReport(config, trained, work_on(work, world, reporter, sources), boxing)
        check_any(report.results)
        world.only_first(lambda: publish(folder, out, report))
    say_results(reporter, report)
    return report


def as_seen(config: PredictConfig, trained: Trained) -> DataConfig:
    """How the network looks at an image: `size` in the words of `data`.

    Raises:
        UserError: for a setting that a classifier has no use for.
    """
    if config.crf or config.size == 0:
        name = "crf" if config.crf else "size 0"
        raise UserError(
            f"{name} is for segmentation networks, but checkpoint {config.checkpoint} is a "
            "classifier"
        )
    if config.size == AS_TRAINED:
        return trained.data
    return dataclasses.replace(trained.data, size=config.size)


def boxing_of(config: PredictConfig) -> Boxing:
    """Threshold and components, from a run of `oaa localize` where one is named.

    Raises:
        UserError: when that is no such run, or of another classifier.
    """
    if not config.localized:
        return Boxing(config.box_threshold, "largest", "box_threshold")
    path = Path(config.localized) / "boxes.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        threshold = float(record["thresholds"]["box"])
        components, of = str(record["components"]), str(record["checkpoint"])
        if not 0 <= threshold < 1 or components not in ("largest", "all"):
            raise ValueError(f"threshold {threshold}, components {components!r}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"localized: {path} cannot be read, expected the run directory of oaa localize: {error}"
        ) from error
    if Path(of).resolve() != Path(config.checkpoint).resolve():
        raise UserError(
            f"localized: {config.localized} measured the checkpoint {of}, expected one of "
            f"{config.checkpoint}"
        )
    return Boxing(threshold, components, config.localized)


@dataclass
class Work:
    """What it takes to predict an image."""

    config: PredictConfig
    looker: Looker
    data: DataConfig
    boxing: Boxing
    folder: Path
    stop: StopFlag

    def predict(self, source: Source) -> BoxPrediction | Failed:
        """Reads an image, runs the network on it and writes its overlay.

        Raises:
            UserError: when the image cannot be read and such a one stops, or the scores are not
                finite.
            Interrupted: after a signal.
        """
        if self.stop.reason:
            raise Interrupted(f"stopped by {self.stop.reason}")
        since = time.perf_counter()
        image_HW3 = read_photograph(source, self.config.pixel_limit, self.config.on_bad_image)
        if isinstance(image_HW3, Failed):
            return image_HW3
        looker, names = self.looker, self.looker.trained.class_names
        one = ImageSet(source.path.parent, names, (Sample("image", source.path, (), None),), "none")
        views, stride = self.config.views, looker.model.trunk.stride
        looks = batch_of(image_HW3, self.data, views, CropsConfig(), stride, Collate(one))
        (looked,) = looker.look(looks)
        size = image_HW3.shape[:2]
        guesses = [
            Guess(
                c,
                float(looked.probability_C[c]),
                box_of(looked.maps[c], size, self.boxing.threshold, self.boxing.components),
            )
            for c in looked.ranked
        ]
        if self.config.overlays:
            text = f"{names[guesses[0].class_index]} {100 * guesses[0].probability:.0f} %"
            picture_HW3 = boxed_picture(image_HW3, guesses[0].box, [text], self.config.overlay_size)
            save_png(self.folder / "overlays" / f"{source.name}.png", picture_HW3)
        return BoxPrediction(source, size, guesses, time.perf_counter() - since)


def work_on(
    work: Work, world: World, reporter: Reporter, sources: Sequence[Source]
) -> list[BoxPrediction | Failed]:
    """What became of each image, in the order of the sources, on every rank."""
    found: list[BoxPrediction | Failed] = []
    results: Iterator[Any] = (work.predict(source) for source in share(world, sources))
    work_through(world, reporter, results, len(sources), found.append, at_once=1)
    parts = world.gather(found)
    return [parts[i % len(parts)][i // len(parts)] for i in range(len(sources))]
