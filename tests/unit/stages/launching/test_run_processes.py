"""Processes of a run: what they are given, what their logs say, and that they die with us."""

import os
import signal
import subprocess
import sys

import pytest
import torch

from dist_oaa.stages.launching import processes as processes_of_runs
from dist_oaa.stages.launching.processes import (
    LAUNCHER,
    Machine,
    describe_exit,
    environment,
    failure_lines,
    has_gpu_driver,
    last_line,
    launch,
    this_machine,
)
from dist_oaa.stages.launching.progress import clock
from processes import wait_until_gone


def test_processes_of_a_run():
    assert Machine((), 2, "p", "v").workers == 2
    assert Machine((), 1, "p", "v").workers == 1
    gpus = Machine(("H", "H", "H"), 64, "p", "v")
    assert (gpus.workers, str(gpus)) == (3, "3 x H")


def test_the_environment_of_a_run():
    mine = environment({"PATH": "p", "RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"})
    assert mine["PATH"] == "p"
    assert mine.keys().isdisjoint({"RANK", "WORLD_SIZE", "LOCAL_RANK"})
    assert (mine["OMP_NUM_THREADS"], mine["PYTHONUNBUFFERED"]) == ("1", "1")
    assert environment({"OMP_NUM_THREADS": "4"})["OMP_NUM_THREADS"] == "4"


def test_a_run_of_one_rank_chooses_its_threads_itself(tmp_path, monkeypatch):
    """torchrun's ranks get one for what is not theirs; a rank alone would take that for all."""
    command = [sys.executable, "-c", "import os; print(os.environ.get('OMP_NUM_THREADS'))"]
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch(command, tmp_path / "one").wait(20) == 0
    assert launch([*command, LAUNCHER], tmp_path / "two").wait(20) == 0
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert launch(command, tmp_path / "three").wait(20) == 0
    said = [(tmp_path / name).read_text().strip() for name in ("one", "two", "three")]
    assert said == ["None", "1", "3"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere torch is asked")
def test_torch_is_asked_for_gpus_where_there_is_a_driver(tmp_path, monkeypatch):
    assert not has_gpu_driver(tmp_path)
    for name in ("nvidia0", "null"):  # a card without its driver's control device cannot be used
        (tmp_path / name).touch()
    assert not has_gpu_driver(tmp_path)
    (tmp_path / "nvidiactl").touch()
    assert has_gpu_driver(tmp_path)
    monkeypatch.setattr(processes_of_runs, "gpu_names", lambda: ["H100", "H100"])
    for driver, gpus in ((True, ("H100", "H100")), (False, ())):
        monkeypatch.setattr(processes_of_runs, "has_gpu_driver", lambda driver=driver: driver)
        assert this_machine().gpus == gpus


def test_without_a_driver_torch_sees_no_gpu():
    """The short way gives the answer of the long one, on this machine."""
    if not has_gpu_driver():
        assert torch.cuda.device_count() == 0


def test_what_a_log_says(tmp_path):
    log = tmp_path / "log.txt"
    log.write_text("old oaa: error: before\noaa: error: an earlier attempt\n")
    start = log.stat().st_size
    assert last_line(log, start) == ""
    with open(log, "a") as file:
        file.write("one\ntwo\n\n")
    assert last_line(log, start) == "two"
    assert last_line(tmp_path / "none", 0) == ""
    with open(log, "a") as file:
        file.write("Traceback\nValueError: x\nE1 torch/distributed/elastic/api.py failed\nrank 1\n")
    assert failure_lines(log, start) == ["one", "two", "Traceback", "ValueError: x"]
    assert failure_lines(log, start, 2) == ["Traceback", "ValueError: x"]
    assert failure_lines(log, 0) == ["oaa: error: an earlier attempt"]


def test_words():
    assert describe_exit(3) == "exit code 3"
    assert describe_exit(-9) == "killed by SIGKILL"
    assert [clock(s) for s in (5.9, 65, 3605)] == ["0:05", "1:05", "1:00:05"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_launched_process_dies_with_us(tmp_path):
    """A process launches another one and is killed: the other one is gone too."""
    script = (
        "import sys, time, pathlib\n"
        "from dist_oaa.stages.launching.processes import launch\n"
        "child = launch([sys.executable, '-c', 'import time; time.sleep(60)'], "
        f"pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    child = int(parent.stdout.readline())
    os.kill(child, 0)  # it lives
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait(10)
    parent.stdout.close()
    wait_until_gone([child], 10)


def test_a_launched_process_writes_its_log_and_hears_no_ctrl_c(tmp_path):
    log = tmp_path / "log"
    log.write_text("before\n")
    code = "import os; print('here', os.getsid(0) == os.getpid())"
    assert launch([sys.executable, "-c", code], log).wait(30) == 0
    assert log.read_text() == "before\nhere True\n"
