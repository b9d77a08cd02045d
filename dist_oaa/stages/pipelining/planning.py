"""From a pipeline's file and the command line to the runs that it makes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dotted_keys, nearest_key
from dist_oaa.config.pipeline import PipelineConfig
from dist_oaa.stages.launching.kinds import KINDS
from dist_oaa.stages.launching.planned import Asked, PlannedRun, Source, plain_name, plan_run
from dist_oaa.stages.launching.trees import as_mapping, check_keys, flatten

KEYS = ("stage", "config", "settings", "reads")
OURS = ("run_dir", "resume")
"""Settings of every stage that only the command may give."""


@dataclass
class Overrides:
    """Settings of stages that stand on the command line, as text."""

    everywhere: dict[str, str] = field(default_factory=dict)
    of_stage: dict[str, dict[str, str]] = field(default_factory=dict)


def split_arguments(
    argv: Sequence[str], own: Sequence[str], stages: Sequence[str]
) -> tuple[list[str], Overrides]:
    """(the pipeline's own arguments, the settings of its stages).

    Args:
        own: the pipeline's own keys.
        stages: the names of its stages.

    Raises:
        UserError: when a setting has no value.
    """
    ours: list[str] = []
    overrides = Overrides()
    words = iter(argv)
    for word in words:
        key, equals, value = word.removeprefix("--").partition("=")
        first = key.partition(".")[0]
        if not word.startswith("--") or first in (*own, "help", "print_config"):
            ours.append(word)
            continue
        if not equals:
            value = next(words, "--")
            if value.startswith("--"):
                raise UserError(f"--{key} has no value, expected `--{key} VALUE`")
        if first in stages and "." in key:
            overrides.of_stage.setdefault(first, {})[key.partition(".")[2]] = value
        else:
            overrides.everywhere[key] = value
    return ours, overrides


def plan_pipeline(config: PipelineConfig, file: Path, overrides: Overrides) -> list[PlannedRun]:
    """The runs of a pipeline in order, those after `until` left out.

    Raises:
        UserError: naming the file and the place in it.
    """
    if not config.stages:
        raise UserError(f"stages is empty in {file}, expected the stages of a pipeline")
    if config.until and config.until not in config.stages:
        raise UserError(f"until is {config.until}, expected one of {', '.join(config.stages)}")
    entries = {str(name): read_entry(name, entry, file) for name, entry in config.stages.items()}
    common = flatten(config.settings) | overrides.everywhere
    check_common(common, [entry["stage"] for entry in entries.values()], file)
    runs: dict[str, PlannedRun] = {}
    for name, entry in entries.items():
        runs[name] = plan_stage(name, entry, common, overrides, runs, config, file)
        if name == config.until:
            break
    return list(runs.values())


def read_entry(name: str, entry: object, file: Path) -> dict[str, Any]:
    """One stage of the file, its settings flat and its settings file found.

    Raises:
        UserError: when a key or a file is wrong.
    """
    where = f"stages.{name} in {file}"
    entry = dict(as_mapping(entry or {}, where))
    check_keys(entry, KEYS, where)
    stage = entry.get("stage", name)
    if stage not in KINDS:
        nearest = nearest_key(str(stage), KINDS)
        hint = f"the nearest is {nearest}" if nearest else f"expected one of {', '.join(KINDS)}"
        raise UserError(f"{where} is of stage {stage!r}, which does not exist: {hint}")
    config = file.parent / str(entry["config"]) if entry.get("config") else None
    if config is not None and not config.is_file():
        raise UserError(f"config of {where} is {config}, which does not exist")
    settings = flatten(as_mapping(entry.get("settings") or {}, f"settings of {where}"))
    reads = as_mapping(entry.get("reads") or {}, f"reads of {where}")
    needs = KINDS[stage].source
    if needs and needs not in reads:
        raise UserError(f"{where} reads no {needs}: add `reads: {{{needs}: NAME OF A STAGE}}`")
    for key in settings:
        if key in (*OURS, *reads):
            raise UserError(f"{key} of {where} is set by the pipeline")
    return {"stage": stage, "config": config, "settings": settings, "reads": reads}


def check_common(common: Mapping[str, Any], stages: Sequence[str], file: Path) -> None:
    """Refuses a common setting that no stage has.

    Raises:
        UserError: naming the nearest valid one.
    """
    known = {key for stage in stages for key in dotted_keys(KINDS[stage].config_class())}
    for key in common:
        if key in OURS:
            raise UserError(f"{key} of the stages of {file} is set by the pipeline")
        if key not in known:
            nearest = nearest_key(key, known)
            hint = f"; the nearest valid key is {nearest}" if nearest else ""
            raise UserError(f"no stage of {file} has a setting {key}{hint}")


def plan_stage(
    name: str,
    entry: dict[str, Any],
    common: Mapping[str, Any],
    overrides: Overrides,
    before: Mapping[str, PlannedRun],
    config: PipelineConfig,
    file: Path,
) -> PlannedRun:
    """The run of one stage.

    Raises:
        UserError: when it reads a stage that does not come before it, or a setting is wrong.
    """
    kind = KINDS[entry["stage"]]
    keys = dotted_keys(kind.config_class())
    shared = {
        key: value
        for key, value in common.items()
        # Given any data set, a stage that inherits its data would no longer do so.
        if key in keys and not (kind.inherits_data and key.startswith("data."))
    }
    given = shared | entry["settings"] | overrides.of_stage.get(name, {})
    sources = {}
    for setting, target in entry["reads"].items():
        source, _, folder = str(target).partition("/")
        if source not in before:
            raise UserError(
                f"reads.{setting} of stages.{name} in {file} is {target}, expected one of the "
                f"stages before it: {', '.join(before) or 'there is none'}"
            )
        sources[str(setting)] = Source(before[source], folder)
    seed = int(given["seed"]) if str(given.get("seed", "")).isdigit() else 0
    asked = Asked(name, entry["stage"], seed, entry["config"], given, sources, str(file))
    root = Path(config.run_dir).resolve()
    return plan_run(asked, lambda identity: root / f"{plain_name(name)}-{identity}")
