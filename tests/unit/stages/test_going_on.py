"""A training stage that torchrun has started again goes on; others do as they were told."""

import dataclasses
import threading
import time
from dataclasses import dataclass, field

import pytest
import torch

from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.latest import Latest
from dist_oaa.runtime.lease import Lease
from dist_oaa.runtime.relaunch import launcher, note_launchers
from dist_oaa.stages.going_on import going_on, wait_for_writers


@dataclass
class Settings:
    run_dir: str
    resume: bool = False
    runtime: RuntimeConfig = field(default_factory=lambda: RuntimeConfig(timeout_s=4))


@pytest.fixture
def world() -> World:
    return World(0, 1, 0, torch.device("cpu"))


@pytest.fixture
def under_torchrun(monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")


def publish(run_dir) -> None:
    (run_dir / "checkpoints").mkdir()
    Latest("step-00000001-g000001", 1).write(run_dir / "checkpoints")


def test_the_same_launcher_goes_on_from_a_checkpoint(world, under_torchrun, tmp_path):
    note_launchers(tmp_path, [launcher()])
    config = Settings(str(tmp_path))
    assert going_on(config, world) == config, "there is no checkpoint: it begins anew"
    publish(tmp_path)
    assert going_on(config, world) == dataclasses.replace(config, resume=True)


@pytest.mark.parametrize("resume", [False, True])
def test_another_launcher_does_as_it_is_told(resume, world, under_torchrun, tmp_path):
    note_launchers(tmp_path, ["somebody:1:2:3"])
    publish(tmp_path)
    config = Settings(str(tmp_path), resume)
    assert going_on(config, world) == config


def test_it_waits_for_what_the_attempt_before_still_writes(world, under_torchrun, tmp_path):
    """The cut-off node publishes while it is waited for: that checkpoint must be seen."""
    note_launchers(tmp_path, [launcher()])
    lease = Lease(tmp_path / "store-avg" / "leases" / "shard-0003.lock")

    def end() -> None:
        time.sleep(0.6)
        publish(tmp_path)
        lease.release()

    thread = threading.Thread(target=end)
    thread.start()
    assert going_on(Settings(str(tmp_path)), world).resume
    thread.join()


def test_it_does_not_wait_for_ever(tmp_path):
    lease = Lease(tmp_path / "store" / "leases" / "shard-0000.lock")
    said: list[str] = []
    start = time.monotonic()
    wait_for_writers(tmp_path, 0.5, said.append)
    assert 0.5 <= time.monotonic() - start < 3
    assert len(said) == 1
    assert "shard-0000.lock" in said[0]
    lease.release()
    wait_for_writers(tmp_path, 0.5, said.append)
    assert len(said) == 1
