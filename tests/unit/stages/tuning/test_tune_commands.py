"""What starts a trial, where its nodes meet, and which GPUs it sees."""

import dataclasses
import socket

import pytest

from dist_oaa.stages.tuning.commands import Place, trial_command, variables
from dist_oaa.stages.tuning.sweep import plan_trial
from sweeps import a_sweep

POINT = {"drop.delta": 0.3, "drop.beta": 0.5}


def words(tmp_path, resume=False, place=None, **changes) -> str:
    """The command line of a trial."""
    sweep = dataclasses.replace(a_sweep(tmp_path)[0], **changes)
    return " ".join(trial_command(sweep, plan_trial(sweep, POINT, 0), resume, place))


def test_one_process_needs_no_launcher_and_several_get_torchrun(tmp_path):
    alone = words(tmp_path)
    assert "-m dist_oaa classify --seed 0" in alone
    assert "torch.distributed.run" not in alone
    assert "--drop.delta 0.3" in alone
    assert alone.endswith("--runtime.threads 1")
    pair = words(tmp_path, resume=True, workers=2, cpus_per_worker=3.0)
    assert "-m torch.distributed.run --nproc-per-node 2 --standalone -m dist_oaa classify" in pair
    assert pair.endswith("--runtime.threads 3 --resume true")


def test_the_nodes_of_a_trial_meet_at_one_place_that_one_of_them_holds(tmp_path):
    first, second = (
        words(tmp_path, place=Place(hosts, "node:20011"), nodes=2) for hosts in (True, False)
    )
    assert "--nnodes 2" in first
    assert "--rdzv-backend c10d --rdzv-endpoint node:20011" in first
    assert "is_host=true" in first
    assert first.replace("is_host=true", "is_host=false") == second


def test_a_trial_without_gpus_of_its_own_sees_none():
    assert variables(gpus=False)["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in variables(gpus=True)


def test_no_two_trials_are_given_a_port_and_none_that_is_in_use():
    pytest.importorskip("ray", reason="needs Ray: pip install 'dist_oaa[sweep]'")
    from dist_oaa.stages.tuning.nodes import reserve_port

    first, held = reserve_port()
    second, held_too = reserve_port()
    assert first != second
    held.close()
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("", first))
        listener.listen()
        third, held_three = reserve_port()
        assert third not in (first, second)
    for file in (held_too, held_three):
        file.close()
