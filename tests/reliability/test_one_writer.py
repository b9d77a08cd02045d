"""A run directory is trained in by one run at a time, whichever stage it is."""

import os
from pathlib import Path

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.lease import Lease, held_leases
from processes import Running, torchrun
from runs import files_of
from stage_runs import STAGES, prepare, training

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def prepared(demo_data, tmp_path_factory) -> Path:
    return prepare(demo_data, tmp_path_factory.mktemp("prepared"))


@pytest.mark.parametrize("stage", STAGES)
def test_every_training_holds_its_run_directory(stage, demo_data, prepared, tmp_path):
    run_dir = tmp_path / "run"
    flags = training(stage, demo_data, prepared, run_dir)
    lease = Lease(run_dir / "leases" / "run.lock")
    with pytest.raises(UserError, match=rf"run is being written by .*process {os.getpid()}\b"):
        oaa(flags)
    # A store is prepared before; settings, checkpoints and logs are not touched.
    assert {path.name for path in run_dir.iterdir()} <= {"leases", "store"}
    lease.release()
    oaa(flags)
    assert (run_dir / "checkpoints" / "latest.json").exists()
    assert held_leases(run_dir) == []


def test_a_second_run_leaves_the_first_alone(demo_data, prepared, tmp_path):
    run_dir = tmp_path / "run"
    flags = training("segment", demo_data, prepared, run_dir)
    first = Running(torchrun(2, "-m", "dist_oaa", *flags), tmp_path / "first.log")
    first.wait_until(lambda: held_leases(run_dir) and (run_dir / "config.yaml").exists(), 60)
    saved = (run_dir / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"is being written by|holds an earlier run"):
        oaa([*flags, "--optim.epochs", "7"])
    assert (run_dir / "config.yaml").read_bytes() == saved
    assert first.wait(120) == 0, first.text()
    assert files_of(run_dir)["config.yaml"] == saved
