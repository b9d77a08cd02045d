"""Runs one after another: kept, continued, begun anew, failing, stopped; nothing is trained."""

import io
import json
import sys
from pathlib import Path

import pytest
from rich.console import Console

from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.reproduce import ReproduceConfig, ReproduceDataConfig
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages import reproduce as command_module
from dist_oaa.stages.launching import records
from dist_oaa.stages.launching.maker import Runner, only_one
from dist_oaa.stages.launching.processes import (
    Machine,
)
from dist_oaa.stages.launching.progress import Progress
from dist_oaa.stages.reproduce import arguments, reproduce
from dist_oaa.stages.reproducing.planning import Request, make_plan
from dist_oaa.stages.reproducing.tables import read_table
from small_table import SMALL, Launcher, Pretended, log_metrics, option, write

MACHINE = Machine((), 2, "a processor", "versions")
TREE = SMALL | {"rows": [*SMALL["rows"], {"name": "model", "run": "model"}]}


def plan_of(tmp_path: Path, tree: dict = TREE, seeds: tuple[int, ...] = (0,)):
    request = Request(tmp_path / "out", tmp_path / "data", "cpu", seeds)
    return make_plan(read_table(write(tmp_path, tree)), request)


class Making:
    """A Runner with everything around it, and what it printed."""

    def __init__(self, behave, stop: StopFlag | None = None) -> None:
        self.printed = io.StringIO()
        console = Console(file=self.printed, width=80)
        self.launcher, self.stop = Launcher(behave), stop or StopFlag()
        self.runner = Runner(MACHINE, 2, self.stop, Progress(console), self.launcher, 0)

    def stages(self) -> list[str]:
        commands = self.launcher.commands
        return [command[command.index("dist_oaa") + 1] for command in commands]


def well(command, log: Path, run_dir: Path) -> int:
    """A run that ends well."""
    stage = command[command.index("dist_oaa") + 1]
    kind = {"classify": "cumulative", "attend": "attention"}[stage]
    log_metrics(run_dir, stage, {f"{kind}/recall": 0.25}, {f"{kind}/recall": 0.5})
    with open(log, "a") as file:
        file.write(
            "24 images, 6 classes, 42 pairs (labels: labels.csv)\nsupervision: image-level\n"
        )
        file.write("  trunk weights none\nmaps: x\n")
    return 0


def test_a_finished_run_is_recorded_and_not_made_again(tmp_path):
    plan = plan_of(tmp_path)
    making = Making(well)
    outcome = making.runner.make(plan.to_make)
    assert (outcome.finished, outcome.failed) == (set(plan.runs), {})
    assert making.stages() == ["classify", "attend"]
    assert "[2/2] attend model, seed 0 finished" in making.printed.getvalue()
    run = next(iter(plan.runs.values()))
    record = records.finished_record(run)
    assert record.metrics == {"cumulative/recall": 0.5}
    assert (record.attempts, record.workers, record.seed) == (1, 2, 0)
    assert (record.machine, record.versions) == ("2 cores of a processor, no GPU", "versions")
    assert record.images == "24 images, 6 classes, 42 pairs (labels: labels.csv)"
    assert record.supervision == ["supervision: image-level", "trunk weights none"]
    assert (run.folder / "log.txt").read_text().startswith(f"$ {sys.executable} -m torch.distrib")

    again = Making(well)
    assert again.runner.make(plan.to_make).finished == set(plan.runs)
    assert again.stages() == []
    assert "0 runs to make, 2 finished before" in again.printed.getvalue()


def test_what_was_cut_off_goes_on_from_its_checkpoint_or_begins_anew(tmp_path):
    plan = plan_of(tmp_path)
    classify, attend = plan.runs.values()
    for run in (classify, attend):
        (run.folder / "attention").mkdir(parents=True)
        (run.folder / "config.yaml").write_text("x")
        (run.folder / "log.txt").write_text("before\n")
    (classify.folder / "checkpoints").mkdir()
    (classify.folder / "checkpoints" / "latest.json").write_text("{}")
    making = Making(well)
    making.runner.make(plan.to_make)
    first, second = making.launcher.commands
    assert option(first, "resume") == "true"
    assert (classify.folder / "config.yaml").exists()
    assert "--resume" not in second
    assert not (attend.folder / "attention").exists()
    assert (attend.folder / "log.txt").read_text().startswith("before\n$ ")
    assert records.finished_record(classify).attempts == 1


def test_a_failing_run_ends_what_reads_it_and_nothing_else(tmp_path):
    def behave(command, log: Path, run_dir: Path) -> int:
        if option(command, "seed" if "classify" in command else "checkpoint").startswith("0"):
            with open(log, "a") as file:
                file.write("much before\noaa: error: the disk is full\nE torchrun says\n")
            return 1
        return well(command, log, run_dir)

    plan = plan_of(tmp_path, seeds=(0, 1))
    making = Making(behave)
    outcome = making.runner.make(plan.to_make)
    assert making.stages() == ["classify", "classify", "attend"]
    broken, reader, *others = plan.runs
    assert set(outcome.failed) == {broken, reader}
    assert "exit code 1; see" in outcome.failed[broken]
    assert "skipped: it reads oaa-cpu-seed0" in outcome.failed[reader]
    assert outcome.finished == set(others)
    printed = making.printed.getvalue()
    assert "    oaa: error: the disk is full\n" in printed
    assert "torchrun says" not in printed

    mended = Making(well)
    assert mended.runner.make(plan.to_make).failed == {}
    assert mended.stages() == ["classify", "attend"]
    assert records.finished_record(plan.runs[broken]).attempts == 2


def test_a_run_that_measured_nothing_has_failed(tmp_path):
    plan = plan_of(tmp_path)
    outcome = Making(lambda *_: 0).runner.make(plan.to_make)
    assert "measured nothing" in next(iter(outcome.failed.values()))
    contented = Making(lambda *_: 0)
    contented.runner.must_measure = False
    assert contented.runner.make(plan.to_make).finished == set(plan.runs)


def test_a_stop_is_handed_on_once_and_ends_the_command(tmp_path):
    process = Pretended(75, polls=4)
    stop = StopFlag()

    def behave(command, log: Path, run_dir: Path) -> Pretended:
        stop.reason = "SIGTERM"
        return process

    making = Making(behave, stop)
    with pytest.raises(Interrupted, match=r"by SIGTERM; .* the same command goes on") as e:
        making.runner.make(plan_of(tmp_path).to_make)
    assert e.value.exit_code == 75
    assert process.signals == ["TERM"]
    assert len(making.launcher.commands) == 1


def test_a_run_that_ignores_a_stop_is_killed_in_the_end(tmp_path):
    process, stop = Pretended(75, polls=50), StopFlag()

    def behave(command, log: Path, run_dir: Path) -> Pretended:
        stop.reason = "SIGTERM"
        return process

    making = Making(behave, stop)
    times = iter(range(0, 10**6, 100))
    making.runner.clock = lambda: next(times)
    with pytest.raises(Interrupted):
        making.runner.make(plan_of(tmp_path).to_make)
    assert process.signals == ["TERM", "KILL"]


def test_a_second_ctrl_c_leaves_nothing_behind(tmp_path, monkeypatch):
    process = Pretended(75, polls=50)
    making = Making(lambda *_: process)

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(making.runner.progress, "show", interrupt)
    with pytest.raises(KeyboardInterrupt):
        making.runner.make(plan_of(tmp_path).to_make)
    assert process.signals == ["KILL"]


def test_a_run_of_other_settings_is_neither_shown_nor_overwritten(tmp_path):
    plan = plan_of(tmp_path)
    Making(well).runner.make(plan.to_make)
    run = next(iter(plan.runs.values()))
    record = records.load_record(run.folder)
    record.settings["optim.lr"] = 0.125  # as if a default had changed since
    del record.settings["optim.momentum"]  # as if a setting had been added since
    records.save_record(run.folder, record)
    assert records.finished_record(run) is None
    making = Making(well)
    outcome = making.runner.make(plan.to_make)
    assert making.stages() == []
    sentence = outcome.failed[run.identity]
    assert "other settings (optim.lr: 0.125 -> 0.01): move it away" in sentence
    assert records.load_record(run.folder).metrics == {"cumulative/recall": 0.5}


def test_the_folder_is_held_by_one_command(tmp_path):
    refused = pytest.raises(UserError, match="another oaa reproduce is making runs in")
    with (
        only_one(tmp_path / "out", "oaa reproduce"),
        refused,
        only_one(tmp_path / "out", "oaa reproduce"),
    ):
        pass
    with only_one(tmp_path / "out", "oaa reproduce"):
        pass


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The command with a pretended machine; returns (exit code, what was printed)."""
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(command_module, "this_machine", lambda: MACHINE)

    def run(behave, **changes) -> tuple[int, str]:
        settings = {
            "table": str(write(tmp_path, TREE)),
            "run_dir": str(tmp_path / "out"),
            "data": ReproduceDataConfig(root=str(tmp_path / "data")),
        }
        printed = io.StringIO()
        progress = Progress(Console(file=printed, width=80))
        config = ReproduceConfig(**settings | changes)
        return reproduce(config, "oaa reproduce", progress, Launcher(behave)), printed.getvalue()

    return run


def test_the_command_writes_its_table_whatever_happens(here, tmp_path):
    code, printed = here(lambda *_: 1)
    assert code == 1
    assert "failed: oaa-cpu-seed0-" in printed
    assert "| OAA | 52.3 | - | 0 |" in (tmp_path / "out" / "small.md").read_text()
    code, printed = here(well)
    assert code == 0
    assert "| OAA | 52.3 | 50.0 | 1 |" in (tmp_path / "out" / "small.md").read_text()
    code, printed = here(lambda *_: pytest.fail("nothing is left to run"))
    assert code == 0


def test_only_the_chosen_rows_are_made(here, tmp_path):
    code, _ = here(well, only=["OAA"])
    assert code == 0
    text = (tmp_path / "out" / "small.md").read_text()
    assert "| OAA | 52.3 | 50.0 | 1 |" in text
    assert "| model | - | - | 0 |" in text


def test_a_dry_run_makes_nothing(here, tmp_path):
    code, printed = here(lambda *_: pytest.fail("started"), dry_run=True)
    assert code == 0
    assert not (tmp_path / "out").exists()
    assert printed.count("(to make)") == 2
    assert "torch.distributed.run --standalone --nproc-per-node 2 -m dist_oaa classify" in printed


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": ReproduceDataConfig()}, "data.root is empty"),
        ({"data": ReproduceDataConfig(root="/nowhere")}, "data.root /nowhere does not exist"),
        ({"table": ""}, "oaa reproduce needs a table"),
        ({"scale": "huge"}, "scale is huge"),
        ({"only": ["x"]}, "only names the row x"),
    ],
)
def test_a_mistake_is_found_before_anything_is_made(here, tmp_path, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        here(lambda *_: pytest.fail("started"), **changes)
    assert not (tmp_path / "out").exists()


def test_it_starts_torchrun_itself(here, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="start it alone, with --workers N"):
        here(well)


def test_the_command_line():
    assert arguments(["table4", "--scale", "full"]) == ["--table", "table4", "--scale", "full"]
    assert arguments(["--only", "OAA", "max, HL", "it's", "--scale", "cpu"]) == [
        *("--only", "['OAA', 'max, HL', 'it''s']", "--scale", "cpu")
    ]
    assert arguments(["t", "--only", "[a, b]"]) == ["--table", "t", "--only", "[a, b]"]


def test_metrics_that_a_crash_cut_off(tmp_path):
    log_metrics(tmp_path, "classify", {"cam/recall": 0.1}, {"cam/recall": None, "per_class/x": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"stage": "classify", "epoch": 2, "clo')
    assert records.measurements(tmp_path, "classify") == {"cam/recall": None}
    assert [entry["epoch"] for entry in records.epochs(tmp_path, "classify")] == [0, 1]
    assert records.measurements(tmp_path, "attend") == {}
    line = {"stage": "attend", "epoch": 0, "step": 9, "attention/recall": 0.75}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert records.measurements(tmp_path, "attend") == {"attention/recall": 0.75}
