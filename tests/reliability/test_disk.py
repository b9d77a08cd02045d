"""Disks that are full or fail: one sentence with the bytes, nothing half-written, on it goes."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.checkpoint import load_checkpoint
from processes import two_ranks
from runs import assert_same_run, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

CHANGES = {"optim.epochs": 2, "checkpoint.every_steps": 2, "store.shards": 2}


def train(data: Path, run_dir: Path, *extra: str) -> None:
    """A run of one process, in this one."""
    assert oaa([*settings(data, run_dir, **CHANGES), *extra]) == 0


@pytest.fixture(scope="module")
def uninterrupted(demo_data, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    train(demo_data, run_dir)
    return run_dir


def refused(data: Path, run_dir: Path, *extra: str) -> str:
    """The sentence of a run that a disk has ended."""
    with pytest.raises(UserError) as caught:
        train(data, run_dir, *extra)
    said = str(caught.value)
    assert "\n" not in said
    assert_nothing_half_written(run_dir)
    return said


def assert_nothing_half_written(run_dir: Path) -> None:
    left = [p.name for p in run_dir.rglob("*") if p.name.endswith(".tmp")]
    assert left == []
    log = run_dir / "metrics.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        json.loads(line)


def go_on(data: Path, run_dir: Path, *extra: str) -> None:
    """Resumes, or begins again where no checkpoint was published."""
    published = (run_dir / "checkpoints" / "latest.json").exists()
    if published:
        load_checkpoint(run_dir / "checkpoints")
    train(data, run_dir, *(["--resume"] if published else []), *extra)


def epochs_logged(run_dir: Path) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


# In a commit, in the copy to shared storage, in a checkpoint, before its publication, in a log, and
# in the small files that a run begins with; while training goes on beside the thread that writes.
FAULTS = [
    (
        "store.commit.before=enospc,hit=5",
        "shard-000[01] cannot be written",
    ),
    ("store.copy.fsync=eio,hit=4", "shard-000[01] cannot be written"),
    ("checkpoint.fsync=enospc,hit=3", "checkpoints/step-.* could not be written"),
    ("checkpoint.latest.before=eio,hit=2", "checkpoints/step-.* could not be written"),
    ("tracking.line.before=enospc,hit=4", "metrics.jsonl could not be written"),
    ("files.fsync=enospc", "cannot be written"),
    ("files.rename=enospc,hit=9", "could not be written"),
]


@pytest.mark.parametrize(("fault", "where"), FAULTS)
def test_a_failing_disk_at_any_place(fault, where, demo_data, uninterrupted, tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    local = ("--store.local_dir", str(tmp_path / "local")) if "copy" in fault else ()
    monkeypatch.setenv("OAA_FAULT", fault)
    said = refused(demo_data, run_dir, *local)
    monkeypatch.delenv("OAA_FAULT")
    assert re.search(where, said), said
    assert " bytes free in " in said
    if not fault.startswith("files."):
        assert " bytes to write" in said
    go_on(demo_data, run_dir, *local)
    assert_same_run(uninterrupted, run_dir)
    assert epochs_logged(run_dir) == epochs_logged(uninterrupted)


@pytest.fixture
def small_disk(tmp_path) -> Iterator[tuple[Path, Callable[[str], None]]]:
    """A small disk and a function that gives it another size; skips where mounting is forbidden."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        result = subprocess.run(command, capture_output=True, text=True, timeout=20)
        if result.returncode:
            pytest.skip(f"no disk can be filled: {result.stderr.strip()}")

    mount("size=8k")
    yield folder, lambda size: mount(f"remount,size={size}")
    subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=20)


@pytest.mark.parametrize("size", ["8k", "60k", "300k", "1m"])
def test_a_disk_that_is_full_at_the_start_or_fills(size, small_disk, demo_data, uninterrupted):
    """Of 2 MB that the run takes."""
    disk, resize = small_disk
    resize(size)
    run_dir = disk / "run"
    said = refused(demo_data, run_dir)
    assert str(disk) in said
    assert " bytes free in " in said
    if run_dir.exists() and size != "1m":
        assert not (run_dir / "checkpoints" / "latest.json").exists()
    resize("40m")
    go_on(demo_data, run_dir)
    assert_same_run(uninterrupted, run_dir)
    assert epochs_logged(run_dir) == epochs_logged(uninterrupted)
    shutil.rmtree(run_dir)


@pytest.mark.parametrize(
    ("fault", "where"),
    [
        ("tracking.line.before=enospc,rank=0,hit=3", "metrics.jsonl could not be written"),
        ("checkpoint.fsync=eio,rank=0,hit=3", "could not be written, the one before it stays"),
    ],
)
def test_the_first_rank_alone_stops_both(fault, where, demo_data, tmp_path):
    """What only rank 0 writes: its log, and the checkpoint beside training."""
    run_dir = tmp_path / "run"
    arguments = ["-m", "dist_oaa", *settings(demo_data, run_dir, **CHANGES)]
    codes, text = two_ranks(arguments, tmp_path, OAA_FAULT=fault)
    assert codes == [2, 2], text
    assert text.count(where) == 1, text
    assert " bytes to write" in text
    assert "Traceback" not in text
    assert_nothing_half_written(run_dir)
    load_checkpoint(run_dir / "checkpoints")
