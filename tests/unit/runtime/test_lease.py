"""One writer a shard, among real processes."""

import fcntl
import os
import signal
import socket
import subprocess
import sys

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.lease import Lease, is_held

HOLD = """
import sys, time
from pathlib import Path
from dist_oaa.runtime.lease import Lease
lease = Lease(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store/leases/shard-0000.lock"


def test_second_process_is_refused_until_the_first_is_killed(path):
    assert not is_held(path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert is_held(path)
        named = rf"store is being written.*process {holder.pid} on {socket.gethostname()}"
        with pytest.raises(UserError, match=named):
            Lease(path)
        # Being refused changed nothing.
        with pytest.raises(UserError, match=named):
            Lease(path)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        holder.stdout.close()
    assert not is_held(path)
    lease = Lease(path)
    assert is_held(path)
    lease.release()
    assert not is_held(path)


def test_an_unreadable_note_does_not_hide_the_refusal(path):
    lease = Lease(path)
    path.write_text("\0\0")
    with pytest.raises(UserError, match="its process is unknown"):
        Lease(path)
    lease.release()


def test_a_look_is_not_taken_for_a_writer(path):
    Lease(path).release()
    looking = os.open(path, os.O_RDONLY)
    fcntl.flock(looking, fcntl.LOCK_SH)
    assert not is_held(path)
    os.close(looking)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written: Not a directory"):
        Lease(tmp_path / "file/leases/shard-0000.lock")
