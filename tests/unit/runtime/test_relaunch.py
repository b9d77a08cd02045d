"""Attempts of one launch are told from runs that somebody else has started."""

import contextlib
import json
import os
import subprocess
import sys

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.relaunch import (
    LAUNCHERS,
    check_restarts,
    launcher,
    note_launchers,
    starts_again,
    was_started_again,
)
from processes import environment

PRINT = "from dist_oaa.runtime.relaunch import launcher; print(launcher())"


def test_processes_of_one_launcher_agree_and_those_of_another_do_not():
    def of_children(launches: int) -> list[str]:
        # Each shell is a launcher that starts its worker twice.
        script = f'{sys.executable} -c "{PRINT}"; {sys.executable} -c "{PRINT}"; true'
        variables = environment() | {"TORCHELASTIC_RUN_ID": "x"}
        shells = [
            subprocess.run(["bash", "-c", script], env=variables, capture_output=True, text=True)
            for _ in range(launches)
        ]
        return [line for shell in shells for line in shell.stdout.split()]

    first, again, other, other_again = of_children(2)
    assert first == again
    assert other == other_again
    assert first != other


def test_a_process_without_torchrun_has_no_launcher(monkeypatch, tmp_path):
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    assert launcher() == ""
    note_launchers(tmp_path, [launcher()])
    assert not list(tmp_path.iterdir())
    assert not was_started_again(tmp_path, [launcher()])


def test_any_launcher_that_was_there_before_counts(tmp_path):
    assert not was_started_again(tmp_path, ["a", "b"])
    note_launchers(tmp_path, ["a", "a", "b"])
    assert was_started_again(tmp_path, ["b"])
    assert was_started_again(tmp_path, ["new", "a"])
    assert not was_started_again(tmp_path, ["new", "other", ""])
    note_launchers(tmp_path, ["new", "a"])
    assert json.loads((tmp_path / LAUNCHERS).read_text()) == ["a", "b", "new"]
    note_launchers(tmp_path, ["a", ""])
    assert json.loads((tmp_path / LAUNCHERS).read_text()) == ["a", "b", "new"]


@pytest.mark.parametrize("damage", [b"", b"{", b"[1, 2", b'{"a": 1}', b"\xff\xfe", b"7"])
def test_a_damaged_note_makes_nobody_resume(damage, tmp_path):
    (tmp_path / LAUNCHERS).write_bytes(damage)
    assert not was_started_again(tmp_path, ["a"])
    note_launchers(tmp_path, ["a"])
    assert was_started_again(tmp_path, ["a"])


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / LAUNCHERS).mkdir()
    with pytest.raises(UserError, match=r"run_dir .* cannot be written"):
        note_launchers(tmp_path, ["a"])


@pytest.mark.parametrize(
    ("done", "most", "expected"), [("0", "0", False), ("0", "3", True), ("3", "3", False)]
)
def test_whether_torchrun_starts_again(done, most, expected, monkeypatch):
    monkeypatch.setitem(os.environ, "TORCHELASTIC_RESTART_COUNT", done)
    monkeypatch.setitem(os.environ, "TORCHELASTIC_MAX_RESTARTS", most)
    assert starts_again() is expected


@pytest.mark.parametrize(
    ("most", "shared", "size", "refused"),
    [
        ("3", "True", "2", True),
        ("3", "False", "2", False),
        ("0", "True", "2", False),
        ("3", "True", "1", False),
    ],
)
def test_a_torchrun_that_could_not_start_again_is_refused(most, shared, size, refused, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", most)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", shared)
    monkeypatch.setenv("WORLD_SIZE", size)
    said = pytest.raises(UserError, match=r"set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1")
    with said if refused else contextlib.nullcontext():
        check_restarts()
