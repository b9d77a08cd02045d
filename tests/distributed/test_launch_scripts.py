"""The launch scripts, with real rendezvous on this machine and a stand-in for Slurm's commands."""

import json
import os
import re
import signal
import socket
import sys
from pathlib import Path

import pytest

from processes import REPOSITORY, Running
from runs import assert_same_run, maps_of, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def steps_logged(run_dir: Path) -> int:
    path = run_dir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return max((json.loads(x)["step"] for x in lines if x.endswith("}")), default=0)


def test_two_nodes_meet_and_equal_one_node_of_two(demo_data, tmp_path):
    script = str(REPOSITORY / "launch" / "multinode.sh")
    variables = {"NODES": "2", "HEAD": "127.0.0.1", "PORT": free_port(), "PROCESSES": "1"}
    # One thread each: sums over more threads differ in the last bits.
    short = {"optim.epochs": 1, "runtime.threads": 1}
    arguments = settings(demo_data, tmp_path / "two", **short)
    nodes = [Running([script, *arguments], tmp_path / f"node{n}.log", **variables) for n in (0, 1)]
    codes = [node.wait(120) for node in nodes]
    text = "".join(node.text() for node in nodes)
    assert codes == [0, 0], text
    assert text.count("2 processes on cpu") == 1, text

    one = str(REPOSITORY / "launch" / "torchrun.sh")
    arguments = settings(demo_data, tmp_path / "one", **short)
    node = Running([one, *arguments], tmp_path / "one.log", PROCESSES="2")
    assert node.wait(120) == 0, node.text()
    assert_same_run(tmp_path / "one", tmp_path / "two")


def test_one_node_starts_a_killed_rank_again_by_itself(demo_data, tmp_path):
    """A rank dies; nobody types --resume; every step is logged once."""
    run_dir = tmp_path / "run"
    script = str(REPOSITORY / "launch" / "torchrun.sh")
    changes = {"optim.epochs": 3, "checkpoint.every_steps": 2, "runtime.quiet_s": 3}
    variables = {"PROCESSES": "2", "MAX_RESTARTS": "2"}
    strike = f"loop.step.after=kill,rank=1,hit=6,once={tmp_path / 'struck'}"
    command = [script, *settings(demo_data, run_dir, **changes)]
    node = Running(command, tmp_path / "log", OAA_FAULT=strike, **variables)
    assert node.wait(150) == 0, node.text()
    host = socket.gethostname()
    named = f"rank 0 ({host}) lost contact: rank 1 ({host}) gives no sign of life"
    assert f"oaa: error: {named}; it is started again" in node.text()
    # The checkpoint of step 4 may still be on its way when the rank dies.
    assert re.search(r"resuming after [24] steps", node.text()), node.text()
    assert steps_logged(run_dir) == 12
    again = Running(command, tmp_path / "again.log", **variables | {"MAX_RESTARTS": "0"})
    assert again.wait(60) != 0, "another launch is a first start"
    assert "holds an earlier run; continue it with --resume" in again.text()


@pytest.fixture
def slurm(tmp_path) -> dict[str, str]:
    """srun runs the command here; scontrol names this host and notes what is queued again."""
    bin_ = tmp_path / "bin"
    bin_.mkdir()
    (bin_ / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (bin_ / "scontrol").write_text(
        f'#!/bin/bash\n[[ $1 == show ]] && echo 127.0.0.1 || echo "$@" >> {tmp_path / "requeued"}\n'
    )
    for script in bin_.iterdir():
        script.chmod(0o755)
    return {
        "PATH": f"{bin_}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "SLURM_NNODES": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node[0]",
        "SLURM_GPUS_ON_NODE": "2",
        "PORT": free_port(),
    }


def test_a_preempted_slurm_job_queues_itself_and_goes_on(demo_data, slurm, tmp_path):
    run_dir = tmp_path / "run"
    script = str(REPOSITORY / "launch" / "slurm.sbatch")
    command = ["bash", script, *settings(demo_data, run_dir, **{"optim.epochs": 4})]
    first = Running(command, tmp_path / "first.log", **slurm)
    first.wait_until(lambda: steps_logged(run_dir) >= 3, 100)
    os.kill(first.process.pid, signal.SIGUSR1)
    assert first.wait(60) == 0, first.text()
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert "a checkpoint was written" in first.text()
    second = Running(command, tmp_path / "second.log", **slurm)
    assert second.wait(120) == 0, second.text()
    assert "resuming after" in second.text()
    assert len(maps_of(run_dir)) > 24
