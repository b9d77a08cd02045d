"""A trained classifier from a run directory: what later stages build on.

The network is that of config.yaml, its weights are those of the published checkpoint, and its
classes are those of classes.txt. Nothing of the trunk's pretrained weights is looked up.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dist_oaa.config.data import DataConfig
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.classifier import OnlineCAMClassifier, build_classifier
from dist_oaa.stages.run_settings import (
    build_settings,
    load_weights,
    published_checkpoint,
    read_classes,
    read_settings,
    require,
)

COMMANDS = "oaa classify or oaa integral"


@dataclass(frozen=True)
class Trained:
    """A classifier as its run left it."""

    model: OnlineCAMClassifier
    """On the CPU, in evaluation mode."""
    config: ModelConfig
    """As the run began: `weights` tells what its trunk was initialised with."""
    data: DataConfig
    """What it was trained on, and at which size."""
    class_names: tuple[str, ...]
    """In the order of their indices."""
    step: int
    """Optimiser steps of the checkpoint."""
    activation: Literal["cam", "sigmoid"]
    """How its class maps become attention: sigmoid after `oaa integral` and of the second branch
    of `two_branch`, Eq. 2 else."""


def load_classifier(run_dir: Path) -> Trained:
    """Loads the published checkpoint of a run of `oaa classify` or `oaa integral`.

    Raises:
        UserError: when the folder is no such run, has no complete checkpoint, or is damaged.
    """
    tree = _read(run_dir)
    config = build_settings(ModelConfig, tree, "model", run_dir)
    data = build_settings(DataConfig, tree, "data", run_dir)
    class_names = read_classes(run_dir)
    checkpoint = published_checkpoint(run_dir)
    model, _ = build_classifier(dataclasses.replace(config, weights="none"), len(class_names), 0)
    step = load_weights(model, checkpoint, run_dir, class_names)
    learnt = "integral" in tree or config.variant == "two_branch"
    activation = "sigmoid" if learnt else "cam"
    return Trained(model.eval(), config, data, class_names, step, activation)


def trained_data(run_dir: Path) -> DataConfig:
    """The data settings of a run, without loading its network.

    Raises:
        UserError: when the folder is no such run.
    """
    return build_settings(DataConfig, _read(run_dir), "data", run_dir)


def _read(run_dir: Path) -> dict[str, Any]:
    tree = read_settings(run_dir, COMMANDS)
    require(tree, ("model", "data"), run_dir, "classifier", COMMANDS)
    return tree
