"""`oaa tune`: trials of settings with Ray Tune, each an ordinary run of the launcher.

Writes into its folder: trials/ (one run directory a trial), sweep.json (what was asked for),
trials.csv, results.md, objective.png, best.yaml and tensorboard/ (all trials side by side).
"""

import dataclasses
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.extras import absent
from dist_oaa.config.load import dotted_keys, parse_config
from dist_oaa.config.tune import TuneConfig
from dist_oaa.runtime.files import named_disk_errors, write_atomic
from dist_oaa.runtime.signals import stop_on_signals
from dist_oaa.stages.launching.maker import only_one
from dist_oaa.stages.launching.planned import PlannedRun
from dist_oaa.stages.launching.processes import Machine, this_machine
from dist_oaa.stages.launching.records import RECORD
from dist_oaa.stages.pipelining.planning import split_arguments
from dist_oaa.stages.tuning.best import NAME as BEST
from dist_oaa.stages.tuning.best import best_yaml
from dist_oaa.stages.tuning.commands import trial_command
from dist_oaa.stages.tuning.driver import Work, run_trials
from dist_oaa.stages.tuning.picture import draw
from dist_oaa.stages.tuning.report import (
    SHOWN_ROWS,
    Results,
    audit,
    csv_text,
    failures,
    markdown,
    proxies,
    rich_table,
    summary,
)
from dist_oaa.stages.tuning.results import by_point, correlations, made_runs, read_trial
from dist_oaa.stages.tuning.show import SweepProgress
from dist_oaa.stages.tuning.space import Point, Space, corners, grid, random_points
from dist_oaa.stages.tuning.sweep import (
    Sweep,
    all_trials,
    epochs_of,
    make_sweep,
    plan_trial,
    refuse_reported,
)
from dist_oaa.stages.tuning.warm import take_over

SWEEP = "sweep.json"


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    own = [*dict.fromkeys(key.partition(".")[0] for key in dotted_keys(TuneConfig)), "config"]
    ours, typed = split_arguments(argv, own, ())
    config = parse_config(TuneConfig, prog, ours)
    files = [ours[n + 1] for n, word in enumerate(ours[:-1]) if word == "--config"]
    files += [word.split("=", 1)[1] for word in ours if word.startswith("--config=")]
    if not files:
        raise UserError("oaa tune needs --config FILE, expected a file with a space to search")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("oaa tune starts torchrun itself: start it alone, with --trial.workers N")
    sweep, spaces = make_sweep(config, Path(files[-1]), typed.everywhere)
    return run_sweep(config, sweep, spaces, f"{prog} {shlex.join(argv)}", SweepProgress)


def run_sweep(
    config: TuneConfig, sweep: Sweep, spaces: list[Space], typed: str, progress_class: type
) -> int:
    """Runs what is left of a sweep and writes what came out.

    Args:
        typed: the command as it was given.

    Returns:
        0, or 1 when a trial failed.

    Raises:
        UserError: before anything is run.
        Interrupted: after a signal; the results of what is there have been written.
    """
    points = points_of(config, spaces)
    searched = spaces[0] if points is None else None
    for point in corners(spaces[0]) if points is None else points:
        for seed in sweep.seeds[:1]:
            refuse_reported(sweep, plan_trial(sweep, point, seed))
    runs = all_trials(sweep, points or [])
    progress = progress_class(sweep.metric)
    if config.dry_run:
        list_trials(sweep, runs, progress)
        return 0
    out = Path(sweep.out)
    check_folder(out, config.resume)
    with only_one(out, "oaa tune"), stop_on_signals() as stop:
        taken = take_over(sweep, spaces, config.warm_start)
        if taken:
            progress.say(f"{len(taken)} results taken over from {', '.join(config.warm_start)}")
        save_sweep(out, sweep, config, typed)
        machine = this_machine()
        work = work_of(config, sweep, runs, searched)
        try:
            if work is None:
                progress.say("all trials are finished, with these settings")
            else:
                progress.say(f"{sweep.title}: {method_of(config)}, on {machine}")
                progress.total = len(work.points) or work.samples * len(sweep.seeds)
                run_trials(config, sweep, work, machine, progress, stop)
        finally:
            progress.close()
        results = publish(config, sweep, spaces, runs, typed, machine, progress)
        if stop.reason:
            raise Interrupted(
                f"stopped by {stop.reason}; nothing that is finished is lost, and the same command "
                "with --resume goes on from here"
            )
    return 1 if failures(results) or any(t.state == "cut off" for t in results.trials) else 0


def points_of(config: TuneConfig, spaces: Sequence[Space]) -> list[Point] | None:
    """The points that are known beforehand; None where a search finds them.

    Raises:
        UserError: when the method does not fit the space.
    """
    if config.search.method == "grid":
        return grid(spaces)
    if len(spaces) > 1:
        raise UserError(
            f"space holds {len(spaces)} spaces, but search.method {config.search.method} searches "
            "one; only grid takes several"
        )
    if config.search.method == "random":
        return random_points(spaces[0], config.search.samples, config.search.seed)
    return None


def check_folder(out: Path, resume: bool) -> None:
    """Refuses a folder that the sweep must not begin or go on in; changes nothing.

    Raises:
        UserError: likewise.
    """
    # A sweep that was refused has left its settings, but no trial.
    begun = any(out.glob(f"trials/*/{RECORD}"))
    if resume and not begun:
        raise UserError(f"{out} holds no sweep to resume; start it without --resume")
    if begun and not resume:
        raise UserError(
            f"{out} holds an earlier sweep; go on with it by --resume or choose another run_dir"
        )


def save_sweep(out: Path, sweep: Sweep, config: TuneConfig, typed: str) -> None:
    """Writes what was asked for.

    Raises:
        UserError: when the folder cannot be written.
    """
    asked = {"command": typed, "sweep": dataclasses.asdict(sweep), "space": config.space}
    with named_disk_errors(str(out / SWEEP)):
        write_atomic(out / SWEEP, json.dumps(asked, indent=1).encode())


def work_of(
    config: TuneConfig, sweep: Sweep, runs: list[PlannedRun], searched: Space | None
) -> Work | None:
    """What is left to be done; None where nothing is."""
    if searched is not None:
        return search_of(config, sweep, searched)
    states = {run.identity: read_trial(sweep, run).state for run in runs}
    left = [run for run in runs if states[run.identity] not in ("finished", "stopped")]
    if not left:
        return None
    # Halving judges a trial against all others: those that are done are shown to it again.
    todo = left if config.scheduler.method == "none" else runs
    points = [({key: run.settings[key] for key in sweep.keys}, run.seed) for run in todo]
    return Work(points=points, epochs=max(epochs_of(run) for run in todo))


def search_of(config: TuneConfig, sweep: Sweep, space: Space) -> Work | None:
    """What a search has still to try, and what it knows."""
    points = by_point(sweep, [read_trial(sweep, run) for run in made_runs(sweep)])
    known, begun = [], []
    for result in points:
        whole = len(result.trials) == len(sweep.seeds)
        value = result.mean(sweep.metric)
        if result.state in ("finished", "stopped") and whole and value is not None:
            known.append((result.point, value))
        elif result.state != "failed":
            begun.append(result.point)
    failed = sum(result.state == "failed" for result in points)
    samples = config.search.samples - len(known) - failed
    if samples < 1:
        return None
    epochs = max(epochs_of(plan_trial(sweep, p, sweep.seeds[0])) for p in corners(space))
    return Work(space=space, samples=samples, known=known, begun=begun, epochs=epochs)


def method_of(config: TuneConfig) -> str:
    """How points are chosen and stopped, in words."""
    search, halving = config.search, config.scheduler
    words = search.method
    if search.method != "grid":
        words += f", {search.samples} points, search seed {search.seed}"
    if halving.method == "asha":
        words += f", ASHA from epoch {halving.grace_epochs} by {halving.reduction:g}"
    return words


def list_trials(sweep: Sweep, runs: Sequence[PlannedRun], progress: SweepProgress) -> None:
    """Says what would be run."""
    for run in runs:
        line = shlex.join(trial_command(sweep, run, resume=False))
        progress.say(f"{run.name} ({read_trial(sweep, run).state})\n  {line}")
    if not runs:
        progress.say("the points are found as the search goes on")


def publish(
    config: TuneConfig,
    sweep: Sweep,
    spaces: Sequence[Space],
    runs: list[PlannedRun],
    typed: str,
    machine: Machine,
    progress: SweepProgress,
) -> Results:
    """Prints the results and writes their files.

    Raises:
        UserError: when the disk is full or not writable.
    """
    # Imported late: TensorBoard's half second is nothing that --help should wait for.
    from dist_oaa.stages.tuning.curves import write_curves

    trials = [read_trial(sweep, run) for run in runs or made_runs(sweep)]
    points, related = by_point(sweep, trials), correlations(sweep, trials)
    where = f"{machine}; {machine.versions}"
    results = Results(sweep, trials, points, related, typed, where, method_of(config))
    out = Path(sweep.out)
    written = ["results.md", "trials.csv"]
    with named_disk_errors(f"the results in {out}"):
        missing = absent("the picture", "matplotlib")
        if not missing and draw(results, spaces, out / "objective.png"):
            written.append("objective.png")
        picture = "objective.png" if "objective.png" in written else ""
        write_atomic(out / "results.md", markdown(results, picture).encode())
        write_atomic(out / "trials.csv", csv_text(results).encode())
        if text := best_yaml(results):
            write_atomic(out / BEST, text.encode())
            written.append(BEST)
        write_curves(results, out / "tensorboard")
    progress.say(f"{sweep.title}: {sweep.metric} ({sweep.mode}); shares in %")
    progress.console.print(rich_table(results))
    hidden = len(points) - SHOWN_ROWS
    if hidden > 0:
        progress.say(f"and {hidden} more in results.md")
    for line in (*audit(results), *proxies(results), *([missing] if missing else [])):
        progress.say(line)
    for line in failures(results):
        progress.say(f"failed: {line}")
    progress.say(summary(results))
    progress.say(f"written: {', '.join(written)} in {out}; tensorboard --logdir {out}/tensorboard")
    return results
