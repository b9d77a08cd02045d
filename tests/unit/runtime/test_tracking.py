"""Metrics: the JSON lines say what TensorBoard says, also after a resume."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_oaa.runtime.tracking import Tracker


def lines(run_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]


def board(run_dir: Path) -> EventAccumulator:
    """TensorBoard's own reader over all event files of the run."""
    accumulator = EventAccumulator(str(run_dir / "tensorboard"))
    accumulator.Reload()
    return accumulator


def curves_of_board(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    reader = board(run_dir)
    return {
        tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]
    }


def curves_of_json(run_dir: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard keeps float32."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for entry in lines(run_dir):
        for tag in entry.keys() - {"stage", "epoch", "step"}:
            if entry[tag] is not None and not tag.startswith("per_class/"):
                point = (entry["step"], float(np.float32(entry[tag])))
                curves.setdefault(tag, []).append(point)
    return curves


def test_json_and_tensorboard_agree(tmp_path):
    tracker = Tracker(tmp_path, "classify")
    for step in range(1, 6):
        values = {"train/loss": 1 / step, "cam/recall": step / 7}
        tracker.log(step // 3, step, values | {"per_class/cat": 0.5})
    tracker.flush()
    assert curves_of_json(tmp_path) == curves_of_board(tmp_path)
    tracker.close()
    assert len(curves_of_board(tmp_path)["train/loss"]) == 5
    assert "per_class/cat" not in curves_of_board(tmp_path)
    assert lines(tmp_path)[2] == {
        "stage": "classify",
        "epoch": 1,
        "step": 3,
        "train/loss": 1 / 3,
        "cam/recall": 3 / 7,
        "per_class/cat": 0.5,
    }


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, np.float64("nan")])
def test_a_number_that_does_not_exist_is_null(tmp_path, value):
    tracker = Tracker(tmp_path, "classify")
    tracker.log(0, 1, {"a": value, "b": 1})
    tracker.close()
    assert lines(tmp_path) == [{"stage": "classify", "epoch": 0, "step": 1, "a": None, "b": 1}]
    assert set(curves_of_board(tmp_path)) == {"b"}


def test_a_line_is_there_as_soon_as_it_is_logged(tmp_path):
    tracker = Tracker(tmp_path, "classify")
    tracker.log(0, 1, {"a": 0.5})
    assert len(lines(tmp_path)) == 1
    tracker.close()


@pytest.mark.parametrize("crash", [False, True])
def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path, crash):
    first = Tracker(tmp_path, "classify")
    for step in range(1, 8):
        first.log(0, step, {"loss": float(step)})
    first.flush()
    if crash:
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"stage": "classify", "epo')
    else:
        first.close()
    second = Tracker(tmp_path, "classify", resumed_step=4)
    for step in range(5, 10):
        second.log(1, step, {"loss": 100.0 + step})
    second.close()
    expected = [(s, float(s)) for s in range(1, 5)] + [(s, 100.0 + s) for s in range(5, 10)]
    assert curves_of_json(tmp_path) == {"loss": expected}
    assert curves_of_board(tmp_path) == {"loss": expected}


def test_a_resumed_run_that_was_killed_before_its_first_line(tmp_path):
    tracker = Tracker(tmp_path, "classify", resumed_step=3)
    tracker.log(0, 4, {"loss": 1.0})
    tracker.close()
    assert curves_of_json(tmp_path) == {"loss": [(4, 1.0)]}


def test_other_stages_of_the_directory_keep_their_lines(tmp_path):
    other = Tracker(tmp_path, "integral")
    other.log(0, 50, {"x": 1.0})
    other.close()
    tracker = Tracker(tmp_path, "classify", resumed_step=10)
    tracker.close()
    assert [entry["step"] for entry in lines(tmp_path)] == [50]


def test_pictures_texts_and_hyperparameters_reach_tensorboard(tmp_path):
    tracker = Tracker(tmp_path, "classify")
    tracker.image("maps/a", np.zeros((8, 9, 3), np.uint8), 3)
    tracker.text("settings", "seed 1", 0)
    settings = {"lr": 0.1, "resume": False, "classes": ["cat"], "root": "x"}
    tracker.hparams(settings, {"cam/recall": 0.5, "none": math.nan})
    tracker.close()
    reader = board(tmp_path)
    (picture,) = reader.Images("maps/a")
    assert (picture.width, picture.height, picture.step) == (9, 8, 3)
    assert any("settings" in tag for tag in reader.Tags()["tensors"])
    assert reader.Scalars("hparam/cam/recall")[0].value == 0.5
    assert "hparam/none" not in reader.Tags()["scalars"]


def test_an_epoch_that_the_checkpoint_had_not_closed_is_measured_anew(tmp_path):
    """A signal's checkpoint after the last step of epoch 1; a crash after measuring that epoch."""
    first = Tracker(tmp_path, "classify")
    first.log(0, 4, {"recall": 0.1}, closes_epoch=True)
    first.log(1, 8, {"train/loss": 0.5})
    first.log(1, 8, {"recall": 0.2}, closes_epoch=True)
    first.close()
    Tracker(tmp_path, "classify", resumed_step=8, finished_epochs=1).close()
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(x["epoch"], x.get("closes_epoch", False)) for x in lines] == [(0, True), (1, False)]
