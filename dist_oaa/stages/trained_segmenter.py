"""A trained segmentation network from a run directory: what evaluation and prediction build on.

The network is that of config.yaml, its weights are those of the published checkpoint, and its
classes are those of classes.txt. Nothing of the trunk's pretrained weights is looked up.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.segment import SegmentDataConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.models.segmentation.network import SegmentationNetwork
from dist_oaa.stages.run_settings import (
    build_settings,
    load_weights,
    published_checkpoint,
    read_classes,
    read_settings,
    read_supervision,
    require,
)

COMMANDS = "oaa segment"


@dataclass(frozen=True)
class TrainedSegmenter:
    """A segmentation network as its run left it."""

    network: SegmentationNetwork
    """On the CPU, in evaluation mode."""
    config: SegmentationConfig
    """As the run began: `weights` tells what its trunk was initialised with."""
    data: SegmentDataConfig
    """What it was trained on, and at which size."""
    class_names: tuple[str, ...]
    """Object classes in the order of their indices, without the background."""
    step: int
    """Optimiser steps of the checkpoint."""
    supervision: tuple[str, ...]
    """The run's audit lines: what its labels and weights were made from."""


def load_segmenter(run_dir: Path) -> TrainedSegmenter:
    """Loads the published checkpoint of a run of `oaa segment`.

    Raises:
        UserError: when the folder is no such run (for one of another command the sentence says
            which command takes it), has no complete checkpoint, or is damaged.
    """
    run_dir = Path(run_dir)
    tree = _read(run_dir)
    config = build_settings(SegmentationConfig, tree, "network", run_dir)
    data = build_settings(SegmentDataConfig, tree, "data", run_dir)
    class_names = read_classes(run_dir)
    checkpoint = published_checkpoint(run_dir)
    bare = dataclasses.replace(config, weights="none")
    network, _ = build_segmenter(bare, len(class_names), 0)
    step = load_weights(network, checkpoint, run_dir, class_names)
    lines = read_supervision(run_dir)
    return TrainedSegmenter(network.eval(), config, data, class_names, step, lines)


def segmenter_data(run_dir: Path) -> SegmentDataConfig:
    """The data settings of a run, without loading its network.

    Raises:
        UserError: when the folder is no such run.
    """
    return build_settings(SegmentDataConfig, _read(Path(run_dir)), "data", Path(run_dir))


def _read(run_dir: Path) -> dict[str, Any]:
    tree = read_settings(run_dir, COMMANDS)
    if "network" not in tree and "model" in tree:
        raise UserError(
            f"{run_dir} is a run of oaa classify or oaa integral, expected one of {COMMANDS}; the "
            "attention maps of a classifier come from oaa attend"
        )
    require(tree, ("network", "data"), run_dir, "segmentation network", COMMANDS)
    return tree
