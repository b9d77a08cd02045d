"""Metrics: the JSON lines say what TensorBoard says, also after a resume."""

import errno
import json
import math
import os
import resource
import threading
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator as PluginEventAccumulator,
)
from tensorboard.summary.writer import event_file_writer

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.tracking import Comparison, Tracker


@pytest.fixture(autouse=True)
def event_files_in_order(monkeypatch):
    """Their names end with second, process and a number; tests have several in one second, and
    TensorBoard reads the tenth of a process before its ninth."""
    monkeypatch.setattr(event_file_writer, "_global_uid", event_file_writer.AtomicCounter(0))


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
        for tag in entry.keys() - {"stage", "epoch", "step", "closes_epoch"}:
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
    settings = {"lr": 0.1, "resume": False, "classes": ["cat"], "root": "x"}
    comparison = Comparison(settings, lambda name: name.startswith("cam/"))
    tracker = Tracker(tmp_path, "classify", comparison=comparison)
    tracker.image("maps/a", np.zeros((8, 9, 3), np.uint8), 3)
    tracker.text("settings", "seed 1", 0)
    tracker.compare({"cam/recall": 0.5, "cam/none": math.nan, "train/loss": 1.0}, 3)
    tracker.close()
    reader = board(tmp_path)
    (picture,) = reader.Images("maps/a")
    assert (picture.width, picture.height, picture.step) == (9, 8, 3)
    assert any("settings" in tag for tag in reader.Tags()["tensors"])
    (entry,) = reader.Scalars("hparam/cam/recall")
    assert (entry.value, entry.step) == (0.5, 3)
    assert not {"hparam/cam/none", "hparam/train/loss"} & set(reader.Tags()["scalars"])


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


@pytest.mark.parametrize("closed", [False, True])
def test_tensorboard_counts_an_epoch_once(tmp_path, closed):
    """Its measurements, pictures and tables have the step of a checkpoint that may be older."""
    first = Tracker(tmp_path, "classify", resumed_step=0)  # as all runs begin
    first.log(0, 3, {"train/loss": 0.3})
    first.log(0, 4, {"train/loss": 0.4})
    for _ in range(2):  # measured, killed before the checkpoint, and measured again
        first.image("maps/a", np.zeros((8, 9, 3), np.uint8), 4)
        first.text("per_class", "| cat |", 4)
        first.log(0, 4, {"recall": 0.1, "per_class/cat": 0.5, "noise": math.nan}, closes_epoch=True)
        if closed:
            break
        first.close()
        first = Tracker(tmp_path, "classify", resumed_step=4, finished_epochs=0)
    first.log(1, 5, {"train/loss": 0.5})
    first.close()
    last = Tracker(tmp_path, "classify", resumed_step=4, finished_epochs=int(closed))
    if not closed:
        last.image("maps/a", np.zeros((8, 9, 3), np.uint8), 4)
        last.text("per_class", "| cat |", 4)
        last.log(0, 4, {"recall": 0.1, "per_class/cat": 0.5, "noise": math.nan}, closes_epoch=True)
    last.log(1, 5, {"train/loss": 0.5})
    last.close()
    shown = PluginEventAccumulator(str(tmp_path / "tensorboard"))
    shown.Reload()
    points = {tag: [e.step for e in shown.Tensors(tag)] for tag in shown.Tags()["tensors"]}
    assert points == {
        "train/loss": [3, 4, 5],
        "maps/a": [4],
        "per_class/text_summary": [4],
        "recall": [4],
    }
    curves = curves_of_board(tmp_path)
    assert curves == curves_of_json(tmp_path)
    assert curves["train/loss"] == [(s, float(np.float32(s / 10))) for s in (3, 4, 5)]


def full_file(number: int):
    """A write that takes a part of the line first, as a disk does that fills up."""
    original = os.write

    def write(file, data):
        if data.startswith(b'{"stage"'):
            return original(file, data[:number])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return write


@pytest.mark.parametrize("part", [1, 20])
def test_a_line_that_a_full_disk_refuses_is_taken_back(tmp_path, monkeypatch, part):
    tracker = Tracker(tmp_path, "classify")
    tracker.log(0, 1, {"a": 1.0})
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full_file(part))
        with pytest.raises(UserError, match=r"metrics\.jsonl could not be written.*bytes to write"):
            tracker.log(0, 2, {"a": 2.0})
    assert [entry["step"] for entry in lines(tmp_path)] == [1]
    tracker.log(0, 3, {"a": 3.0})
    tracker.close()
    assert [entry["step"] for entry in lines(tmp_path)] == [1, 3]


def show_many(tracker: Tracker) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for step in range(2, 40):
        tracker.image("noise", noise, step)
        tracker.flush()


def test_event_files_on_a_full_disk_give_a_sentence_and_no_traceback(tmp_path, capfd):
    """The system refuses files beyond 32 KiB: TensorBoard's own thread is the first to fail."""
    tracker = Tracker(tmp_path, "classify")
    tracker.log(0, 1, {"a": 1.0})
    tracker.flush()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (32 << 10, hard))
    try:
        with pytest.raises(UserError, match=r"tensorboard could not be written.*File too large"):
            show_many(tracker)
        tracker.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "Traceback" not in capfd.readouterr().err
    # What was there can be read, and a resumed run adds to it.
    second = Tracker(tmp_path, "classify", resumed_step=1)
    second.log(0, 2, {"a": 2.0})
    second.close()
    assert curves_of_board(tmp_path)["a"] == [(1, 1.0), (2, 2.0)]
    assert threading.excepthook is second._hook


def test_a_tracker_that_cannot_be_opened(tmp_path):
    (tmp_path / "tensorboard").write_text("")
    with pytest.raises(UserError, match="tensorboard could not be written"):
        Tracker(tmp_path, "classify")
