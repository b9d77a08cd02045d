"""A run directory is trained in by one run at a time, whichever stage it is."""

import os
from pathlib import Path

import pytest

from affinity_runs import affinity_settings
from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.lease import Lease, held_leases
from processes import Running, torchrun
from runs import files_of, integral_settings, labels_from_masks, segment_settings, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

ONCE = {"optim.epochs": 1}


@pytest.fixture(scope="module")
def prepared(demo_data, tmp_path_factory) -> Path:
    """Maps and labels to train on."""
    folder = tmp_path_factory.mktemp("prepared")
    oaa(settings(demo_data, folder / "classified", **ONCE))
    labels_from_masks(demo_data, folder / "labels")
    return folder


def arguments(stage: str, demo_data: Path, prepared: Path, run_dir: Path) -> list[str]:
    if stage == "classify":
        return settings(demo_data, run_dir, **ONCE)
    if stage == "integral":
        return integral_settings(demo_data, prepared / "classified", run_dir, **ONCE)
    if stage == "segment":
        return segment_settings(demo_data, prepared / "labels", run_dir, **ONCE)
    return affinity_settings(demo_data, demo_data / "SegmentationClass", run_dir, **ONCE)


@pytest.mark.parametrize("stage", ["classify", "integral", "affinity", "segment"])
def test_every_training_holds_its_run_directory(stage, demo_data, prepared, tmp_path):
    run_dir = tmp_path / "run"
    flags = arguments(stage, demo_data, prepared, run_dir)
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
    flags = arguments("segment", demo_data, prepared, run_dir)
    first = Running(torchrun(2, "-m", "dist_oaa", *flags), tmp_path / "first.log")
    first.wait_until(lambda: held_leases(run_dir) and (run_dir / "config.yaml").exists(), 60)
    saved = (run_dir / "config.yaml").read_bytes()
    with pytest.raises(UserError, match=r"is being written by|holds an earlier run"):
        oaa([*flags, "--optim.epochs", "7"])
    assert (run_dir / "config.yaml").read_bytes() == saved
    assert first.wait(120) == 0, first.text()
    assert files_of(run_dir)["config.yaml"] == saved
