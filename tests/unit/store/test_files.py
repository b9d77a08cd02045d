"""Files and folders that are there whole or not at all."""

import os

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import new_folder, write_atomic


def test_write_atomic_replaces(tmp_path):
    for data in (b"one", b"", b"three"):
        write_atomic(tmp_path / "f", data)
        assert (tmp_path / "f").read_bytes() == data
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_atomic_keeps_the_old_content(tmp_path, monkeypatch, step):
    write_atomic(tmp_path / "f", b"old")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "f", b"new")
    assert (tmp_path / "f").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("exists", [False, True])
def test_new_folder(tmp_path, exists):
    out = tmp_path / "a/out"
    if exists:
        out.mkdir(parents=True)
    with new_folder(out) as folder:
        (folder / "x").write_text("1")
        assert not (out / "x").exists()
    assert os.listdir(out) == ["x"]
    assert os.listdir(tmp_path / "a") == ["out"]


@pytest.mark.parametrize(
    "make", [lambda p: p.write_text(""), lambda p: (p / "x").mkdir(parents=True)]
)
def test_new_folder_refuses_what_is_there(tmp_path, make):
    make(tmp_path / "out")
    with (
        pytest.raises(UserError, match="out exists, expected a new or empty folder"),
        new_folder(tmp_path / "out"),
    ):
        pytest.fail("must not begin")
    assert os.listdir(tmp_path) == ["out"]


def fill_until(error: BaseException, out) -> None:
    with new_folder(out) as folder:
        (folder / "x").write_text("1")
        raise error


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (UserError("mine"), UserError),
        (OSError(28, "No space left on device"), UserError),
    ],
)
def test_new_folder_leaves_nothing_behind(tmp_path, error, shown):
    with pytest.raises(shown, match=r"mine|out cannot be written: No space|^$"):
        fill_until(error, tmp_path / "out")
    assert os.listdir(tmp_path) == []


def test_new_folder_in_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match="cannot be written: Not a directory"),
        new_folder(tmp_path / "file/out"),
    ):
        pytest.fail("must not begin")
