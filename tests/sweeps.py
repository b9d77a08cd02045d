"""A sweep for tests, and trials whose runs are scripts of a few lines."""

import dataclasses
import json
import sys
from pathlib import Path

from dist_oaa.config.tune import TuneConfig
from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.processes import Machine, launch
from dist_oaa.stages.tuning.space import Space
from dist_oaa.stages.tuning.sweep import Sweep, make_sweep
from dist_oaa.stages.tuning.trial import Trial

MACHINE = Machine((), 2, "test processor", "test versions")
SPACE = {"drop.delta": {"grid": [0.3, 0.6]}, "drop.beta": {"grid": [0.25, 0.5]}}


def a_sweep(out: Path, space: object = None, **changes: object) -> tuple[Sweep, list[Space]]:
    """A sweep of `oaa classify` over delta and beta, of three epochs."""
    config = TuneConfig(run_dir=str(out), space=space or SPACE)
    config.base.settings = {"data.root": "data", "optim.epochs": 3, "drop.where": "input"}
    for key, value in changes.items():
        setattr(config, key, value)
    return make_sweep(config, out / "sweep.yaml", {})


def write_run(
    run: PlannedRun, values: list[float], metric: str = "cumulative/seed_miou", **record: object
) -> None:
    """What a run leaves behind that has measured these values, one an epoch."""
    run.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        {"stage": run.stage, "epoch": n, "step": n, "closes_epoch": True, metric: value}
        for n, value in enumerate(values)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run.folder / "metrics.jsonl").write_text(text)
    (run.folder / "config.yaml").write_text("run_dir: somewhere\nseed: 0\nruntime: {threads: 1}\n")
    figures = {metric: values[-1]} if values else {}
    made = records.Record(run.name, run.stage, run.seed, run.identity, run.settings)
    made = dataclasses.replace(made, metrics=figures if record.get("finished") else {})
    records.save_record(run.folder, dataclasses.replace(made, **record))


def scripted(sweep: Sweep, run: PlannedRun, script: str, asked: list | None = None) -> Trial:
    """A trial whose run is a Python script in its run directory.

    Args:
        asked: receives, for each attempt, whether it resumes.
    """

    def line(resume: bool) -> list[str]:
        if asked is not None:
            asked.append(resume)
        return [sys.executable, "-c", PRELUDE + script]

    def start(command, log):
        return launch(command, log, folder=str(run.folder))

    return Trial(sweep, run, MACHINE, line, start, pause_s=0.01)


PRELUDE = """
import json, os, signal, sys, time
from pathlib import Path
def epoch(n, value):
    entry = {"stage": "classify", "epoch": n, "step": n, "closes_epoch": True}
    with open("metrics.jsonl", "a") as file:
        file.write(json.dumps(entry | {"cumulative/seed_miou": value}) + "\\n")
    Path("checkpoints").mkdir(exist_ok=True)
    Path("checkpoints/latest.json").write_text("{}")
"""
