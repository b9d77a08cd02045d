"""A run whose checkpoint or maps were damaged, and restored, ends as if nothing had happened."""

import json
import shutil

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.store.inspect import verify
from dist_oaa.store.repair import repair
from dist_oaa.store.rewind import rewind
from runs import assert_same_run, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

# Average fusion: an epoch that counts twice, or is lost, would show in the maps.
SETTINGS = {"accumulate.fusion": "average", "checkpoint.every_steps": 2, "optim.epochs": 3}


@pytest.fixture(scope="module")
def whole(demo_data, tmp_path_factory):
    """A run that nothing happens to."""
    folder = tmp_path_factory.mktemp("restored") / "whole"
    oaa(settings(demo_data, folder, **SETTINGS))
    return folder


@pytest.fixture
def cut_off(demo_data, tmp_path, monkeypatch):
    """(run directory, how it goes on) of a run that ended in the middle of its second epoch."""
    arguments = settings(demo_data, tmp_path / "run", **SETTINGS)
    # Before the third commit, so that there are two checkpoints, however slow the disk is.
    monkeypatch.setenv("OAA_FAULT", "saver.write.before=eio,hit=3")
    with pytest.raises((OSError, UserError)):
        oaa(arguments)
    monkeypatch.delenv("OAA_FAULT")
    return tmp_path / "run", lambda: oaa([*arguments, "--resume"])


def test_after_a_rewind(cut_off, whole, capsys):
    run_dir, go_on = cut_off
    latest = json.loads((run_dir / "checkpoints/latest.json").read_text())
    (run_dir / "checkpoints" / latest["name"] / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=r"is complete: oaa store rewind"):
        go_on()
    assert rewind(str(run_dir)) == 0
    go_on()
    assert_same_run(whole, run_dir)


def test_after_a_repair_from_a_copy(cut_off, whole, tmp_path, capsys):
    run_dir, go_on = cut_off
    shutil.copytree(run_dir / "store", tmp_path / "backup")
    file = run_dir / "store/shard-0001/data.mdb"
    data = bytearray(file.read_bytes())
    data[len(data) // 2 :] = bytes(len(data) - len(data) // 2)
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"1 of the 6 shards .* are damaged"):
        verify(str(run_dir))
    with pytest.raises(UserError, match="shard-0001"):
        go_on()
    assert repair(str(run_dir), copy=str(tmp_path / "backup")) == 0
    assert verify(str(run_dir)) == 0
    go_on()
    assert_same_run(whole, run_dir)
