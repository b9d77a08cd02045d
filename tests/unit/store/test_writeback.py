"""Sending pages early: it never changes what is written, and needs nothing of the system."""

import os
import threading

import pytest

from dist_oaa.store import writeback
from dist_oaa.store.writeback import sent_early


def test_what_is_sent_is_what_was_written(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"")
    data = os.urandom(3 << 20)
    with sent_early([path]), open(path, "wb") as file:
        for low in range(0, len(data), 1 << 16):
            file.write(data[low : low + (1 << 16)])
    assert path.read_bytes() == data


@pytest.mark.parametrize("known", [True, False])
def test_files_are_sent_until_the_block_ends(tmp_path, monkeypatch, known):
    path = tmp_path / "file"
    path.write_bytes(b"")
    calls, called = [], threading.Event()

    def send(file):
        calls.append(os.path.samestat(os.fstat(file), path.stat()))
        called.set()

    monkeypatch.setattr(writeback, "start_of_writing", lambda: send if known else None)
    before = threading.active_count()
    with pytest.raises(OSError, match="full"), sent_early([path]):  # noqa: PT012
        assert called.wait(5 if known else 0.05) == known
        raise OSError("full")
    count = len(calls)
    assert all(calls)
    assert threading.active_count() == before
    assert not called.wait(0.02) or len(calls) == count


def test_linux_has_the_call(tmp_path):
    start = writeback.start_of_writing()
    if start is None:
        pytest.skip("this system has no sync_file_range")
    with open(tmp_path / "file", "wb") as file:
        file.write(b"x" * 5000)
        file.flush()
        assert start(file.fileno()) == 0
