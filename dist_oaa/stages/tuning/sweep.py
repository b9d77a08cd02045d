"""What a sweep is made of, and the run that a point of it stands for.

A `Sweep` is plain data: the driver hands it to trials on any node, and each finds the same run
directory for the same point and seed.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dotted_keys, nearest_key, parse_config
from dist_oaa.config.pipeline import PipelineConfig
from dist_oaa.config.tune import TuneConfig
from dist_oaa.stages.launching.kinds import KINDS
from dist_oaa.stages.launching.planned import Asked, PlannedRun, as_text, plain_name, plan_run
from dist_oaa.stages.launching.trees import as_mapping, flatten, read_tree
from dist_oaa.stages.pipelining.planning import Overrides, plan_pipeline
from dist_oaa.stages.tuning.space import Point, Space, describe, read_spaces, varied

OURS = ("run_dir", "resume", "seed", "runtime.threads")
"""Settings of a trial that only the sweep may give."""
PIPELINE = "pipeline"
REPORTED = ("val", "test")
"""Image lists on which the field reports its results."""
COLOUR = "colour"
"""Last part of the names of the figures that ask for `evaluate.label_free`."""


@dataclass(frozen=True)
class Sweep:
    """All that a trial needs to know."""

    title: str
    file: str
    """The sweep's settings file, for messages."""
    out: str
    """Folder of the sweep, absolute."""
    stage: str
    config: str
    """Settings file of the stage, absolute; empty for none."""
    settings: dict[str, Any]
    """Of all trials, by dotted key."""
    keys: list[str]
    """The settings that vary, in order."""
    fixed: Point
    """Settings of the space that have one value."""
    metric: str
    mode: str
    seeds: list[int]
    workers: int
    nodes: int
    cpus_per_worker: float
    gpus_per_worker: float
    retries: int
    grace_s: float
    folder: str
    """Where the command was given: what relative paths begin at."""

    @property
    def threads(self) -> int:
        """Arithmetic threads of a process."""
        return max(1, int(self.cpus_per_worker))

    @property
    def better(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.mode == "max" else -1


def make_sweep(
    config: TuneConfig, file: Path, typed: Mapping[str, str]
) -> tuple[Sweep, list[Space]]:
    """The sweep that the settings describe, and the spaces that it searches.

    Args:
        file: the settings file; the base's own is relative to it.
        typed: settings of all trials that stand on the command line.

    Raises:
        UserError: naming the file and the key at fault.
    """
    stage = config.base.stage
    if stage != PIPELINE and stage not in KINDS:
        nearest = nearest_key(stage, [*KINDS, PIPELINE])
        raise UserError(
            f"base.stage in {file} is {stage}, expected pipeline or one of {', '.join(KINDS)}"
            + (f"; the nearest is {nearest}" if nearest else "")
        )
    base = file.parent / config.base.config if config.base.config else None
    if base is not None and not base.is_file():
        raise UserError(f"base.config in {file} is {base}, which does not exist")
    if stage == PIPELINE and base is None:
        raise UserError(f"base.config in {file} is empty, expected the file of a pipeline")
    spaces = read_spaces(config.space, str(file))
    for key in {*flatten(config.base.settings), *typed, *(k for s in spaces for k in s)}:
        if key in OURS:
            raise UserError(f"{key} of the trials of {file} is set by the sweep")
    keys = varied(spaces)
    fixed = {k: d.values[0] for s in spaces for k, d in s.items() if k not in keys}
    sweep = Sweep(
        title=config.title or file.stem,
        file=str(file),
        out=str(Path(config.run_dir).resolve()),
        stage=stage,
        config=str(base.resolve()) if base else "",
        settings=flatten(as_mapping(config.base.settings, f"base.settings in {file}")) | typed,
        keys=keys,
        fixed=fixed,
        metric=config.objective.metric,
        mode=config.objective.mode,
        seeds=config.seeds,
        workers=config.trial.workers,
        nodes=config.trial.nodes,
        cpus_per_worker=config.trial.cpus_per_worker,
        gpus_per_worker=config.trial.gpus_per_worker,
        retries=config.trial.retries,
        grace_s=config.trial.grace_s,
        folder=str(Path.cwd()),
    )
    return with_measuring(sweep, config.objective.images), spaces


def with_measuring(sweep: Sweep, images: str) -> Sweep:
    """Has every epoch of every trial measured on the same images.

    Raises:
        UserError: when the stage cannot measure on a list of images.
    """
    known = stage_keys(sweep)
    wanted: dict[str, Any] = {"evaluate.every_epochs": 1, "evaluate.images": 0}
    if images:
        if "evaluate.list" not in known:
            raise UserError(
                f"objective.images in {sweep.file} is {images}, but {sweep.stage} does not measure "
                "on a list of training images"
            )
        wanted["evaluate.list"] = images
    if sweep.metric.endswith(f"/{COLOUR}"):
        wanted["evaluate.label_free"] = True
    given = {k: v for k, v in wanted.items() if k in known and k not in sweep.settings}
    return dataclasses.replace(sweep, settings=sweep.settings | given)


def stage_keys(sweep: Sweep) -> set[str]:
    """The settings that the stage has; of a pipeline, those that one of its stages has."""
    if sweep.stage != PIPELINE:
        return set(dotted_keys(KINDS[sweep.stage].config_class()))
    stages = as_mapping(read_tree(Path(sweep.config)).get("stages"), f"stages of {sweep.config}")
    kinds = [dict(e or {}).get("stage", n) for n, e in stages.items() if isinstance(e, dict | None)]
    return {k for kind in kinds if kind in KINDS for k in dotted_keys(KINDS[kind].config_class())}


def plan_trial(sweep: Sweep, point: Point, seed: int) -> PlannedRun:
    """The run of a point with a seed.

    Raises:
        UserError: when a setting is unknown or out of range.
    """
    point = sweep.fixed | point
    words = describe(point, sweep.keys) + (f", seed {seed}" if len(sweep.seeds) > 1 else "")
    if sweep.stage == PIPELINE:
        return plan_pipeline_trial(sweep, point, seed, words)
    settings = sweep.settings | point
    if "seed" in stage_keys(sweep):
        settings = {"seed": seed} | settings
    config = Path(sweep.config) if sweep.config else None
    asked = Asked(words, sweep.stage, seed, config, settings, {}, sweep.file)
    return plan_run(asked, lambda identity: find_folder(sweep, words, identity))


def plan_pipeline_trial(sweep: Sweep, point: Point, seed: int, words: str) -> PlannedRun:
    """The run of a whole pipeline: as one command, whose stages lie in its folder.

    Raises:
        UserError: when a setting is unknown or out of range.
    """
    file = Path(sweep.config)
    given = sweep.settings | point | {"seed": seed}
    texts = {key: as_text(value) for key, value in given.items()}
    typed = [word for key, text in texts.items() for word in (f"--{key}", text)]
    config = parse_config(PipelineConfig, "oaa pipeline", ["--config", str(file)])
    overrides = Overrides()
    for key, text in texts.items():
        first, _, rest = key.partition(".")
        if first in config.stages and rest:
            overrides.of_stage.setdefault(first, {})[rest] = text
        else:
            overrides.everywhere[key] = text
    runs = plan_pipeline(config, file, overrides)
    text = json.dumps([PIPELINE, *(run.identity for run in runs)])
    identity = hashlib.sha256(text.encode()).hexdigest()[:10]
    folder = find_folder(sweep, words, identity)
    arguments = (PIPELINE, "--config", str(file), *typed, "--run_dir", str(folder))
    settings = given | {f"{run.name}.{k}": v for run in runs for k, v in run.settings.items()}
    return PlannedRun(words, PIPELINE, seed, identity, folder, arguments, settings)


def find_folder(sweep: Sweep, name: str, identity: str) -> Path:
    """The run directory of an identity, whatever the sweep called it when it was made."""
    trials = Path(sweep.out) / "trials"
    made = sorted(trials.glob(f"*-{identity}"))
    return made[0] if made else trials / f"{plain_name(name)}-{identity}"


def epochs_of(run: PlannedRun) -> int:
    """Epochs of a run, over all its stages; a stage without epochs counts as one."""
    if run.stage != PIPELINE:
        return int(run.settings.get("optim.epochs", 1))
    names = dict.fromkeys(key.partition(".")[0] for key in run.settings if "." in key)
    return sum(
        int(run.settings.get(f"{name}.optim.epochs", 1))
        for name in names
        if f"{name}.data.root" in run.settings or f"{name}.optim.epochs" in run.settings
    )


def all_trials(sweep: Sweep, points: Sequence[Point]) -> list[PlannedRun]:
    """The runs of all points, seed by seed.

    Raises:
        UserError: for the first point that is out of range.
    """
    runs = [plan_trial(sweep, point, seed) for seed in sweep.seeds for point in points]
    return list({run.identity: run for run in runs}.values())


def refuse_reported(sweep: Sweep, run: PlannedRun) -> None:
    """Refuses an objective that looks at the images on which results are reported.

    Raises:
        UserError: naming the setting that says which images are measured.
    """
    if sweep.metric.partition("/")[0] not in ("segmentation", "localization"):
        return  # of training images
    for key, value in run.settings.items():
        measured = key.endswith("evaluate.split") or (
            key.endswith("data.split") and key.split(".")[0] in ("evaluate", "localize")
        )
        if run.stage in ("evaluate", "localize"):
            measured = key == "data.split"
        if measured and value in REPORTED:
            raise UserError(
                f"objective.metric in {sweep.file} is {sweep.metric}, measured on the list {value} "
                f"({key}), on which results are reported: hold training images out and name their "
                "list there"
            )
