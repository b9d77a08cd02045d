"""What is said of a disk that refuses, and what it leaves."""

import errno
import os
import resource

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.faults import arm_faults
from dist_oaa.runtime.files import (
    disk_words,
    free_bytes,
    named_disk_errors,
    new_folder,
    write_atomic,
)


def test_the_bytes_needed_and_free(tmp_path):
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    said = disk_words(full, tmp_path / "a" / "b", 12_345)
    assert said.startswith("No space left on device (12,345 bytes to write, ")
    assert said.endswith(f" bytes free in {tmp_path})")
    number = int(said.split("write, ")[1].split(" ")[0].replace(",", ""))
    assert number == pytest.approx(free_bytes(tmp_path), rel=0.1)
    assert "to write" not in disk_words(full, tmp_path)
    # LMDB and safetensors raise errors of their own, without a number.
    failing = RuntimeError("mdb_put:\n Input/output error")
    assert disk_words(failing, tmp_path, 7).startswith("mdb_put: Input/output error (7 bytes to")
    # LMDB says so, too, of a disk that still took a part.
    said = disk_words(failing, tmp_path, free_bytes(tmp_path) + (1 << 40))
    assert said.startswith("No space left on device (")
    denied = OSError(errno.EACCES, "Permission denied")
    assert disk_words(denied, tmp_path, 5) == "Permission denied"


def test_a_limit_on_files_is_named(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with (
            pytest.raises(UserError, match=r"no file may have more than 65,536 bytes") as caught,
            named_disk_errors(tmp_path / "big", 100_000),
        ):
            write_atomic(tmp_path / "big", bytes(100_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "big") in str(caught.value)
    assert "File too large (100,000 bytes to write" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fault", ["files.fsync=eio", "files.rename=enospc"])
def test_nothing_half_written_stays(tmp_path, monkeypatch, fault):
    write_atomic(tmp_path / "a", b"old")
    monkeypatch.setenv("OAA_FAULT", fault)
    arm_faults()
    with pytest.raises(OSError, match=r"Input/output error|No space left"):
        write_atomic(tmp_path / "a", b"new")
    monkeypatch.delenv("OAA_FAULT")
    arm_faults()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"old"


def test_a_new_folder_that_does_not_fit_is_gone(tmp_path):
    def fill() -> None:
        with new_folder(tmp_path / "out") as folder:
            (folder / "part").write_text("x")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(UserError, match=r"out cannot be written: No space left.*bytes free"):
        fill()
    assert list(tmp_path.iterdir()) == []
