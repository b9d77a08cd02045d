"""A run that stands still or limps says why, with real processes that stop, hang and die."""

import json
import os
import re
import signal
from pathlib import Path

import pytest

from leftovers import left_in, shared_by, still_there
from processes import Running, alone, children, descendants, run, torchrun, wait_until_gone
from runs import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

SLOW_RANK = Path(__file__).with_name("slow_rank_worker.py")
LONG = {"optim.epochs": 400, "evaluate.every_epochs": 0, "checkpoint.every_steps": 2}


def heartbeat(run_dir: Path) -> dict:
    return json.loads((run_dir / "heartbeat.json").read_text())


def steps_done(run_dir: Path) -> int:
    path = run_dir / "heartbeat.json"
    return heartbeat(run_dir)["ranks"][0]["step"] if path.exists() else 0


def data_worker(rank_pid: int) -> int:
    """The process that loads a rank's images; its other child only tracks resources."""
    (worker,) = [
        pid
        for pid in children(rank_pid)
        if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]
    return worker


def test_a_stopped_rank_a_hanging_worker_and_a_dead_one_are_named(demo_data, tmp_path):
    run_dir, temporary = tmp_path / "run", tmp_path / "tmp"
    temporary.mkdir()
    extra = LONG | {"data.workers": 1, "runtime.quiet_s": 2, "runtime.log_every": 1000}
    arguments = settings(demo_data, run_dir, **extra)
    run = Running(
        torchrun(2, "-m", "dist_oaa", *arguments),
        tmp_path / "log",
        fresh=True,
        TMPDIR=str(temporary),
    )
    run.wait_until(lambda: steps_done(run_dir) >= 8, 100)
    ranks = heartbeat(run_dir)["ranks"]
    assert [rank["rank"] for rank in ranks] == [0, 1]
    worker = data_worker(ranks[1]["pid"])

    os.kill(ranks[1]["pid"], signal.SIGSTOP)
    silent = r"no step for \d+ s: waiting for rank 1 \(\S+\), whose last word was \d+ s ago, "
    run.wait_until(lambda: re.search(silent, run.text()), 30)
    assert heartbeat(run_dir)["state"] == "running"
    os.kill(ranks[1]["pid"], signal.SIGCONT)
    run.wait_until(lambda: "it goes on, after" in run.text()[run.text().index("whose last") :], 30)

    os.kill(worker, signal.SIGSTOP)
    hanging = (
        r"waiting for rank 1 \(\S+\), loading images for \d+ s: batch \d of 4, "
        rf"data worker 0 \(pid {worker}\) has not answered"
    )
    run.wait_until(lambda: re.search(hanging, run.text()), 30)

    family = descendants(run.process.pid)
    shared = shared_by(family)
    assert shared, "the workers' queues have semaphores"
    os.kill(worker, signal.SIGKILL)
    assert run.wait(30) == 1
    (said,) = [line for line in run.text().splitlines() if line.startswith("oaa: error")]
    assert re.fullmatch(
        rf"oaa: error: rank 1 \(\S+\): data worker 0 \(pid {worker}\) was killed by signal 9 "
        r"\(SIGKILL\), perhaps out of memory; lower data.workers; continue with --resume",
        said,
    )
    assert "Traceback" not in run.text().split("oaa: error")[0]
    assert heartbeat(run_dir)["state"] == "ended"
    wait_until_gone(family, 10)
    assert still_there(shared) == set()
    assert left_in(temporary) == []

    published = json.loads((run_dir / "checkpoints" / "latest.json").read_text())["name"]
    step = int(published.split("-")[1])
    resumed = Running(
        torchrun(2, "-m", "dist_oaa", *arguments, "--resume", "--optim.max_steps", str(step + 2)),
        tmp_path / "resumed",
    )
    assert resumed.wait(100) == 0, resumed.text()
    logged = [json.loads(x)["step"] for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    assert max(logged) == step + 2


def test_a_slow_rank_is_named_while_it_is_slow(demo_data, tmp_path):
    run_dir = tmp_path / "run"
    extra = LONG | {"optim.max_steps": 75, "runtime.quiet_s": 2, "checkpoint.every_steps": 0}
    run = Running(
        torchrun(2, str(SLOW_RANK), *settings(demo_data, run_dir, **extra)), tmp_path / "log"
    )
    assert run.wait(150) == 0, run.text()
    told = [line for line in run.text().splitlines() if " slow" in line and "rank" in line]
    begins = r"rank 1 \(\S+\) is slow: 0\.\d+ s a step of its own work, the others 0\.\d+ s"
    assert re.fullmatch(begins, told[0]), told
    # The others wait for it in the backward pass: their own work is not slow.
    own, others = (float(s) for s in re.findall(r"0\.\d+", told[0]))
    assert own >= 0.6 > others
    assert re.match(r"rank 1 \(\S+\) is no longer slow, after \d+ steps: ", told[1]), told


@pytest.mark.parametrize(
    ("arguments", "doing"),
    [
        (["attend", "--data.workers", "0"], "taking attention from images"),
        (["pseudo-label", "--processes", "1"], "working through the images"),
    ],
)
def test_a_pass_without_steps_says_why_it_stands_still(demo_data, tmp_path, arguments, doing):
    run_dir = tmp_path / "run"
    code, text = run(alone(*settings(demo_data, run_dir)), tmp_path / "trained")
    assert code == 0, text
    source = ["--checkpoint" if arguments[0] == "attend" else "--maps", str(run_dir)]
    command = alone(*arguments, *source, "--run_dir", str(tmp_path / "out"))
    code, text = run(
        [*command, "--runtime.device", "cpu", "--runtime.quiet_s", "1"],
        tmp_path / "log",
        OAA_FAULT="data.read=sleep:4,hit=5",
    )
    assert code == 0, text
    assert re.search(rf"no step for \d+ s: {doing}", text), text
