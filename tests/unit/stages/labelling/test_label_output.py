"""A folder that appears whole, with its summary last, whatever happens on the way."""

import json
import os

import pytest
import torch

from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.runtime.distributed import World
from dist_oaa.stages.labelling import output
from dist_oaa.stages.labelling.output import OutputFolder

WORLD = World(0, 1, 0, torch.device("cpu"))


def make(run_dir, text: str = "x") -> None:
    folder = OutputFolder(run_dir, "labels")
    with folder.made(WORLD) as working:
        (working / "a.png").write_text(text)
        folder.publish({"images": 1})


def test_files_then_summary(tmp_path):
    make(tmp_path / "run")
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["labels", "labels.json"]
    assert (tmp_path / "run/labels/a.png").read_text() == "x"
    assert json.loads((tmp_path / "run/labels.json").read_text()) == {"images": 1}


def test_what_is_finished_or_anothers_is_refused(tmp_path):
    make(tmp_path / "run")
    with pytest.raises(UserError, match=r"labels exists.* never overwritten"):
        make(tmp_path / "run", "y")
    assert (tmp_path / "run/labels/a.png").read_text() == "x"
    (tmp_path / "mine/labels").mkdir(parents=True)
    with pytest.raises(UserError, match="never overwritten"):
        make(tmp_path / "mine")
    for other in ("attention", "store", "checkpoints"):
        (tmp_path / other / other).mkdir(parents=True)
        with pytest.raises(UserError, match=f"holds another run \\({other}/\\)"):
            make(tmp_path / other)


@pytest.mark.parametrize("error", [UserError("no"), Interrupted("SIGTERM")])
def test_a_failure_leaves_nothing(tmp_path, error):
    folder = OutputFolder(tmp_path / "run", "labels")

    def fail() -> None:
        with folder.made(WORLD) as working:
            (working / "a.png").write_text("x")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert list((tmp_path / "run").iterdir()) == []


def test_every_point_of_a_kill_is_recovered_from(tmp_path, monkeypatch):
    """Dies at each step that changes the disk; the next attempt succeeds."""

    class Killed(BaseException):
        pass

    for fatal in range(1, 7):
        count = 0

        def guarded(function, fatal=fatal):
            def call(*args, **kwargs):
                nonlocal count
                count += 1
                if count == fatal:
                    raise Killed
                return function(*args, **kwargs)

            return call

        run_dir = tmp_path / str(fatal)
        with monkeypatch.context() as patch:
            patch.setattr(output, "write_atomic", guarded(output.write_atomic))
            patch.setattr(output, "sync_folder", guarded(output.sync_folder))
            patch.setattr(output.os, "replace", guarded(os.replace))
            with pytest.raises(Killed):
                make(run_dir, "half")
        if (run_dir / "labels.json").exists():
            assert (run_dir / "labels/a.png").read_text() == "half", "complete, since it says so"
            continue
        make(run_dir, "whole")
        assert (run_dir / "labels/a.png").read_text() == "whole"
        assert sorted(p.name for p in run_dir.iterdir()) == ["labels", "labels.json"]
