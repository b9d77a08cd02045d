"""A trained classifier from a run directory: what later stages build on.

The network is that of config.yaml, its weights are those of the published checkpoint, and its
classes are those of classes.txt. Nothing of the trunk's pretrained weights is looked up.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.classifier import OnlineCAMClassifier, build_classifier
from dist_oaa.runtime.checkpoint import LATEST, load_checkpoint
from dist_oaa.runtime.rundir import CLASSES, CONFIG

Settings = TypeVar("Settings")


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
    """How its class maps become attention: sigmoid after `oaa integral`, Eq. 2 else."""


def load_classifier(run_dir: Path) -> Trained:
    """Loads the published checkpoint of a run of `oaa classify` or `oaa integral`.

    Raises:
        UserError: when the folder is no such run, has no complete checkpoint, or is damaged.
    """
    tree = _read_settings(run_dir)
    config, data = _build(ModelConfig, tree, "model", run_dir), trained_data(run_dir)
    class_names = _read_classes(run_dir)
    if not (run_dir / "checkpoints" / LATEST).exists():
        raise UserError(
            f"{run_dir} holds no complete checkpoint, expected the folder of a run that has "
            "written one"
        )
    checkpoint = load_checkpoint(run_dir / "checkpoints")
    model, _ = build_classifier(dataclasses.replace(config, weights="none"), len(class_names), 0)
    try:
        model.load_state_dict(checkpoint.model)
        step = int(checkpoint.state["step"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the checkpoint of {run_dir} does not fit the network of {run_dir / CONFIG} with the "
            f"{len(class_names)} classes of {CLASSES} ({reason})"
        ) from error
    activation = "sigmoid" if "integral" in tree else "cam"
    return Trained(model.eval(), config, data, class_names, step, activation)


def trained_data(run_dir: Path) -> DataConfig:
    """The data settings of a run, without loading its network.

    Raises:
        UserError: when the folder is no such run.
    """
    return _build(DataConfig, _read_settings(run_dir), "data", run_dir)


def _read_settings(run_dir: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load((run_dir / CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"{run_dir} is no run directory: it has no {CONFIG}, expected the folder of a run of "
            "oaa classify or oaa integral"
        ) from error
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{run_dir / CONFIG} cannot be read: {_one_line(error)}") from error
    if not isinstance(tree, dict) or not {"model", "data"} <= tree.keys():
        raise UserError(
            f"{run_dir / CONFIG} describes no classifier: it lacks model or data, expected the "
            "settings of oaa classify or oaa integral"
        )
    return tree


def _build(kind: type[Settings], tree: dict[str, Any], key: str, run_dir: Path) -> Settings:
    try:
        return _from_tree(kind, tree[key])
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{key} in {run_dir / CONFIG} cannot be understood: {_one_line(error)}"
        ) from error


def _from_tree(kind: type[Settings], tree: dict[str, Any]) -> Settings:
    """A settings dataclass from the mapping that `dump_config` made of it."""
    nested = {f.name: f.type for f in dataclasses.fields(kind) if dataclasses.is_dataclass(f.type)}
    values = {k: _from_tree(nested[k], v) if k in nested else v for k, v in tree.items()}
    return kind(**values)


def _read_classes(run_dir: Path) -> tuple[str, ...]:
    try:
        lines = (run_dir / CLASSES).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run_dir / CLASSES} cannot be read, expected the run's class names, one a line: "
            f"{_one_line(error)}"
        ) from error
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"{run_dir / CLASSES} is empty, expected the run's class names")
    return tuple(names)


def _one_line(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
