"""A pipeline from its file to its runs, and what is kept, made anew or refused; nothing trains."""

import io
import json
from pathlib import Path

import pytest
import yaml
from rich.console import Console

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import dotted_keys
from dist_oaa.config.pipeline import PipelineConfig
from dist_oaa.stages import pipeline as command_module
from dist_oaa.stages.launching.processes import Machine
from dist_oaa.stages.launching.progress import Progress
from dist_oaa.stages.pipelining.planning import Overrides, plan_pipeline, split_arguments
from dist_oaa.stages.pipelining.results import figures_of
from small_table import Launcher, log_metrics, option

STAGES = {
    "classify": {"config": "base.yaml", "settings": {"optim": {"epochs": 3}}},
    "labels": {"stage": "pseudo-label", "reads": {"maps": "classify/store"}},
    "segment": {"reads": {"labels": "labels"}},
}
OWN = [*dotted_keys(PipelineConfig), "config"]


def config_of(folder: Path, stages: dict | None = None, **changes) -> PipelineConfig:
    (folder / "base.yaml").write_text(yaml.safe_dump({"optim": {"epochs": 9, "lr": 0.5}}))
    values = {
        "run_dir": str(folder / "out"),
        "settings": {"data": {"root": "photos"}, "seed": 4},
        "stages": STAGES if stages is None else stages,
    }
    return PipelineConfig(**values | changes)


def plan(folder: Path, stages: dict | None = None, overrides: Overrides | None = None, **changes):
    config = config_of(folder, stages, **changes)
    return plan_pipeline(config, folder / "p.yaml", overrides or Overrides())


def test_each_stage_reads_what_came_before(tmp_path):
    classify, labels, segment = plan(tmp_path)
    assert (classify.stage, labels.stage, segment.stage) == ("classify", "pseudo-label", "segment")
    assert option(labels.arguments, "maps") == str(classify.folder / "store")
    assert option(segment.arguments, "labels") == str(labels.folder)
    assert segment.sources == (labels.identity,)
    assert classify.folder == tmp_path / "out" / f"classify-{classify.identity}"


def test_settings_reach_the_stages_that_have_them(tmp_path):
    classify, labels, segment = plan(tmp_path)
    assert classify.settings["data.root"] == segment.settings["data.root"] == "photos"
    # Labels are made of the images of the maps.
    assert labels.settings["data.root"] == ""
    assert (classify.settings["seed"], segment.settings["seed"]) == (4, 4)
    assert "seed" not in labels.settings
    # The settings win over the settings file of the stage.
    assert (classify.settings["optim.epochs"], classify.settings["optim.lr"]) == (3, 0.5)


def test_the_command_line_wins(tmp_path):
    argv = ["--config", "p.yaml", "--data.root", "other", "--segment.optim.lr=0.25", "--seed", "7"]
    ours, overrides = split_arguments([*argv, "--workers", "1"], OWN, list(STAGES))
    assert ours == ["--config", "p.yaml", "--workers", "1"]
    classify, _, segment = plan(tmp_path, overrides=overrides)
    assert (segment.settings["optim.lr"], classify.settings["optim.lr"]) == (0.25, 0.5)
    assert classify.settings["data.root"] == segment.settings["data.root"] == "other"
    assert (classify.seed, classify.settings["seed"]) == (7, 7)


def test_a_change_makes_a_stage_and_all_that_read_it_anew(tmp_path):
    before = plan(tmp_path)
    after = plan(tmp_path, overrides=Overrides(of_stage={"labels": {"labels.refine": '["crf"]'}}))
    assert [a.identity == b.identity for a, b in zip(before, after, strict=True)] == [
        *(True, False, False)
    ]
    # How a stage is run does not change what comes out of it.
    same = plan(tmp_path, overrides=Overrides(everywhere={"runtime.log_every": "3"}))
    assert [run.identity for run in same] == [run.identity for run in before]


def test_until_ends_the_pipeline_early(tmp_path):
    assert [run.name for run in plan(tmp_path, until="labels")] == ["classify", "labels"]


@pytest.mark.parametrize(
    ("stages", "changes", "sentence"),
    [
        ({}, {}, "stages is empty in .*p.yaml"),
        (
            {"clasify": {}},
            {},
            r"stages.clasify in .* is of stage 'clasify'.*: the nearest is class",
        ),
        ({"segment": {}}, {}, r"stages.segment in .*p.yaml reads no labels: add `reads:"),
        ({"classify": {"setings": {}}}, {}, "unknown key setings in stages.classify .*settings"),
        ({"classify": {"config": "x.yaml"}}, {}, "config of stages.classify in .*does not exist"),
        ({"segment": {"reads": {"labels": "later"}}}, {}, "expected one of the .* there is none"),
        ({"classify": {"settings": {"optim.lrr": 1}}}, {}, "unknown key optim.lrr in .*p.yaml"),
        ({"classify": {"settings": {"resume": True}}}, {}, "resume of .* is set by the pipeline"),
        (
            None,
            {"settings": {"data.rot": 1}},
            "no stage of .* has a setting data.rot; .* data.root",
        ),
        (
            None,
            {"settings": {"run_dir": "x"}},
            "run_dir of the stages of .* is set by the pipeline",
        ),
        (None, {"until": "end"}, "until is end, expected one of classify, labels, segment"),
    ],
)
def test_a_mistake_names_its_place(stages, changes, sentence, tmp_path):
    with pytest.raises(UserError, match=sentence):
        plan(tmp_path, stages, **changes)


CONFIGS = Path(__file__).resolve().parents[4] / "configs"
SHIPPED = sorted(CONFIGS.glob("*/pipeline*.yaml"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_shipped_pipeline_can_be_planned(file):
    assert len(SHIPPED) >= 2
    runs = plan_pipeline(PipelineConfig(**yaml.safe_load(file.read_text())), file, Overrides())
    assert [run.stage for run in runs] == ["classify", "pseudo-label", "segment", "evaluate"]
    classify, labels, segment, evaluate = runs
    assert classify.settings["data.root"] == segment.settings["data.root"] != ""
    assert classify.settings["data.split"] == segment.settings["data.split"]
    # These read what the run before them has read.
    assert labels.settings["data.root"] == evaluate.settings["data.root"] == ""


def test_a_setting_without_a_value():
    with pytest.raises(UserError, match=r"--segment.optim.lr has no value"):
        split_arguments(["--segment.optim.lr", "--workers", "2"], OWN, list(STAGES))


def pretend(command, log: Path, run_dir: Path) -> int:
    """A stage that ends well; labels are measured only where there are masks, and here are none."""
    stage = command[command.index("dist_oaa") + 1]
    figures = {"classify": {"cumulative/recall": 0.75, "cam/recall": 0.5}}.get(stage, {})
    log_metrics(run_dir, stage, figures)
    (run_dir / "config.yaml").write_text("data: {root: nowhere}\n")
    return 0


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The command on a pretended machine; returns (exit code, stages started, what it printed)."""
    machine = Machine((), 2, "a processor", "versions")
    monkeypatch.setattr(command_module, "this_machine", lambda: machine)

    def command(behave=pretend, overrides: Overrides | None = None, **changes):
        config = config_of(tmp_path, **changes)
        runs = plan_pipeline(config, tmp_path / "p.yaml", overrides or Overrides())
        printed, launcher = io.StringIO(), Launcher(behave)
        console = Console(file=printed, width=80)
        progress = Progress(console, command_module.stage_name)
        code = command_module.run_pipeline(config, "A title", runs, progress, launcher)
        started = [line[line.index("dist_oaa") + 1] for line in launcher.commands]
        return code, started, printed.getvalue()

    return command


def test_finished_stages_are_not_run_again(run, tmp_path):
    code, started, printed = run()
    assert (code, started) == (0, ["classify", "pseudo-label", "segment"])
    assert "classify -> labels -> segment" in printed
    assert "[1/3] classify: " in printed
    assert "[2/3] labels (pseudo-label) finished in 0:00" in printed
    assert "CAM recall 50.0 %, cumulative recall 75.0 %" in printed
    assert (tmp_path / "out" / "report.html").exists()
    saved = json.loads((tmp_path / "out" / "pipeline.json").read_text())
    assert [stage["name"] for stage in saved["stages"]] == ["classify", "labels", "segment"]
    assert saved["title"] == "A title"

    code, started, printed = run()
    assert (code, started) == (0, [])
    assert "all 3 stages are finished" in printed

    changed = Overrides(of_stage={"labels": {"labels.background.threshold": "0.25"}})
    assert run(overrides=changed)[1] == ["pseudo-label", "segment"]
    # What was made with the first settings is still there.
    assert run()[1] == []


def test_a_failing_stage_ends_the_pipeline_and_is_made_again(run):
    def failing(command, log: Path, run_dir: Path) -> int:
        if "pseudo-label" not in command:
            return pretend(command, log, run_dir)
        with open(log, "a") as file:
            file.write("oaa: error: a saliency map is missing\n")
        return 2

    code, started, printed = run(failing)
    assert (code, started) == (1, ["classify", "pseudo-label"])
    assert "oaa: error: a saliency map is missing" in printed
    assert "segment failed: skipped: it reads labels-" in printed
    assert "report:" not in printed
    assert run()[:2] == (0, ["pseudo-label", "segment"])


def test_a_dry_run_makes_nothing(run, tmp_path):
    code, started, printed = run(dry_run=True)
    assert (code, started) == (0, [])
    assert printed.count("(to make)") == 3
    assert "torch.distributed.run --standalone --nproc-per-node 2 -m dist_oaa classify" in printed
    # It spreads over the cores by itself.
    assert "-m dist_oaa pseudo-label" in printed
    assert not (tmp_path / "out").exists()


def test_the_command_itself_finds_mistakes(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="oaa pipeline needs --config FILE"):
        command_module.main("oaa pipeline", [])
    file = tmp_path / "p.yaml"
    with pytest.raises(UserError, match=r"p.yaml cannot be read"):
        command_module.main("oaa pipeline", ["--config", str(file)])
    file.write_text(yaml.safe_dump({"stages": {"classify": {}}}))
    with pytest.raises(UserError, match=r"unknown key optim.lrr"):
        command_module.main("oaa pipeline", ["--config", str(file), "--classify.optim.lrr", "1"])
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="starts torchrun itself"):
        command_module.main("oaa pipeline", ["--config", str(file)])


def test_figures_that_sum_a_stage_up():
    metrics = {"segmentation/miou": 0.5, "segmentation/boundary_f": float("nan"), "x": 1.0}
    assert figures_of("evaluate", metrics) == [("mIoU", "50.0 %")]
    assert figures_of("affinity", {"train/epoch_loss": 0.12345}) == [("loss", "0.123")]
    assert figures_of("saliency", metrics) == []
