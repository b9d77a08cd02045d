"""What a run directory says of its network: settings, class names, the published checkpoint.

Shared by the loaders of trained networks; every fault is one sentence that names the file.
"""

import dataclasses
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError, in_one_line
from dist_oaa.config.yaml_text import load_yaml
from dist_oaa.runtime.checkpoint import Checkpoint, load_checkpoint
from dist_oaa.runtime.latest import LATEST
from dist_oaa.runtime.rundir import CLASSES, CONFIG

Settings = TypeVar("Settings")
READING = ("resize", "size", "max_aspect", "pixel_limit")
"""Settings of `data` that a later stage always takes from the run, unless they are given."""
CHOOSING = ("root", "layout", "table", "labels", "classes")
"""Those that it takes where no other data set is given."""
SUPERVISION = "supervision.json"
"""What a training on label images leaves about them, for those who use its network."""


def run_of(checkpoint: Path) -> Path:
    """The run directory of RUN, or of one of its checkpoints, RUN/checkpoints/NAME."""
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def read_settings(run_dir: Path, commands: str) -> dict[str, Any]:
    """The mapping in config.yaml.

    Args:
        commands: whose run is expected, for the sentence, such as "oaa segment".

    Raises:
        UserError: when there is none, or it is no mapping.
    """
    run_dir = run_of(run_dir)
    if not (run_dir / CONFIG).exists():
        raise UserError(
            f"{run_dir} is no run directory: it has no {CONFIG}, expected the folder of a run of "
            f"{commands}"
        )
    tree = load_yaml(run_dir / CONFIG)
    return tree if isinstance(tree, dict) else {}


def inherited_data(
    theirs: DataConfig,
    given: DataConfig,
    choosing: Sequence[str] = CHOOSING,
    reading: Sequence[str] = READING,
) -> list[str]:
    """The `data` settings of a run, as arguments to stand before those of the user.

    Args:
        theirs: what the run read.
        given: what the user has said; a data set of their own keeps the run's out.
        choosing: what is taken over together with the run's data set.
        reading: what is taken over in any case.
    """
    names = reading if given.root else (*reading, *choosing)
    usual = type(given)()
    values = {n: getattr(theirs, n) for n in names if getattr(theirs, n) != getattr(usual, n)}
    return [
        f"--data.{name}={value if isinstance(value, str) else json.dumps(value)}"
        for name, value in values.items()
    ]


def require(
    tree: dict[str, Any], keys: Collection[str], run_dir: Path, network: str, commands: str
) -> None:
    """Refuses settings that lack a group.

    Args:
        network: what they should describe, such as "classifier".

    Raises:
        UserError: likewise.
    """
    if not set(keys) <= tree.keys():
        raise UserError(
            f"{run_dir / CONFIG} describes no {network}: it lacks {' or '.join(keys)}, expected "
            f"the settings of {commands}"
        )


def build_settings(kind: type[Settings], tree: dict[str, Any], key: str, run_dir: Path) -> Settings:
    """One group of the settings as its dataclass.

    Raises:
        UserError: when a key is unknown or a value is refused.
    """
    try:
        return _from_tree(kind, tree[key])
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{key} in {run_dir / CONFIG} cannot be understood: {one_line(error)}"
        ) from error


def _from_tree(kind: type[Settings], tree: dict[str, Any]) -> Settings:
    """A settings dataclass from the mapping that `dump_config` made of it."""
    nested = {f.name: f.type for f in dataclasses.fields(kind) if dataclasses.is_dataclass(f.type)}
    values = {k: _from_tree(nested[k], v) if k in nested else v for k, v in tree.items()}
    return kind(**values)


def read_classes(run_dir: Path) -> tuple[str, ...]:
    """The class names in the order of their indices.

    Raises:
        UserError: when there are none.
    """
    run_dir = run_of(run_dir)
    try:
        lines = (run_dir / CLASSES).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{run_dir / CLASSES} cannot be read, expected the run's class names, one a line: "
            f"{one_line(error)}"
        ) from error
    names = [line for line in lines if line]
    if not names:
        raise UserError(f"{run_dir / CLASSES} is empty, expected the run's class names")
    return tuple(names)


def published_checkpoint(run_dir: Path) -> Checkpoint:
    """The newest complete checkpoint of a run, or the one that is named.

    Args:
        run_dir: RUN, RUN/checkpoints/best, or RUN/checkpoints/NAME.

    Raises:
        UserError: when there is none, or it is damaged.
    """
    run, name = run_of(run_dir), run_dir.name
    folder = run / "checkpoints"
    if run != run_dir:
        if name != "best" and not (folder / name).is_dir():
            raise UserError(f"{run_dir} is no checkpoint, expected a folder in {folder}, or best")
        return load_checkpoint(folder, name)
    if not (folder / LATEST).exists():
        raise UserError(
            f"{run_dir} holds no complete checkpoint, expected the folder of a run that has "
            "written one"
        )
    return load_checkpoint(folder)


def read_supervision(run_dir: Path) -> tuple[str, ...]:
    """The audit lines of a run's network; none where the run left none."""
    try:
        record = json.loads((run_of(run_dir) / SUPERVISION).read_text(encoding="utf-8"))
        return tuple(str(line) for line in record["supervision"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def load_weights(
    network: torch.nn.Module, checkpoint: Checkpoint, run_dir: Path, class_names: Collection[str]
) -> int:
    """Puts the checkpoint's weights into a network; returns the checkpoint's optimiser steps.

    Raises:
        UserError: when they are of another network or other classes.
    """
    try:
        network.load_state_dict(checkpoint.model)
        return int(checkpoint.state["step"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = in_one_line(error)
        raise UserError(
            f"the checkpoint of {run_dir} does not fit the network of {run_dir / CONFIG} with the "
            f"{len(class_names)} classes of {CLASSES} ({reason})"
        ) from error


def difference(there: tuple[str, ...], here: tuple[str, ...]) -> str:
    """The first difference between two lists of class names, in words."""
    if len(there) != len(here):
        return f"{len(there)} classes there, {len(here)} here"
    index = next(i for i, names in enumerate(zip(there, here, strict=True)) if names[0] != names[1])
    return f"class {index} is {there[index]!r} there, {here[index]!r} here"


def one_line(error: Exception) -> str:
    """The reason of an exception, without line breaks."""
    return in_one_line(getattr(error, "strerror", None) or error)
