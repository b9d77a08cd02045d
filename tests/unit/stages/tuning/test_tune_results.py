"""What is made of the trials' folders."""

import csv
import dataclasses
import io
import re

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import plugin_data_pb2

from dist_oaa.config.errors import UserError
from dist_oaa.config.tune import TuneConfig
from dist_oaa.stages.tune import points_of, search_of, work_of
from dist_oaa.stages.tuning.best import best_yaml
from dist_oaa.stages.tuning.curves import write_curves
from dist_oaa.stages.tuning.picture import draw
from dist_oaa.stages.tuning.report import Results, audit, csv_text, markdown, summary
from dist_oaa.stages.tuning.results import (
    by_point,
    correlations,
    made_runs,
    read_trial,
)
from dist_oaa.stages.tuning.space import grid
from dist_oaa.stages.tuning.sweep import all_trials, plan_trial, refuse_reported
from dist_oaa.stages.tuning.warm import take_over
from sweeps import MACHINE, a_sweep, write_run

METRIC = "cumulative/seed_miou"


def results_of(sweep, runs) -> Results:
    """Results from the folders."""
    trials = [read_trial(sweep, run) for run in runs]
    related = correlations(sweep, trials)
    return Results(
        sweep, trials, by_point(sweep, trials), related, "oaa tune", str(MACHINE), "grid"
    )


@pytest.fixture
def made(tmp_path):
    """A sweep of 2 x 2 points with two seeds: finished, stopped, failed and not begun."""
    sweep, spaces = a_sweep(tmp_path, seeds=[0, 1])
    runs = all_trials(sweep, grid(spaces))
    for n, run in enumerate(runs):
        point = n % 4
        value = 0.3 + 0.1 * point + 0.02 * run.seed
        if point in (0, 1):
            write_run(run, [0.1, 0.2, value], finished=True)
        elif point == 2:
            write_run(run, [0.9, 0.8], stopped_epoch=1)
        elif run.seed == 0:
            write_run(run, [0.5], problem="a mask is missing")
    return sweep, spaces, runs


def test_points_come_best_first_with_mean_and_spread_over_the_seeds(made):
    sweep, _, runs = made
    results = results_of(sweep, runs)
    first, second, third, last = results.points
    assert results.best is first
    assert first.point == {"drop.delta": 0.3, "drop.beta": 0.5}
    assert first.mean(METRIC) == pytest.approx(0.41)
    assert first.deviation(METRIC) == pytest.approx(0.02 / 2**0.5)
    assert second.mean(METRIC) == pytest.approx(0.31)
    # What was stopped at epoch 1 is judged by epoch 1, and never the best.
    assert (third.state, third.epochs, third.mean(METRIC)) == ("stopped", 1, pytest.approx(0.9))
    assert last.state == "not started"
    assert summary(results).startswith(
        "best: delta 0.3, beta 0.5 with cumulative/seed_miou 41.0 ± 1.4"
    )


def test_seeds_are_compared_after_the_same_number_of_epochs(tmp_path):
    sweep, spaces = a_sweep(tmp_path, {"drop.delta": {"grid": [0.3, 0.6]}}, seeds=[0, 1])
    runs = all_trials(sweep, grid(spaces))
    write_run(runs[0], [0.1, 0.2, 0.9], finished=True)
    write_run(runs[2], [0.3, 0.4], stopped_epoch=1)
    point = results_of(sweep, [runs[0], runs[2]]).points[0]
    assert point.epochs == 1
    assert point.values(METRIC) == [0.1, 0.3]


def test_less_is_better_where_the_objective_says_so(made):
    sweep, _, runs = made
    turned = dataclasses.replace(sweep, mode="min")
    assert results_of(turned, runs).best.point == {"drop.delta": 0.3, "drop.beta": 0.25}


def test_the_csv_has_a_line_for_each_trial_and_every_figure(made):
    sweep, _, runs = made
    rows = list(csv.DictReader(io.StringIO(csv_text(results_of(sweep, runs)))))
    assert len(rows) == 8
    assert [row["state"] for row in rows[:4]] == ["finished", "finished", "stopped", "failed"]
    assert float(rows[0]["objective"]) == float(rows[0][METRIC]) == 0.3
    assert rows[3]["problem"] == "a mask is missing"
    assert rows[7]["state"] == "not started"
    assert rows[7]["objective"] == ""


def test_the_document_names_the_objective_and_what_it_looked_at(made):
    sweep, _, runs = made
    results = results_of(sweep, runs)
    text = markdown(results, "objective.png")
    assert "objective: cumulative/seed_miou (max) after a trial's last epoch, from masks of" in text
    assert "4 finished, 2 stopped, 1 failed, 1 not started" in text
    assert "| 0.3 | 0.5 | 41.0 ± 1.4 | 3 | finished |" in text
    assert "delta 0.6, beta 0.5, seed 0: a mask is missing" in text
    listed = dataclasses.replace(sweep, settings=sweep.settings | {"evaluate.list": "few.txt"})
    assert "masks of the training images of few.txt" in audit(results_of(listed, runs))[0]
    free = dataclasses.replace(sweep, metric="cumulative/colour")
    assert "no mask" in audit(results_of(free, runs))[0]


def test_the_best_settings_are_the_trials_own_with_a_new_folder(made):
    sweep, _, runs = made
    text = best_yaml(results_of(sweep, runs))
    assert yaml.safe_load(text) == {"run_dir": f"{sweep.out}/best", "seed": 0, "runtime": {}}
    assert text.startswith("# best: delta 0.3, beta 0.5")
    assert best_yaml(results_of(sweep, runs[2:4])) is None


def test_tensorboard_shows_each_trials_settings_and_curves(made, tmp_path):
    sweep, _, runs = made
    write_curves(results_of(sweep, runs), tmp_path / "tb")
    folders = sorted(path.name for path in (tmp_path / "tb").iterdir() if path.is_dir())
    assert len(folders) == 7  # all but the one that has not begun
    run = runs[1]
    events = EventAccumulator(str(tmp_path / "tb" / run.folder.name)).Reload()
    assert [(e.step, round(e.value, 6)) for e in events.Scalars(METRIC)] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.4),
    ]
    content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    data = plugin_data_pb2.HParamsPluginData.FromString(content)
    hparams = {k: v.number_value for k, v in data.session_start_info.hparams.items()}
    assert hparams == {"drop.delta": 0.3, "drop.beta": 0.5}
    assert data.session_start_info.group_name == "delta 0.3, beta 0.5"
    root = EventAccumulator(str(tmp_path / "tb")).Reload()
    content = root.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    assert [i.name for i in experiment.hparam_infos] == ["drop.delta", "drop.beta"]


@pytest.mark.parametrize(
    "space",
    [
        {"drop.delta": {"grid": [0.3, 0.6]}, "drop.beta": {"grid": [0.25, 0.5]}},
        {"drop.delta": {"grid": [0.2, 0.3, 0.6]}},
        [
            {"drop.delta": {"grid": [0.2, 0.3]}, "drop.beta": 0.5},
            {"drop.delta": 0.3, "drop.beta": {"grid": [0.1, 0.2, 0.5]}},
        ],
        {
            "drop.delta": {"grid": [0.3, 0.6]},
            "drop.beta": {"grid": [0.2, 0.4]},
            "optim.lr": {"grid": [0.1, 1.0]},
        },
    ],
)
def test_a_picture_is_drawn_for_one_two_and_three_settings(tmp_path, space):
    sweep, spaces = a_sweep(tmp_path, space)
    runs = all_trials(sweep, grid(spaces))
    for n, run in enumerate(runs):
        write_run(run, [0.1, 0.1 * n], finished=n != 1, stopped_epoch=2 * (n == 1))
    assert draw(results_of(sweep, runs), spaces, tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes()[:4] == b"\x89PNG"
    assert not draw(results_of(sweep, runs[:1]), spaces, tmp_path / "q.png")
    for run in runs:
        write_run(run, [0.1, 0.2], stopped_epoch=2)
    assert draw(results_of(sweep, runs), spaces, tmp_path / "r.png")


def test_correlations_are_spearmans(tmp_path):
    sweep, spaces = a_sweep(tmp_path, {"drop.delta": {"grid": [0.1, 0.2, 0.3, 0.4, 0.5]}})
    runs = all_trials(sweep, grid(spaces))
    trials = []
    for run, value, proxy in zip(runs, [1, 2, 3, 4, 5], [5, 6, 7, 8, 7], strict=True):
        write_run(run, [value], finished=True)
        trial = read_trial(sweep, run)
        metrics = trial.metrics | {"cumulative/colour": proxy, "constant": 1.0}
        trials.append(dataclasses.replace(trial, metrics=metrics))
    # Ranks 1 2 3.5 5 3.5 against 1..5: covariance 8.0 / sqrt(10 x 9.5).
    found = correlations(sweep, trials)
    assert found["cumulative/colour"] == (pytest.approx(8.0 / (10 * 9.5) ** 0.5), 5)
    assert "constant" not in found


def test_what_is_finished_or_stopped_is_not_run_again(made):
    sweep, _, runs = made
    config = TuneConfig(space={}, seeds=[0, 1])
    work = work_of(config, sweep, runs, None)
    assert work.points == [({"drop.delta": 0.6, "drop.beta": 0.5}, seed) for seed in (0, 1)]
    config.scheduler.method = "asha"  # which judges by all
    assert len(work_of(config, sweep, runs, None).points) == 8
    assert work_of(config, sweep, runs[:3], None) is None


def test_a_search_goes_on_with_what_it_knows(made):
    sweep, spaces, _ = made
    config = TuneConfig(space={}, seeds=[0, 1])
    config.search.method, config.search.samples = "optuna", 10
    assert points_of(config, spaces) is None
    work = search_of(config, sweep, spaces[0])
    assert [point["drop.beta"] for point, _ in work.known] == [0.5, 0.25, 0.25]
    assert [value for _, value in work.known] == pytest.approx([0.41, 0.31, 0.9])
    # The failed one counts as tried.
    assert work.samples == 10 - 3 - 1
    assert work.epochs == 3
    assert len(made_runs(sweep)) == 7


def test_earlier_results_are_taken_over_where_all_settings_agree(made, tmp_path):
    _, spaces, runs = made
    other, _ = a_sweep(tmp_path / "other")
    taken = take_over(other, spaces, [str(tmp_path)])
    assert sorted(run.seed for run in taken) == [0, 0]
    trials = [read_trial(other, run) for run in all_trials(other, grid(spaces))]
    assert [trial.state for trial in trials] == ["finished"] * 2 + ["not started"] * 2
    assert trials[1].taken_from == str(runs[1].folder)
    assert trials[1].value == 0.4
    assert take_over(other, spaces, [str(tmp_path)]) == []
    changed, _ = a_sweep(tmp_path / "third")
    changed.settings["optim.lr"] = 0.5
    assert take_over(changed, spaces, [str(tmp_path)]) == []
    with pytest.raises(UserError, match="is neither a sweep nor a run directory"):
        take_over(other, spaces, [str(tmp_path / "nowhere")])


def test_a_plain_run_of_the_stage_is_taken_over_too(tmp_path):
    sweep, spaces = a_sweep(tmp_path / "sweep")
    run = all_trials(sweep, grid(spaces))[2]
    plain = dataclasses.replace(run, folder=tmp_path / "plain")
    write_run(plain, [0.1, 0.2, 0.3])
    (plain.folder / "run.json").unlink()
    tree: dict = {}
    for key, value in run.settings.items():
        node = tree
        *parents, last = key.split(".")
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    (plain.folder / "config.yaml").write_text(yaml.safe_dump(tree))
    (taken,) = take_over(sweep, spaces, [str(plain.folder)])
    assert taken.identity == run.identity
    assert read_trial(sweep, run).value == 0.3
    # Half a run is no result.
    lines = (plain.folder / "metrics.jsonl").read_text().splitlines()[:1]
    (plain.folder / "metrics.jsonl").write_text(lines[0] + "\n")
    other, _ = a_sweep(tmp_path / "other")
    assert take_over(other, spaces, [str(plain.folder)]) == []


@pytest.mark.parametrize(
    ("stage", "metric", "settings", "refused"),
    [
        ("segment", "segmentation/miou", {"evaluate.split": "val"}, True),
        ("segment", "segmentation/miou", {"evaluate.split": "held_out"}, False),
        ("evaluate", "segmentation/miou", {"data.split": "test"}, True),
        ("classify", "cumulative/recall", {"data.split": "val"}, False),
    ],
)
def test_the_images_that_results_are_reported_on_are_no_objective(
    tmp_path, stage, metric, settings, refused
):
    sweep, _ = a_sweep(tmp_path)
    sweep = dataclasses.replace(sweep, metric=metric, stage=stage)
    run = plan_trial(a_sweep(tmp_path)[0], {"drop.delta": 0.3, "drop.beta": 0.5}, 0)
    run = dataclasses.replace(run, stage=stage, settings=settings)
    if not refused:
        refuse_reported(sweep, run)
        return
    with pytest.raises(UserError, match=re.escape("on which results are reported: hold training")):
        refuse_reported(sweep, run)
