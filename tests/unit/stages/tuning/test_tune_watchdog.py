"""Nothing is left behind, however the driver ends."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from processes import REPOSITORY, environment, wait_until_gone

DRIVER = """
import os, subprocess, sys, time
from dist_oaa.stages.tuning.watchdog import watched
folder = sys.argv[1]
with watched(folder):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    marked = subprocess.Popen(sleep, start_new_session=True)
    # As Ray's agents do: no mark to be seen, but a log in the folder.
    log = open(folder + "/log", "w")
    unmarked = subprocess.Popen(sleep, start_new_session=True, stdout=log, env={})
    print(marked.pid, unmarked.pid, flush=True)
    if sys.argv[2] == "wait":
        time.sleep(60)
    elif sys.argv[2] == "raise":
        raise RuntimeError("a fault of ours")
print("after")
"""


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("how", ["killed", "raise", "end"])
def test_what_the_driver_started_ends_with_it(how):
    folder = tempfile.mkdtemp(prefix="oaa-ray-")
    command = [sys.executable, "-c", DRIVER, folder, "wait" if how == "killed" else how]
    driver = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), cwd=REPOSITORY
    )
    pids = [int(word) for word in driver.stdout.readline().split()]
    assert len(pids) == 2
    if how == "killed":
        driver.send_signal(signal.SIGKILL)
    out, _ = driver.communicate(timeout=20)
    assert out == (b"after\n" if how == "end" else b"")
    wait_until_gone(pids, seconds=5)
    assert not Path(folder).exists() or how == "killed"
