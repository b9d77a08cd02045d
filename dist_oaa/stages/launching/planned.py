"""One run of a stage, known before it is made: its settings, its command line and its identity.

The identity is a hash over the stage, the settings that differ from the defaults and the runs that
it reads. So a setting that a later version adds does not make a run a stranger, and whoever asks
for the same settings, in a table or in a pipeline, is given the same run.
"""

import dataclasses
import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import parse_config
from dist_oaa.stages.launching.kinds import KINDS
from dist_oaa.stages.launching.trees import flatten

# How a run is carried out, not what comes out of it: the whole key or the first part of it.
NOT_IDENTITY = ("run_dir", "resume", "runtime", "checkpoint", "store.local_dir", "data.workers")
NOT_IDENTITY += ("processes",)


@dataclass(frozen=True)
class PlannedRun:
    """One run of one stage with one seed."""

    name: str
    stage: str
    seed: int
    identity: str
    folder: Path
    """Its run directory."""
    arguments: tuple[str, ...]
    """Of `oaa`, the stage's name first, without --resume."""
    settings: dict[str, Any]
    """Resolved, by dotted key: all that has to do with its result."""
    sources: tuple[str, ...] = ()
    """Identities of the runs that it reads."""


@dataclass(frozen=True)
class Source:
    """A run that another one reads."""

    run: PlannedRun
    folder: str = ""
    """A folder of the run, where it is not the run itself."""

    @property
    def path(self) -> Path:
        """What the reading stage is given."""
        return self.run.folder / self.folder


@dataclass(frozen=True)
class Asked:
    """What is asked for of a run."""

    name: str
    stage: str
    seed: int
    config: Path | None
    """A settings file of the stage."""
    settings: Mapping[str, Any]
    """Dotted keys that win over the file."""
    sources: Mapping[str, Source]
    """By the setting that names the run to the stage."""
    where: str
    """Where all this was written, for messages."""


def plan_run(asked: Asked, folder_of: Callable[[str], Path]) -> PlannedRun:
    """Resolves a run's settings and works out its identity.

    Args:
        folder_of: the run directory of an identity.

    Raises:
        UserError: when a setting is unknown or out of range.
    """
    arguments = ["--config", str(asked.config)] if asked.config else []
    for setting, source in asked.sources.items():
        arguments += [f"--{setting}", str(source.path)]
    for key, value in asked.settings.items():
        arguments += [f"--{key}", as_text(value)]
    config_class = KINDS[asked.stage].config_class()
    try:
        config = parse_config(config_class, f"oaa {asked.stage}", arguments)
    except UserError as error:
        # Naming the file that was written, not a command line that nobody typed.
        raise UserError(str(error).replace("the command line", asked.where)) from error
    flat = flatten(dataclasses.asdict(config))
    settings = {k: v for k, v in of_result(flat).items() if k not in asked.sources}
    identity = identify(asked.stage, settings, defaults(config_class), asked.sources)
    folder = folder_of(identity)
    return PlannedRun(
        name=asked.name,
        stage=asked.stage,
        seed=asked.seed,
        identity=identity,
        folder=folder,
        arguments=(asked.stage, *arguments, "--run_dir", str(folder)),
        settings=settings,
        sources=tuple(source.run.identity for source in asked.sources.values()),
    )


def defaults(config_class: type) -> dict[str, Any]:
    """The defaults of a config dataclass by dotted key; the class itself is not instantiated."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config_class):
        if dataclasses.is_dataclass(field.type):
            flat |= {f"{field.name}.{k}": v for k, v in defaults(field.type).items()}
        elif field.default_factory is not dataclasses.MISSING:
            flat[field.name] = field.default_factory()
        elif field.default is not dataclasses.MISSING:
            flat[field.name] = field.default
    return flat


def of_result(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without those that only say how a run is carried out."""
    return {
        key: value
        for key, value in flat.items()
        if not any(key == name or key.startswith(f"{name}.") for name in NOT_IDENTITY)
    }


def identify(
    stage: str,
    settings: Mapping[str, Any],
    default: Mapping[str, Any],
    sources: Mapping[str, Source],
) -> str:
    """Ten hex digits that name a run."""
    changed = {k: v for k, v in settings.items() if k not in default or default[k] != v}
    read = {k: [source.run.identity, source.folder] for k, source in sources.items()}
    text = json.dumps([stage, changed, read], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def plain_name(name: str) -> str:
    """A run's name as part of a folder's name."""
    return re.sub(r"[^A-Za-z0-9._]+", "_", name)


def as_text(value: object) -> str:
    """A setting's value as a command line writes it."""
    if isinstance(value, str):
        return value
    return json.dumps(value)


def command(run: PlannedRun, workers: int, resume: bool) -> list[str]:
    """The command line that starts a run on this machine."""
    stage = ["-m", "dist_oaa", *run.arguments, *(["--resume", "true"] if resume else [])]
    if workers == 1 or KINDS[run.stage].alone:
        return [sys.executable, *stage]
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(workers)]
    return [sys.executable, *launcher, *stage]
