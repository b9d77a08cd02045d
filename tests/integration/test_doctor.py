"""`oaa doctor` as a user calls it: the whole report, and nothing stays behind."""

import json
import os
import signal

import pytest

import processes
from processes import Running, alone

AREAS = ["versions", "devices", "disk", "network", "self test", "system"]

pytestmark = pytest.mark.slow


def test_the_whole_report(tmp_path):
    run_dir, out = tmp_path / "runs", tmp_path / "all.json"
    command = alone("doctor", "--run_dir", str(run_dir), "--json", str(out))
    code, text = processes.run(command, tmp_path / "log", 280)
    written = json.loads(out.read_text())
    assert list(written["areas"]) == AREAS
    assert code == (0 if written["fit"] else 1)
    found = {f["name"]: f for findings in written["areas"].values() for f in findings}
    for name in ("store", "accumulation", "network", "two processes"):
        assert found[name]["state"] == "ok", found[name]
        assert found[name]["seconds"] > 0
    assert all(bool(f["advice"]) == (f["state"] != "ok") for f in found.values())
    assert max(map(len, text.splitlines())) <= max(80, len(f"all of it: {out}"))
    assert "Traceback" not in text
    # The folder was looked at through its parent, and nothing was left there.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["all.json", "log"]


def test_a_signal_takes_its_processes_along(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    started = Running(alone("doctor", "--run_dir", str(run_dir)), tmp_path / "log")
    family: list[int] = []

    def has_children() -> bool:
        family[:] = processes.descendants(started.process.pid)
        return bool(family)

    started.wait_until(has_children, 60)
    os.kill(started.process.pid, signal.SIGTERM)
    assert started.wait(30) == 128 + signal.SIGTERM
    processes.wait_until_gone(family, 10)
    assert "Traceback" not in started.text()
    assert list(run_dir.iterdir()) == []
