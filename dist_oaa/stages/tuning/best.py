"""The best settings as a file that the stage's own command takes as it is."""

from pathlib import Path

import yaml

from dist_oaa.runtime.rundir import CONFIG
from dist_oaa.stages.launching.trees import read_tree
from dist_oaa.stages.tuning.report import Results, audit, summary
from dist_oaa.stages.tuning.sweep import PIPELINE

NAME = "best.yaml"


def best_yaml(results: Results) -> str | None:
    """The settings of the best point's first seed; None where none is finished."""
    best = results.best
    if best is None:
        return None
    sweep, run = results.sweep, best.trials[0].run
    tree = pipeline_tree(results) if sweep.stage == PIPELINE else read_tree(run.folder / CONFIG)
    tree |= {"run_dir": f"{sweep.out}/best"}
    tree.pop("resume", None)
    if isinstance(tree.get("runtime"), dict):
        tree["runtime"].pop("threads", None)  # a trial's share of the machine
    notes = [summary(results), *audit(results), f"oaa {sweep.stage} --config {sweep.out}/{NAME}"]
    comments = "".join(f"# {note}\n" for note in notes)
    return comments + yaml.safe_dump(tree, sort_keys=False, width=100, allow_unicode=True)


def pipeline_tree(results: Results) -> dict:
    """The pipeline's file with the best point's settings in their stages."""
    assert results.best is not None
    sweep, file = results.sweep, Path(results.sweep.config)
    tree = read_tree(file)
    stages = {name: dict(entry or {}) for name, entry in tree["stages"].items()}
    for entry in stages.values():
        if entry.get("config"):
            entry["config"] = str((file.parent / entry["config"]).resolve())
    common = dict(tree.get("settings") or {})
    chosen = results.best.point | {"seed": results.best.trials[0].run.seed}
    for key, value in (sweep.settings | sweep.fixed | chosen).items():
        first, _, rest = key.partition(".")
        if first in stages and rest:
            stages[first]["settings"] = dict(stages[first].get("settings") or {}) | {rest: value}
        else:
            common[key] = value
    return tree | {"settings": common, "stages": stages}
