"""`oaa predict`: a trained network over photographs.

Reads the run directory of the network and any image files; writes into a new folder, all at once
when the last image is done: overlays/NAME.png, predictions.json and, by a segmentation network,
masks/NAME.png (palette PNG: 0 background, class index + 1). A classifier predicts classes and
boxes (predicting/boxes.py).
"""

import dataclasses
from pathlib import Path

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.extras import check_extras
from dist_oaa.config.load import parse_config
from dist_oaa.config.predict import AS_TRAINED, PredictConfig
from dist_oaa.config.words import split_words
from dist_oaa.models.segmentation.scoring import Scorer
from dist_oaa.runtime.distributed import World, open_world
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.predicting.box_report import BoxReport
from dist_oaa.stages.predicting.boxes import is_classifier, predict_boxes
from dist_oaa.stages.predicting.finish import Finisher
from dist_oaa.stages.predicting.folder import (
    being_made,
    check_any,
    check_out,
    publish,
    working_folder,
)
from dist_oaa.stages.predicting.predictor import Predictor
from dist_oaa.stages.predicting.report import Report, announce, say_results
from dist_oaa.stages.predicting.sources import find_sources
from dist_oaa.stages.trained_segmenter import TrainedSegmenter, load_segmenter

WORDS = "CHECKPOINT IMAGE_OR_FOLDER..."


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    config = parse(prog, argv)
    with open_world(config.runtime) as world, stop_on_signals() as stop:
        predict(config, world, stop)
    return 0


def parse(prog: str, argv: list[str]) -> PredictConfig:
    """The settings; the words are the checkpoint, where no setting names one, and the images.

    Raises:
        UserError: as `parse_config`, or when something is missing.
    """
    words, settings = split_words(PredictConfig, argv)
    config = parse_config(PredictConfig, f"{prog} {WORDS}", settings)
    if words and not config.checkpoint:
        config = dataclasses.replace(config, checkpoint=words.pop(0))
    if words:
        config = dataclasses.replace(config, images=words)
    if not config.checkpoint or not config.images:
        missing = "image" if config.checkpoint else "checkpoint"
        raise UserError(f"no {missing} is given, expected {prog} {WORDS} --out DIR")
    return config


def predict(config: PredictConfig, world: World, stop: StopFlag) -> Report | BoxReport:
    """Writes masks (or boxes), overlays and the summary of all images.

    Raises:
        UserError, RunError, Interrupted: see config/errors.py; the same on every rank.
    """
    if world.agree(lambda: is_classifier(Path(config.checkpoint))):
        return predict_boxes(config, world, stop)
    world.agree(lambda: check_extras({"crf": config.crf}))
    out = Path(config.out).resolve()
    folder = working_folder(out)
    world.only_first(lambda: check_out(out, config))
    sources = world.agree(lambda: find_sources(config.images))
    trained = world.agree(lambda: load_network(config))
    data = as_seen(config, trained)
    scorer = world.agree(lambda: build_scorer(config, trained, data, world))
    finisher = Finisher(
        folder=folder,
        class_names=trained.class_names,
        crf=config.dense_crf if config.crf else None,
        overlays=config.overlays,
        overlay_size=config.overlay_size,
    )
    reporter = Reporter(world.is_first, config.runtime.log_every)
    predictor = Predictor(
        world=world,
        scorer=scorer,
        data=data,
        finisher=finisher,
        pixel_limit=config.pixel_limit,
        on_bad_image=config.on_bad_image,
        processes=config.processes,
        stop=stop,
        reporter=reporter,
    )
    announce(reporter, config, world, trained, data, len(sources))
    with being_made(folder, world):
        report = Report(config, trained, predictor.run(sources), data)
        check_any(report.results)
        world.only_first(lambda: publish(folder, out, report))
    say_results(reporter, report)
    return report


def load_network(config: PredictConfig) -> TrainedSegmenter:
    """The network of the checkpoint.

    Raises:
        UserError: as `load_segmenter`; for more classes than a byte tells apart.
    """
    trained = load_segmenter(Path(config.checkpoint))
    if len(trained.class_names) > 254:
        raise UserError(
            f"checkpoint {config.checkpoint} has {len(trained.class_names)} classes, expected at "
            "most 254, as many as a palette PNG holds beside the background and 255"
        )
    return trained


def as_seen(config: PredictConfig, trained: TrainedSegmenter) -> DataConfig:
    """How the network looks at an image: `size` in the words of `data`."""
    if config.size == AS_TRAINED:
        return trained.data
    if config.size == 0:
        return dataclasses.replace(trained.data, resize="keep")
    return dataclasses.replace(trained.data, resize="short_side", size=config.size)


def build_scorer(
    config: PredictConfig, trained: TrainedSegmenter, data: DataConfig, world: World
) -> Scorer:
    """What looks at the images.

    Raises:
        UserError: when fp16 is asked for on a CPU, or overlap does not fit the network's stride.
    """
    if config.precision == "fp16" and world.device.type == "cpu":
        raise UserError("precision fp16 needs a GPU; use bf16 or fp32 on a CPU")
    try:
        return Scorer(
            trained.network,
            world.device,
            scales=config.views.scales,
            flip=config.views.flip,
            tile=config.tile,
            overlap=config.overlap,
            precision=config.precision,
            size=data.size if data.resize == "short_side" else 0,
        )
    except ValueError as error:
        raise UserError(str(error)) from error
