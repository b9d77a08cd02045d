"""`oaa pipeline`: from tagged images to a trained segmentation network with one command.

Writes into its folder: one run directory a stage, pipeline.json (which folder is which stage) and
report.html.
"""

import json
import os
import shlex
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.extras import absent
from dist_oaa.config.load import dotted_keys, parse_config
from dist_oaa.config.pipeline import PipelineConfig
from dist_oaa.runtime.files import write_atomic
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.launching.maker import Outcome, Runner, only_one
from dist_oaa.stages.launching.planned import PlannedRun, command
from dist_oaa.stages.launching.processes import Launch, launch, this_machine
from dist_oaa.stages.launching.progress import Progress
from dist_oaa.stages.launching.records import PIPELINE, can_resume, finished_record
from dist_oaa.stages.launching.trees import read_tree
from dist_oaa.stages.pipelining.planning import plan_pipeline, split_arguments
from dist_oaa.stages.pipelining.results import print_results


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    file = config_file(argv)
    stages = read_tree(file).get("stages") if file else {}
    names = list(stages) if isinstance(stages, dict) else []
    own = [*dotted_keys(PipelineConfig), "config"]
    ours, overrides = split_arguments(argv, own, names)
    config = parse_config(PipelineConfig, prog, ours)
    if file is None:
        raise UserError("oaa pipeline needs --config FILE, expected a file with the stages")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("oaa pipeline starts torchrun itself: start it alone, with --workers N")
    runs = plan_pipeline(config, file, overrides)
    title = config.title or file.stem
    progress = Progress(describe=stage_name)
    return run_pipeline(config, title, runs, progress, launch)


def stage_name(run: PlannedRun) -> str:
    """What a stage is called: its name, and what it runs where that is another."""
    return run.name if run.name == run.stage else f"{run.name} ({run.stage})"


def config_file(argv: list[str]) -> Path | None:
    """The last settings file that the arguments name."""
    files = [argv[n + 1] for n, word in enumerate(argv[:-1]) if word == "--config"]
    files += [word.split("=", 1)[1] for word in argv if word.startswith("--config=")]
    return Path(files[-1]) if files else None


def run_pipeline(
    config: PipelineConfig, title: str, runs: list[PlannedRun], progress: Progress, start: Launch
) -> int:
    """Makes what is missing, prints what came out and writes the report.

    Args:
        start: starts a command; see `launch`.

    Returns:
        0, or 1 when a stage failed.

    Raises:
        UserError: before anything is run.
        Interrupted: after a signal.
    """
    if config.dry_run:
        for run in runs:
            state = "finished" if finished_record(run) else "to make"
            workers = config.workers or this_machine().workers
            line = shlex.join(command(run, workers, can_resume(run.folder)))
            progress.say(f"{run.folder.name} ({state})\n  {line}")
        return 0
    out = Path(config.run_dir).resolve()
    with only_one(out, "oaa pipeline"), stop_on_signals() as stop:
        try:
            save_plan(out, title, runs)
            outcome = make(config, runs, stop, progress, start)
        finally:
            progress.close()
        for run in runs:
            if run.identity in outcome.failed:
                progress.say(f"{run.name} failed: {outcome.failed[run.identity]}")
        print_results(progress, runs)
        if not outcome.failed:
            show_page(progress, out)
    return 1 if outcome.failed else 0


def show_page(progress: Progress, out: Path) -> None:
    """Writes the report page; the stages are worth as much where its packages are missing.

    Raises:
        UserError: when it cannot be written.
    """
    if missing := absent("the report page", "jinja2", "matplotlib"):
        progress.say(f"{missing}, then oaa report {out}")
    else:
        # It brings torch along, and this process stays small beside the runs.
        from dist_oaa.stages.report import write_report

        progress.say(f"report: {write_report(out)}")


def make(
    config: PipelineConfig,
    runs: list[PlannedRun],
    stop: StopFlag,
    progress: Progress,
    start: Launch,
) -> Outcome:
    """Makes the stages that are not finished.

    Raises:
        Interrupted: after a signal.
    """
    if all(finished_record(run) is not None for run in runs):
        progress.say(f"all {len(runs)} stages are finished, with these settings")
        return Outcome({run.identity for run in runs})
    machine = this_machine()
    workers = config.workers or machine.workers
    progress.say(
        f"{' -> '.join(run.name for run in runs)}\n"
        f"{'1 process' if workers == 1 else f'{workers} processes'} a stage on {machine}"
    )
    return Runner(machine, workers, stop, progress, start, must_measure=False).make(runs)


def save_plan(out: Path, title: str, runs: list[PlannedRun]) -> None:
    """Writes which run directory belongs to which stage.

    Raises:
        UserError: when the folder cannot be written.
    """
    stages = [{"name": run.name, "stage": run.stage, "folder": run.folder.name} for run in runs]
    text = json.dumps({"title": title, "stages": stages}, indent=1)
    try:
        write_atomic(out / PIPELINE, text.encode())
    except OSError as error:
        raise UserError(f"run_dir {out} cannot be written: {error.strerror or error}") from error
