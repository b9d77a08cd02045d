"""From a table to its runs: what is shared, in which order, and what a run is known by."""

from pathlib import Path

import pytest
import yaml

from dist_oaa.config.errors import UserError
from dist_oaa.stages.reproducing.files import folders
from dist_oaa.stages.reproducing.planning import Request, find_run, folder_name, make_plan
from dist_oaa.stages.reproducing.tables import read_table
from small_table import SMALL, write

TREE = SMALL | {
    "scales": {
        "cpu": {
            "seeds": [0, 1],
            "classify": {"settings": {"optim": {"epochs": 3}, "accumulate.compare": ["average"]}},
        }
    },
    "runs": {
        "model": {"stage": "attend", "of": "drop"},
        "oaa": {"stage": "classify"},
        "drop": {"stage": "classify", "settings": {"drop.where": "input", "optim.epochs": 4}},
        "again": {"stage": "classify", "settings": {"drop.delta": 0.6}},
    },
    "rows": [
        {"name": "model", "run": "model"},
        {"name": "CAM", "run": "oaa", "maps": "cam"},
        {"name": "OAA", "run": "oaa"},
        {"name": "average", "run": "oaa", "maps": "cumulative_average"},
        {"name": "the default", "run": "again"},
    ],
}


def request(tmp_path: Path, **changes) -> Request:
    values = {"out": tmp_path / "out", "root": tmp_path / "data", "scale": "cpu"}
    return Request(**values | changes)


def plan_of(tmp_path: Path, tree: dict = TREE, **changes):
    return make_plan(read_table(write(tmp_path, tree)), request(tmp_path, **changes))


def names(plan) -> list[tuple[str, int]]:
    return [(run.name, run.seed) for run in plan.runs.values()]


def test_sources_come_first_and_rows_share_runs(tmp_path):
    plan = plan_of(tmp_path)
    # `again` writes out a default: it is the same run as `oaa`.
    assert names(plan) == [
        *(("drop", 0), ("model", 0), ("oaa", 0)),
        *(("drop", 1), ("model", 1), ("oaa", 1)),
    ]
    rows = plan.of_row
    assert rows["CAM"] == rows["OAA"] == rows["average"] == rows["the default"]
    assert plan.runs[rows["model"][1]].sources == (list(plan.runs)[3],)
    assert plan.wanted == set(plan.runs)


def test_the_arguments_of_a_run(tmp_path):
    drop, model, oaa = list(plan_of(tmp_path, seeds=(5,)).runs.values())
    assert drop.arguments == (
        *("classify", "--data.root", str(tmp_path / "data"), "--seed", "5"),
        *("--optim.epochs", "4", "--accumulate.compare", '["average"]', "--drop.where", "input"),
        *("--run_dir", str(drop.folder)),
    )
    # It takes images and the way they are read from the run of the checkpoint.
    reads = ("attend", "--checkpoint", str(drop.folder))
    assert model.arguments == (*reads, "--run_dir", str(model.folder))
    assert oaa.settings["optim.epochs"] == 3
    assert oaa.folder == tmp_path / "out" / "runs" / f"oaa-cpu-seed5-{oaa.identity}"


def test_a_settings_file_comes_before_the_settings(tmp_path):
    (tmp_path / "base.yaml").write_text(yaml.safe_dump({"optim": {"epochs": 9, "lr": 0.5}}))
    tree = TREE | {
        "scales": {"cpu": {"classify": {"config": "base.yaml", "settings": {"optim.lr": 0.25}}}},
        "rows": [{"name": "OAA", "run": "oaa"}],
    }
    (run,) = plan_of(tmp_path, tree).runs.values()
    assert run.arguments[1:3] == ("--config", str(tmp_path / "base.yaml"))
    assert (run.settings["optim.epochs"], run.settings["optim.lr"]) == (9, 0.25)


def test_saliency_reaches_every_stage(tmp_path):
    plan = plan_of(tmp_path, saliency_dir="sal", seeds=(0,))
    assert all(run.settings["evaluate.saliency_dir"] == "sal" for run in plan.runs.values())
    assert {run.stage for run in plan.runs.values()} == {"classify", "attend"}


def test_only_limits_what_is_made_not_what_is_shown(tmp_path):
    plan = plan_of(tmp_path, only=("model",), seeds=(0,))
    assert [plan.runs[i].name for i in plan.runs if i in plan.wanted] == ["drop", "model"]
    assert plan.of_row["OAA"].keys() == {0}
    assert plan.of_row["OAA"][0] not in plan.wanted


def test_a_mistake_outside_of_the_chosen_rows_is_left_alone(tmp_path):
    tree = TREE | {"runs": TREE["runs"] | {"oaa": {"stage": "classify", "settings": {"x": 1}}}}
    plan = plan_of(tmp_path, tree, only=("model",), seeds=(0,))
    assert plan.of_row["OAA"] == {}
    with pytest.raises(UserError, match="unknown key x"):
        plan_of(tmp_path, tree)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"drop.delt": 1}, r"unknown key drop.delt in .*small.yaml \(run oaa, scale cpu\); the n"),
        ({"drop.delta": 3}, r"drop.delta is 3.0, expected 0 to 1 \(in .*small.yaml \(run oaa"),
        ({"drop.delta": "much"}, "drop.delta is 'much' in .*small.yaml.*, expected a value of"),
        ({"data.root": "/x"}, "data.root of run oaa in .*small.yaml is set by the command"),
        ({"seed": 1}, "seed of run oaa in .*small.yaml is set by the command"),
    ],
)
def test_a_wrong_setting_names_the_table_and_the_key(settings, sentence, tmp_path):
    runs = TREE["runs"] | {"oaa": {"stage": "classify", "settings": settings}}
    with pytest.raises(UserError, match=sentence):
        plan_of(tmp_path, TREE | {"runs": runs})


def test_a_wrong_request(tmp_path):
    with pytest.raises(UserError, match=r"scale is huge, but .*small.yaml has only cpu"):
        plan_of(tmp_path, scale="huge")
    with pytest.raises(UserError, match="only names the row OA, expected one of model, CAM, OAA"):
        plan_of(tmp_path, only=("OA",))
    rows = [{"name": "ema", "run": "oaa", "maps": "cumulative_ema"}]
    with pytest.raises(UserError, match=r"maps of row ema .* run oaa is \['average'\]"):
        plan_of(tmp_path, TREE | {"rows": rows})


def test_an_earlier_run_is_found_whatever_it_was_called(tmp_path):
    table = read_table(write(tmp_path, TREE))
    ask = request(tmp_path, seeds=(0,))
    first = make_plan(table, ask)
    oaa = first.runs[first.of_row["OAA"][0]]
    other = ask.out / "runs" / f"baseline-cpu-seed0-{oaa.identity}"
    other.mkdir(parents=True)
    again = make_plan(table, ask, lambda identity: find_run(ask.out, identity))
    assert again.runs.keys() == first.runs.keys()
    assert again.runs[oaa.identity].folder == other
    assert str(other) in again.runs[oaa.identity].arguments


def test_the_run_that_is_read_is_part_of_the_identity(tmp_path):
    plan = plan_of(tmp_path)
    models = [run for run in plan.runs.values() if run.name == "model"]
    assert models[0].settings == models[1].settings  # attend has no seed of its own
    assert models[0].identity != models[1].identity


def test_names_of_folders_are_plain():
    assert folder_name("max, MCE/x", "cpu", 1, "ab") == "max_MCE_x-cpu-seed1-ab"


SHIPPED = sorted(path for folder in folders() for path in folder.glob("*.yaml"))


def test_the_tables_of_the_paper_are_shipped():
    names = {path.stem for path in SHIPPED}
    assert names >= {f"table{n}" for n in (4, 5, 8, 9, 10, 11, 13, 14)} | {"figure11"}


# table8, with its many runs, has a test of its own.
OTHERS = [path for path in SHIPPED if path.stem != "table8"]


@pytest.mark.parametrize("path", OTHERS, ids=lambda path: path.stem)
def test_a_shipped_table_can_be_planned(path, tmp_path):
    table = read_table(path)
    plan = make_plan(table, request(tmp_path, seeds=(0,)))
    assert plan.wanted == set(plan.runs)
    assert all(plan.of_row[row.name] for row in table.rows if row.run)
    # What the scale full changes it changes for a whole stage: one run of each is enough.
    by_stage = {table.runs[row.run].stage: row.name for row in table.rows if row.run}
    only = tuple(by_stage.values())
    full = make_plan(read_table(path), request(tmp_path, scale="full", seeds=(0,), only=only))
    assert full.wanted


def test_tables_share_their_runs(tmp_path):
    by_name = {path.stem: path for path in SHIPPED}
    shared = {}
    for name in ("table11", "figure11", "table9", "table4"):
        plan = make_plan(read_table(by_name[name]), request(tmp_path, seeds=(1,)))
        shared[name] = {i for i, run in plan.runs.items() if run.stage == "classify"}
    assert len(shared["table11"]) == 2
    assert shared["figure11"] == shared["table11"]
    assert shared["table11"] < shared["table9"]
    assert len(shared["table4"]) == 1
    assert shared["table4"] < shared["table11"]


def test_the_strength_of_the_drop_layer_is_one_run_where_its_lines_cross(tmp_path):
    path = next(path for path in SHIPPED if path.stem == "table8")
    plan = make_plan(read_table(path), request(tmp_path))
    pairs = {(r.settings["drop.delta"], r.settings["drop.beta"]) for r in plan.runs.values()}
    tenths = [n / 10 for n in range(1, 10)]
    assert pairs == {(d, 0.5) for d in tenths[:8]} | {(0.6, b) for b in tenths}
    assert len(plan.runs) == 16


def test_birds_have_boxes_of_each_network_and_one_row_of_the_paper_alone(tmp_path):
    table = read_table(next(path for path in SHIPPED if path.stem == "table14"))
    plan = make_plan(table, request(tmp_path))
    by_name = {run.name: run for run in plan.runs.values()}
    variants = {name: run.settings.get("model.variant") for name, run in by_name.items()}
    assert variants == {
        "cam": "cam",
        "acol": "acol",
        "adl": "adl",
        "oaa": "two_branch",
        **{f"{name}-boxes": None for name in ("cam", "acol", "adl", "oaa")},
    }
    for name in ("cam", "acol", "adl", "oaa"):
        assert by_name[f"{name}-boxes"].sources == (by_name[name].identity,)
        assert by_name[f"{name}-boxes"].settings["data.split"] == "test"
        assert by_name[name].settings["data.holdout.fraction"] > 0
    assert plan.of_row["SPG"] == {}
    assert make_plan(table, request(tmp_path, only=("SPG",))).wanted == frozenset()
    same = {k: v for k, v in by_name["cam"].settings.items() if k != "model.variant"}
    assert same == {k: v for k, v in by_name["oaa"].settings.items() if k != "model.variant"}
