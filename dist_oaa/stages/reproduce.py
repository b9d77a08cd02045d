"""`oaa reproduce TABLE`: the papers' tables, each row made by ordinary runs of the stages.

Writes into its folder: runs/ (one run directory a run, shared by the tables), TABLE.md, TABLE.csv
and, for tables that have one, TABLE.png.
"""

import os
import shlex
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.config.extras import absent
from dist_oaa.config.load import parse_config
from dist_oaa.config.reproduce import ReproduceConfig
from dist_oaa.runtime.files import write_atomic
from dist_oaa.runtime.signals import StopFlag, stop_on_signals
from dist_oaa.stages.launching.maker import Outcome, Runner, only_one
from dist_oaa.stages.launching.planned import command
from dist_oaa.stages.launching.processes import Launch, launch, this_machine
from dist_oaa.stages.launching.progress import Progress
from dist_oaa.stages.launching.records import can_resume, finished_record
from dist_oaa.stages.reproducing.files import find_table
from dist_oaa.stages.reproducing.planning import Plan, Request, find_run, make_plan
from dist_oaa.stages.reproducing.plots import draw
from dist_oaa.stages.reproducing.report import csv_text, footnotes, markdown, rich_table
from dist_oaa.stages.reproducing.results import TableResult, collect
from dist_oaa.stages.reproducing.tables import Table, read_table


def main(prog: str, argv: list[str]) -> int:
    """Runs the command; returns the exit code."""
    config = parse_config(ReproduceConfig, f"{prog} TABLE", arguments(argv))
    typed = f"{prog} {shlex.join(argv)}"
    return reproduce(config, typed, Progress(), launch)


def arguments(argv: list[str]) -> list[str]:
    """The table's name as a setting, and the names after --only as a list."""
    if argv and not argv[0].startswith("-"):
        argv = ["--table", *argv]
    if "--only" not in argv:
        return argv
    start = argv.index("--only") + 1
    end = next((n for n in range(start, len(argv)) if argv[n].startswith("--")), len(argv))
    names = argv[start:end]
    if len(names) == 1 and names[0].startswith("["):
        return argv
    quoted = ", ".join("'" + name.replace("'", "''") + "'" for name in names)
    return [*argv[:start], f"[{quoted}]", *argv[end:]]


def reproduce(config: ReproduceConfig, typed: str, progress: Progress, start: Launch) -> int:
    """Makes what is missing of a table and prints it.

    Args:
        typed: the command as it was given, for the Markdown file.
        start: starts a command; see `launch`.

    Returns:
        0, or 1 when a run failed.

    Raises:
        UserError: before anything is run.
        Interrupted: after a signal; the table of what is there has been written.
    """
    table = read_table(find_table(config.table))
    request = request_of(config)
    plan = make_plan(table, request, lambda identity: find_run(request.out, identity))
    seeds = request.seeds or table.scales[config.scale].seeds
    if config.dry_run:
        list_runs(plan, progress, config.workers or this_machine().workers)
        return 0
    with only_one(request.out, "oaa reproduce"), stop_on_signals() as stop:
        try:
            outcome = make_runs(table, config, plan, stop, progress, start)
        finally:
            progress.close()
            publish(collect(table, plan, config.scale, seeds), request.out, typed, progress)
    for identity, problem in outcome.failed.items():
        progress.say(f"failed: {plan.runs[identity].folder.name}: {problem}")
    return 1 if outcome.failed else 0


def request_of(config: ReproduceConfig) -> Request:
    """What the command line asks for.

    Raises:
        UserError: when the data set is missing, or several processes were started.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("oaa reproduce starts torchrun itself: start it alone, with --workers N")
    if not config.data.root:
        raise UserError("data.root is empty, expected the folder of a data set")
    if not Path(config.data.root).is_dir():
        raise UserError(f"data.root {config.data.root} does not exist, expected a folder")
    return Request(
        out=Path(config.run_dir).resolve(),
        root=Path(config.data.root).resolve(),
        scale=config.scale,
        seeds=tuple(config.seeds),
        only=tuple(config.only),
        saliency_dir=config.evaluate.saliency_dir,
    )


def list_runs(plan: Plan, progress: Progress, workers: int) -> None:
    """Says what would be run."""
    for identity, run in plan.runs.items():
        if identity in plan.wanted:
            state = "finished" if finished_record(run) else "to make"
            line = shlex.join(command(run, workers, can_resume(run.folder)))
            progress.say(f"{run.folder.name} ({state})\n  {line}")


def make_runs(
    table: Table,
    config: ReproduceConfig,
    plan: Plan,
    stop: StopFlag,
    progress: Progress,
    start: Launch,
) -> Outcome:
    """Makes what is missing, and says before what is about to happen.

    Raises:
        Interrupted: after a signal.
    """
    progress.say(f"{table.title}: {table.path}")
    if all(finished_record(plan.runs[identity]) is not None for identity in plan.wanted):
        progress.begin(0, len(plan.wanted))
        return Outcome(set(plan.wanted))
    machine = this_machine()
    workers = config.workers or machine.workers
    processes = "1 process" if workers == 1 else f"{workers} processes"
    progress.say(f"{processes} a run on {machine}")
    if time := table.scales[config.scale].time:
        progress.say(f"expected for the whole table, scale {config.scale}: {time}")
    return Runner(machine, workers, stop, progress, start).make(plan.to_make)


def publish(result: TableResult, out: Path, typed: str, progress: Progress) -> None:
    """Prints the table and writes its files.

    Raises:
        UserError: when the disk is full or not writable.
    """
    name = result.table.name
    try:
        missing = absent("the picture", "matplotlib") if result.table.plot else ""
        drawn = not missing and draw(result, out / f"{name}.png")
        text = markdown(result, typed, f"{name}.png" if drawn else "")
        write_atomic(out / f"{name}.md", text.encode())
        write_atomic(out / f"{name}.csv", csv_text(result).encode())
    except OSError as error:
        raise UserError(f"{out / name}.* cannot be written: {error.strerror or error}") from error
    progress.console.print(rich_table(result))
    for note in [*footnotes(result), *([missing] if missing else [])]:
        progress.say(note)
    written = [f"{name}.md", f"{name}.csv", *([f"{name}.png"] if drawn else [])]
    progress.say(f"written: {', '.join(str(out / file) for file in written)}")
