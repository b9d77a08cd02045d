"""The run directory: nothing of an earlier run is overwritten, and changes are told."""

import pytest
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.checkpoint import Checkpoint, save_checkpoint
from dist_oaa.runtime.latest import LATEST
from dist_oaa.runtime.rundir import CONFIG, begin_training, check_run_dir, was_cut_off

SETTINGS = "seed: 0\nrun_dir: a\nresume: false\noptim:\n  lr: 0.1\n  epochs: 3\n"


def prepare_run_dir(run_dir, settings, resume):
    """As a stage does it."""
    check_run_dir(run_dir, resume)
    return begin_training(run_dir, settings, ["cat", "dog"])


@pytest.fixture
def earlier(tmp_path):
    """A run directory with a checkpoint."""
    run_dir = tmp_path / "run"
    prepare_run_dir(run_dir, SETTINGS, resume=False)
    (run_dir / "checkpoints").mkdir(exist_ok=True)
    (run_dir / "checkpoints" / LATEST).write_text("{}")
    return run_dir


def test_a_new_run_saves_its_settings(tmp_path):
    run_dir = tmp_path / "deep" / "run"
    assert prepare_run_dir(run_dir, SETTINGS, resume=False) == []
    assert (run_dir / CONFIG).read_text() == SETTINGS
    assert sorted(p.name for p in run_dir.iterdir()) == ["checkpoints", "classes.txt", CONFIG]
    assert (run_dir / "classes.txt").read_text() == "cat\ndog\n"


def test_a_run_that_never_reached_a_checkpoint_may_start_again(tmp_path):
    prepare_run_dir(tmp_path, SETTINGS, resume=False)
    assert "seed: 0 -> 1" in prepare_run_dir(tmp_path, "seed: 1\n", resume=False)
    assert (tmp_path / CONFIG).read_text() == "seed: 1\n"


def test_what_was_never_published_is_void(tmp_path):
    assert not was_cut_off(tmp_path)  # nothing has begun here
    prepare_run_dir(tmp_path, SETTINGS, resume=False)
    assert was_cut_off(tmp_path)
    tensors = {"w": torch.zeros(2)}
    optimizer = {"state": {}, "param_groups": []}
    save_checkpoint(tmp_path / "checkpoints", "step-1", Checkpoint(tensors, optimizer, {}), keep=1)
    assert not was_cut_off(tmp_path)
    prepare_run_dir(tmp_path, SETTINGS, resume=True)
    (tmp_path / "checkpoints" / LATEST).unlink()
    assert not was_cut_off(tmp_path)  # by hand: the maps of the run count all the same


def test_an_earlier_run_is_not_overwritten(earlier):
    with pytest.raises(UserError, match=r"holds an earlier run.*--resume.*run_dir"):
        prepare_run_dir(earlier, "seed: 1\n", resume=False)
    assert (earlier / CONFIG).read_text() == SETTINGS


def test_without_a_checkpoint_there_is_nothing_to_resume(tmp_path):
    with pytest.raises(UserError, match=r"no complete checkpoint.*without --resume"):
        prepare_run_dir(tmp_path / "run", SETTINGS, resume=True)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="no complete checkpoint"):
        prepare_run_dir(tmp_path / "run", SETTINGS, resume=True)


def test_a_resumed_run_tells_what_has_changed(earlier):
    changed = "seed: 0\nrun_dir: b\nresume: true\noptim:\n  lr: 0.2\n  milestones: [1]\n"
    assert prepare_run_dir(earlier, changed, resume=True) == [
        "optim.epochs: 3 -> None",
        "optim.lr: 0.1 -> 0.2",
        "optim.milestones: None -> [1]",
    ]
    assert (earlier / CONFIG).read_text() == changed
    assert prepare_run_dir(earlier, changed, resume=True) == []


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("mine")
    for run_dir in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UserError, match=f"run_dir {run_dir} cannot be written"):
            prepare_run_dir(run_dir, SETTINGS, resume=False)
    assert (tmp_path / "file").read_text() == "mine"
