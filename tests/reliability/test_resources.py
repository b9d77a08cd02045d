"""However a run ends, it leaves nothing behind, and while it lasts it does not grow."""

import ctypes
import gc
import os
import signal
import time
from pathlib import Path

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import RunError, UserError
from dist_oaa.data.demo import generate
from dist_oaa.stages.classifying.stage import ClassifyStage
from leftovers import left_in, open_files, shared_by, still_there, threads
from processes import Running, alone, descendants, wait_until_gone
from runs import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

ENDLESS = {"optim.epochs": 400, "evaluate.every_epochs": 0, "runtime.quiet_s": 1}


@pytest.fixture
def damaged_data(tmp_path):
    """A data set of which one image is cut off."""
    root = tmp_path / "damaged"
    generate(str(root), images=24, seed=3, size=96)
    (victim, *_) = sorted((root / "JPEGImages").iterdir())
    victim.write_bytes(victim.read_bytes()[:300])
    return root


def under_way(run: Running, run_dir: Path) -> None:
    """Waits until a run has made steps, which its loader has worked for."""
    metrics = run_dir / "metrics.jsonl"
    run.wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") > 2, 100)


@pytest.mark.parametrize(
    ("ending", "codes"),
    [
        ("success", (0,)),
        ("bad image", (2,)),
        ("not finite", (1,)),
        ("Ctrl-C", (75,)),
        # It may have come to its end between the two.
        ("Ctrl-C twice", (-signal.SIGINT, 130, 75)),
    ],
)
def test_nothing_is_left_of_a_run(demo_data, damaged_data, tmp_path, ending, codes):
    temporary, run_dir = tmp_path / "tmp", tmp_path / "run"
    temporary.mkdir()
    changes = {
        "success": {"optim.epochs": 1},
        "bad image": ENDLESS,
        "not finite": ENDLESS | {"optim.lr": 1e30},
    }.get(ending, ENDLESS)
    data = damaged_data if ending == "bad image" else demo_data
    command = alone(*settings(data, run_dir, **{"data.workers": 1} | changes))
    run = Running(command, tmp_path / "log", fresh=True, TMPDIR=str(temporary))
    shared, family = set(), set()
    while not shared and run.process.poll() is None:
        time.sleep(0.02)
        family = {run.process.pid, *descendants(run.process.pid)}
        shared = shared_by(family)
    assert shared, "the worker's queues have semaphores"
    if ending.startswith("Ctrl-C"):
        under_way(run, run_dir)
        family |= set(descendants(run.process.pid))
        shared |= shared_by(family)
        assert len(family) == 3, "the run, its data worker and Python's resource tracker"
        for _ in range(2 if ending == "Ctrl-C twice" else 1):
            os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does
            time.sleep(0.1)  # two that arrive at once are one
    assert run.wait(100) in codes, run.text()
    said = {"not finite": "not finite in epoch", "bad image": "cannot be read"}
    assert said.get(ending, "") in run.text()
    wait_until_gone(list(family), 10)
    assert left_in(temporary) == []
    assert still_there(shared) == set()
    names = {path.name for path in run_dir.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith(".tmp") or ".tmp-" in name]


@pytest.fixture
def hanging(demo_data, tmp_path):
    """A run of which one data worker has been stopped; its processes; the stopped one."""
    changes = ENDLESS | {"data.workers": 2}
    run = Running(alone(*settings(demo_data, tmp_path / "run", **changes)), tmp_path / "log")
    under_way(run, tmp_path / "run")
    family = descendants(run.process.pid)
    workers = [p for p in family if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]
    os.kill(workers[0], signal.SIGSTOP)
    return run, family, workers[0]


def test_a_worker_that_hangs_does_not_outlive_the_run(hanging):
    run, family, stopped = hanging
    run.wait_until(lambda: f"(pid {stopped}) has not answered" in run.text(), 30)
    # The step that it holds up never comes to an end: the second one stops at once.
    for _ in range(2):
        os.kill(run.process.pid, signal.SIGINT)
        time.sleep(1)
    assert run.wait(30) != 0
    wait_until_gone(family, 10)


def test_a_killed_run_takes_its_workers_along(hanging):
    run, family, _ = hanging  # the stopped one cannot notice by itself
    os.kill(run.process.pid, signal.SIGKILL)
    run.wait(10)
    wait_until_gone(family, 10)


def ended_run(data: Path, run_dir: Path, **changes: object) -> None:
    """A run in this process, to whatever end."""
    try:
        oaa(settings(data, run_dir, **changes))
    except (UserError, RunError):
        return


def test_a_run_closes_what_it_opens(demo_data, damaged_data, tmp_path):
    broken = {"optim.lr": 1e30, "checkpoint.every_steps": 1}
    attempts = [(demo_data, {}), (damaged_data, {}), (demo_data, broken)]
    for number, (data, changes) in enumerate(attempts):  # opens what stays open for good
        ended_run(data, tmp_path / f"warm{number}", **changes)
    gc.collect()
    files, running = open_files(), threads()
    for number, (data, changes) in enumerate(attempts):
        ended_run(data, tmp_path / f"run{number}", **changes)
        gc.collect()
        new = set(open_files().values()) - set(files.values())
        assert not new, f"attempt {number} left open: {new}"
        assert len(open_files()) == len(files)
        assert threads() == running


def resident_kib() -> int:
    """Memory that this process holds, once what is free has gone back to the system."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("VmRSS:")]
    return int(line.split()[1])


@pytest.mark.timeout(600)
def test_memory_and_store_are_flat_over_1000_steps_and_50_commits(tmp_path, monkeypatch):
    """What grows by less than a map's 1 KiB for each step of two images is no list of anything."""
    data, run_dir, seen = tmp_path / "data", tmp_path / "run", {}
    generate(str(data), images=40, seed=3, size=64)
    sound = ClassifyStage.before_step

    def before_step(stage, step, total_steps):
        if step in (300, 650, 990):
            sizes = sorted(p.stat().st_size for p in (run_dir / "store").rglob("data.mdb"))
            seen[step] = resident_kib(), sizes
        return sound(stage, step, total_steps)

    monkeypatch.setattr(ClassifyStage, "before_step", before_step)
    changes = {
        "data.size": 32,
        "optim.batch_size": 2,
        "optim.epochs": 50,
        "evaluate.every_epochs": 0,
    }
    changes |= {"evaluate.gallery": 0, "runtime.log_every": 100, "optim.lr": 1e-4}
    oaa(settings(data, run_dir, **changes))
    assert sorted(seen) == [300, 650, 990]
    (first, sizes), (_, middle), (last, end) = (seen[step] for step in (300, 650, 990))
    print(f"resident: {[kib for kib, _ in seen.values()]} KiB; shards: {end} bytes")
    assert len(sizes) == 6
    assert sizes == middle == end
    assert last - first < 690, f"{last - first} KiB in 690 steps"
