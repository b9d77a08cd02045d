"""`oaa tune` with real Ray and real runs."""

import contextlib
import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from processes import Running, alone, descendants, environment, run, wait_until_gone

pytest.importorskip("ray", reason="needs Ray: pip install 'dist_oaa[sweep]'")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SWEEP = {
    "base": {
        "stage": "classify",
        "settings": {
            "data": {"split": "trainval", "resize": "square", "size": 64, "workers": 0},
            "model": {"backbone": "test_efficientnet", "weights": "none", "head_channels": 16},
            "optim": {"batch_size": 6, "epochs": 3, "lr": 0.05},
            "accumulate": {"map_size": 16, "gate": "none", "start_epoch": 0},
            "store.shards": 6,
            "drop.where": "input",
            "evaluate": {"gallery": 0, "label_free": True},
            "runtime": {"device": "cpu", "timeout_s": 60, "log_every": 1},
        },
    },
    "space": {"drop.delta": {"grid": [0.1, 0.2]}},
    "ray.cpus": 2,
}


@pytest.fixture
def sweep(demo_data, tmp_path):
    """Makes the command of a sweep with some settings of its own."""

    def command(*more: str, **changes: object) -> list[str]:
        (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(SWEEP | changes))
        where = ["--data.root", str(demo_data), "--run_dir", str(tmp_path / "out")]
        return alone("tune", "--config", str(tmp_path / "sweep.yaml"), *where, *more)

    return command


def trials(out: Path) -> list[dict[str, str]]:
    """The lines of trials.csv."""
    with open(out / "trials.csv", newline="") as file:
        return list(csv.DictReader(file))


def using(out: Path) -> list[int]:
    """Process ids of all whose command line names a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if str(out).encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                found.append(int(path.parent.name))
    return found


def command_of(pid: int) -> str:
    """The command line of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
    except OSError:
        return ""


def parent_of(pid: int) -> int:
    """The process id of a process's parent."""
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def epochs_done(out: Path) -> int:
    """Epochs that all trials together have finished."""
    return sum(
        path.read_text().count('"closes_epoch": true')
        for path in out.glob("trials/*/metrics.jsonl")
    )


def test_trials_report_their_epochs_and_a_failing_one_ends_alone(sweep, tmp_path):
    # Half of the trials ask for a folder that is not there, which they find out by themselves.
    folders = {"grid": ["", "absent"]}
    space = {"optim.lr": {"grid": [0.01, 0.05]}, "evaluate.saliency_dir": folders}
    code, text = run(sweep(space=space), tmp_path / "log.txt", 300)
    assert code == 1, text
    assert re.search(r"saliency_dir '', lr 0\.01: epoch 1/3  cumulative/seed_miou \d", text), text
    assert len(re.findall(r"epoch 3/3", text)) == 2
    assert len(re.findall(r"failed: evaluate.saliency_dir .*absent is no folder", text)) >= 2
    assert "Traceback" not in text
    assert "ray" not in text.lower().replace("gray", "").replace(str(tmp_path).lower(), "")
    rows = trials(tmp_path / "out")
    assert sorted(row["state"] for row in rows) == ["failed", "failed", "finished", "finished"]
    done = [row for row in rows if row["state"] == "finished"]
    for row in done:
        lines = Path(row["folder"], "metrics.jsonl").read_text().splitlines()
        assert float(row["objective"]) == json.loads(lines[-1])["cumulative/seed_miou"]
        assert 0 < float(row["cumulative/colour"]) < 1
    assert done[0]["train/epoch_loss"] != done[1]["train/epoch_loss"]
    best = tmp_path / "out" / "best.yaml"
    assert "# objective: cumulative/seed_miou" in best.read_text()
    once = ["--optim.epochs", "1", "--run_dir", str(tmp_path / "again")]
    code, text = run(alone("classify", "--config", str(best), *once), tmp_path / "b.txt", 120)
    assert code == 0, text
    wait_until_gone(using(tmp_path / "out"), 5)


def test_halving_stops_trials_and_they_stay_stopped(sweep, tmp_path):
    space = {"optim.lr": {"grid": [0.05, 0.005, 0.001]}}
    base = json.loads(json.dumps(SWEEP["base"]))
    base["settings"]["optim"]["epochs"] = 4
    changes = {
        "space": space,
        "base": base,
        "scheduler": {"method": "asha", "grace_epochs": 1, "reduction": 2},
        # The seeds of so small a network need not differ.
        "objective": {"metric": "train/epoch_loss", "mode": "min"},
    }
    code, text = run(sweep(**changes), tmp_path / "log.txt", 300)
    assert code == 0, text
    rows = trials(tmp_path / "out")
    stopped = [row for row in rows if row["state"] == "stopped"]
    assert stopped, text
    assert any(row["state"] == "finished" for row in rows)
    assert all(int(row["epochs"]) < 4 for row in stopped)
    before = {row["folder"]: Path(row["folder"], "run.json").read_text() for row in stopped}
    code, text = run(sweep("--resume", **changes), tmp_path / "log2.txt", 300)
    assert code == 0, text
    assert "all trials are finished" in text
    assert {f: Path(f, "run.json").read_text() for f in before} == before


def test_killed_trials_and_a_killed_driver_leave_nothing_and_go_on(sweep, tmp_path):
    out = tmp_path / "out"
    base = json.loads(json.dumps(SWEEP["base"]))
    base["settings"]["optim"]["epochs"] = 12
    changes = {"base": base, "trial": {"workers": 2, "cpus_per_worker": 0.5}}
    started = Running(sweep(**changes), tmp_path / "log.txt")
    started.wait_until(lambda: len(list(out.glob("trials/*/checkpoints/latest.json"))) == 2, 120)
    # A trial's launcher is killed: its workers go with it, and the trial goes on.
    victim = next(iter(out.glob("trials/*0.1*")))
    launchers = [p for p in using(victim) if "torch.distributed.run" in command_of(p)]
    family = [*launchers, *descendants(launchers[0])]
    assert len(family) == 3
    os.kill(launchers[0], signal.SIGKILL)
    wait_until_gone(family, 5)
    started.wait_until(lambda: json.loads((victim / "run.json").read_text())["attempts"] == 2, 60)
    # Ray's own process of the other trial, as when its node is lost: the same.
    other = next(iter(out.glob("trials/*0.2*")))
    launchers = [p for p in using(other) if "torch.distributed.run" in command_of(p)]
    family = [*launchers, *descendants(launchers[0])]
    assert len(family) == 3
    os.kill(parent_of(launchers[0]), signal.SIGKILL)
    wait_until_gone(family, 5)
    started.wait_until(lambda: json.loads((other / "run.json").read_text())["attempts"] == 2, 60)
    # Now the driver, and nothing else: not the group, not the children.
    family = descendants(started.process.pid)
    assert len(family) > 6
    os.kill(started.process.pid, signal.SIGKILL)
    started.process.wait()
    wait_until_gone([*family, *using(out)], 5)
    before = epochs_done(out)
    assert before > 0
    code, text = run(sweep("--resume", **changes), tmp_path / "log2.txt", 300)
    assert code == 0, text
    assert {row["state"] for row in trials(out)} == {"finished"}
    attempts = [json.loads(p.read_text())["attempts"] for p in out.glob("trials/*/run.json")]
    assert attempts == [3, 3]
    for path in out.glob("trials/*/metrics.jsonl"):
        closed = [json.loads(x) for x in path.open() if "closes_epoch" in x]
        assert [entry["epoch"] for entry in closed] == list(range(12))
    wait_until_gone(using(out), 5)


def test_ctrl_c_ends_every_process_and_keeps_what_is_there(sweep, tmp_path):
    out = tmp_path / "out"
    base = json.loads(json.dumps(SWEEP["base"]))
    base["settings"]["optim"]["epochs"] = 200
    started = Running(sweep(base=base), tmp_path / "log.txt")
    started.wait_until(lambda: len(list(out.glob("trials/*/checkpoints/latest.json"))) == 2, 120)
    runs = [pid for pid in using(out) if pid != started.process.pid]
    assert len(runs) >= 2
    began = time.monotonic()
    # As a terminal does: to the whole group, Ray's processes among them.
    os.killpg(started.process.pid, signal.SIGINT)
    wait_until_gone(runs, 5)
    assert started.wait(60) == 75, started.text()
    assert time.monotonic() - began < 60
    text = started.text()
    assert "stopped by SIGINT; nothing that is finished is lost" in text
    assert "Traceback" not in text
    assert [row["state"] for row in trials(out)] == ["cut off", "cut off"]
    assert "holds an earlier sweep" in run(sweep(base=base), tmp_path / "l2.txt", 60)[1]


PIPELINE = {
    "stages": {
        "classify": {
            "settings": SWEEP["base"]["settings"] | {"optim": {"batch_size": 6, "epochs": 1}}
        },
        "labels": {"stage": "pseudo-label", "reads": {"maps": "classify"}},
    }
}


def test_a_search_tries_whole_pipelines_and_goes_on_with_new_points(sweep, tmp_path):
    (tmp_path / "pipe.yaml").write_text(yaml.safe_dump(PIPELINE))
    threshold = "labels.labels.background.threshold"
    changes = {
        "base": {"stage": "pipeline", "config": "pipe.yaml"},
        "space": {
            "labels.labels.background.method": "fixed",
            threshold: {"uniform": [0.1, 0.9]},
        },
        "search": {"method": "optuna", "samples": 2},
        "objective": {"metric": "labels/miou"},
        "seeds": [3],
    }
    code, text = run(sweep(**changes), tmp_path / "log.txt", 300)
    assert code == 0, text
    rows = trials(tmp_path / "out")
    assert [row["state"] for row in rows] == ["finished", "finished"]
    for row in rows:
        (labels,) = Path(row["folder"]).glob("labels-*/metrics.jsonl")
        assert float(row["objective"]) == json.loads(labels.read_text())["labels/miou"]
        assert 0.1 <= float(row[threshold]) <= 0.9
    changes["search"] = {"method": "optuna", "samples": 3}
    code, text = run(sweep("--resume", **changes), tmp_path / "log2.txt", 300)
    assert code == 0, text
    assert "1 trial to run" in text
    tried = {row[threshold] for row in trials(tmp_path / "out")}
    assert len(tried) == 3
    assert {row[threshold] for row in rows} < tried
    best = yaml.safe_load((tmp_path / "out" / "best.yaml").read_text())
    assert best["settings"]["seed"] == 3
    code, text = run(
        alone("pipeline", "--config", str(tmp_path / "out" / "best.yaml"), "--dry_run"),
        tmp_path / "log3.txt",
        60,
    )
    assert code == 0, text


CLUSTER = """
import sys, time
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
print(cluster.address, flush=True)
sys.stdin.read()
cluster.shutdown()
"""


def test_a_trial_runs_on_two_nodes_of_a_cluster(sweep, tmp_path):
    # Ray's sockets need short paths.
    cluster = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment() | {"RAY_USAGE_STATS_ENABLED": "0"},
        start_new_session=True,
        text=True,
    )
    family: list[int] = []
    try:
        address = cluster.stdout.readline().strip()
        assert re.match(r"[\d.]+:\d+", address)
        space = {"drop.delta": {"grid": [0.1, 0.6]}}
        where = ["--ray.address", address, "--trial.nodes", "2"]
        code, text = run(sweep(*where, space=space), tmp_path / "log.txt", 300)
        assert code == 0, text
        rows = trials(tmp_path / "out")
        assert [row["state"] for row in rows] == ["finished", "finished"]
        for row in rows:
            record = json.loads(Path(row["folder"], "run.json").read_text())
            assert record["workers"] == 2
            assert "--nnodes" in record["command"]
            # The second node's share of the output.
            assert Path(row["folder"], "log-node1.txt").exists()
            assert re.search(r"2 processes", Path(row["folder"], "log.txt").read_text())
        code, text = run(
            sweep(*where, "--trial.workers", "2", "--run_dir", str(tmp_path / "o2"), space=space),
            tmp_path / "l2.txt",
            60,
        )
        assert code == 2
        assert "2 workers asks for 2 CPU on each of 2 nodes, but the Ray cluster has 1 CPU" in text
    finally:
        family = descendants(cluster.pid)
        cluster.stdin.close()
        try:
            cluster.wait(30)
        finally:
            for pid in [*family, cluster.pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    wait_until_gone(using(tmp_path / "out"), 5)
