"""The trials themselves: that they pass here, and that they notice what they are for."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dist_oaa.attention import reference
from dist_oaa.attention import update as entry
from dist_oaa.attention.bank import MapBank
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.lease import Lease
from dist_oaa.stages.examining import device_trials, pair, self_test, store_trial
from dist_oaa.stages.examining.asking import Answer, Ended


def test_a_shard_is_written_and_read_back_and_leaves_nothing(tmp_path):
    facts = store_trial.shard(str(tmp_path / "not" / "yet"), "trial")
    assert facts["equal"]
    assert 0 < facts["commit_s"] < 60
    assert list(tmp_path.iterdir()) == []


def test_other_content_is_noticed(tmp_path, monkeypatch):
    commits = store_trial._commits

    def altered(folder):
        times, written = commits(folder)
        written.maps_K2SS[-1, 1, -1, -1] ^= 1
        return times, written

    monkeypatch.setattr(store_trial, "_commits", altered)
    assert not store_trial.shard(str(tmp_path), "trial")["equal"]


def test_a_refusing_file_system_leaves_nothing(tmp_path, monkeypatch):
    def refuse(path):
        path.parent.mkdir()
        raise UserError("this file system has no file locks")

    monkeypatch.setattr(store_trial, "Lease", refuse)
    with pytest.raises(UserError, match="no file locks"):
        store_trial.shard(str(tmp_path), "trial")
    assert list(tmp_path.iterdir()) == []
    assert Lease(tmp_path / "a" / "lock").release() is None


@pytest.mark.parametrize("path", ["vectorised", "fused", "triton"])
def test_paths_agree_with_the_reference(path):
    assert device_trials.difference(path, "cpu") == ""


def test_the_steps_open_and_shut_gates_and_move_maps():
    bank = MapBank.empty(6, 41, torch.uint8)
    seen = device_trials.observations()
    accepted = [reference.update(bank, s, device_trials.RULES[0]).accepted_P for s in seen]
    assert any(a.any() and not a.all() for a in accepted)
    assert bank.maps_RSS.any()


def test_a_wrong_path_is_noticed(monkeypatch):
    def wrong(bank, seen, rules):
        outcome = reference.update(bank, replace(seen, cam_BCHW=seen.cam_BCHW.clone()), rules)
        bank.maps_RSS[0, 0, 0] += 1
        return outcome

    monkeypatch.setitem(entry.PATHS, "vectorised", wrong)
    assert device_trials.difference("vectorised", "cpu").endswith(
        "values differ from the reference"
    )

    def dies(*_):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setitem(entry.PATHS, "vectorised", dies)
    assert device_trials.difference("vectorised", "cpu") == (
        "RuntimeError: no kernel image is available"
    )


def test_the_network_trains_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    found = device_trials.network()
    assert found["cpu"]["fits"]
    assert found["cpu"]["error"] < 1e-3
    random_before = torch.get_rng_state()
    device_trials.gradients("cpu", torch.float32)
    assert torch.equal(torch.get_rng_state(), random_before)


def test_a_device_that_computes_nonsense_or_fails(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    true = device_trials.gradients

    def broken(device, dtype):
        if device == "cuda:1":
            raise RuntimeError("CUDA error: an illegal memory access")
        return [1.1 * gradient for gradient in true("cpu", dtype)] if device != "cpu" else true(
            device, dtype
        )  # fmt: skip

    monkeypatch.setattr(device_trials, "gradients", broken)
    found = device_trials.network()
    assert not found["cuda:0"]["fits"]
    judged = self_test.judge_network(Answer(found))
    assert judged.state == "problem"
    assert "cuda:0: gradients are off by 0.1; " not in judged.found
    assert "gradients are off by 0.1" in judged.found
    assert "illegal memory access" in judged.found


def test_nan_gradients_do_not_fit(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    true = device_trials.gradients
    monkeypatch.setattr(
        device_trials,
        "gradients",
        lambda device, dtype: [
            g * (torch.nan if device != "cpu" else 1) for g in true("cpu", dtype)
        ],
    )
    found = device_trials.network()
    assert self_test.judge_network(Answer(found)).state == "problem"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (Answer({"equal": True, "commit_s": 0.02, "rows": 8}, seconds=1), "ok"),
        (Answer({"equal": True, "commit_s": 3.0, "rows": 8}, seconds=9), "warning"),
        (Answer({"equal": False, "commit_s": 0.02, "rows": 8}), "problem"),
        (Answer(error="killed by SIGBUS"), "problem"),
    ],
)
def test_judging_the_store(answer, state):
    found = self_test.judge_store(answer)
    assert found.state == state
    assert ("store.local_dir" in found.advice) == (state != "ok")


@pytest.mark.parametrize(
    ("answer", "state", "word"),
    [
        (Answer({"vectorised": "", "C++": ""}), "ok", "vectorised; C++"),
        (Answer({"vectorised": "", "C++": "3 values differ"}), "problem", "C++: 3 values differ"),
        (Answer(error="killed by SIGILL"), "problem", "SIGILL"),
    ],
)
def test_judging_the_accumulation(answer, state, word):
    found = self_test.judge_accumulation(answer)
    assert found.state == state
    assert word in found.found


def test_a_trial_that_is_killed_leaves_no_folder(tmp_path, monkeypatch):
    def killed(questions, _limit_s):
        (_, place, name) = questions[0]
        (Path(place) / name / "shard").mkdir(parents=True)
        return [Answer(error=f"killed by {signal.Signals(9).name}")]

    monkeypatch.setattr(self_test, "ask", killed)
    assert self_test.store(tmp_path).state == "problem"
    assert list(tmp_path.iterdir()) == []


def line(total: float) -> str:
    return json.dumps({"sum": total, "seconds": 0.1}) + "\n"


def test_judging_two_processes():
    assert pair._judge([Ended(line(3), ""), Ended(line(3), "")]).error == ""
    assert pair._judge([Ended(line(3), ""), Ended(line(2), "")]).error.endswith("was 2")
    assert pair._judge([Ended(line(3), ""), Ended("", "exit code 1: x")]).error == (
        "rank 1: exit code 1: x"
    )
    assert pair._judge([Ended(line(3), "no answer within 9 s"), Ended(line(3), "")]).error


def test_where_gloo_fails_the_loopback_is_tried(monkeypatch):
    tried = []

    def only_loopback(_limit_s, interface=""):
        tried.append(interface)
        return Answer(seconds=0.1) if interface else Answer(error="rank 0: timed out")

    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    monkeypatch.setattr(self_test, "try_pair", only_loopback)
    found = self_test.two_processes()
    assert tried == ["", "lo"]
    assert found.state == "problem"
    assert "GLOO_SOCKET_IFNAME=lo" in found.advice
    monkeypatch.setattr(self_test, "try_pair", lambda *_: Answer(error="rank 0: timed out"))
    assert "GLOO" not in self_test.two_processes().advice


@pytest.mark.slow
def test_two_real_processes(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    handles = len(os.listdir("/proc/self/fd"))
    assert pair.try_pair(100).error == ""
    assert "Unable to find address" in pair.try_pair(100, "nix0").error
    assert pair.try_pair(0.2).error == "rank 0: no answer within 0 s"
    assert len(os.listdir("/proc/self/fd")) == handles
