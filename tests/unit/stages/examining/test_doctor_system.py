"""File handles, clocks that jump, and variables."""

import resource

import pytest

from dist_oaa.stages.examining import system


@pytest.mark.parametrize(
    ("soft", "state"),
    [(65536, "ok"), (1024, "ok"), (512, "warning"), (100, "problem"),
     (resource.RLIM_INFINITY, "ok")],
)  # fmt: skip
def test_file_handles(monkeypatch, soft, state):
    monkeypatch.setattr(system.resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))
    found = system.file_handles()
    assert (found.state, bool(found.advice)) == (state, state != "ok")


@pytest.mark.parametrize(
    ("hard", "word"),
    [(4096, "`ulimit -n 4096`"), (10**6, "`ulimit -n 65536`"), (300, "limits.conf")],
)
def test_as_many_handles_as_may_be_asked_for(monkeypatch, hard, word):
    monkeypatch.setattr(system.resource, "getrlimit", lambda _: (300, hard))
    assert word in system.file_handles().advice


def test_a_steady_clock():
    found = system.Clock().finding()
    assert found.state == "ok"
    assert abs(found.facts["drift_s"]) < 0.1


@pytest.mark.parametrize(("step_s", "word"), [(60, "forward by 60"), (-3, "back by 3")])
def test_a_clock_that_is_set(monkeypatch, step_s, word):
    clock, now = system.Clock(), system.time.time
    monkeypatch.setattr(system.time, "time", lambda: now() + step_s)
    found = clock.finding()
    assert found.state == "warning"
    assert word in found.found


def test_a_clock_in_the_past(monkeypatch):
    monkeypatch.setattr(system.time, "time", lambda: 86400.0)
    monkeypatch.setattr(system.time, "monotonic", lambda: 0.0)
    found = system.Clock().finding()
    assert (found.state, "1970" in found.found) == ("warning", True)


def states(has_gpu: bool = False, **variables: str) -> dict[str, str]:
    return {f.name: f.state for f in system.variables(variables, has_gpu)}


def test_only_what_matters_is_shown():
    assert states(HOME="/root", AWS_SECRET_KEY="x", TORCH_CPP_LOG_LEVEL="ERROR") == {
        "OMP_NUM_THREADS": "ok"
    }
    found = states(OMP_NUM_THREADS="4", NCCL_DEBUG="INFO", TORCH_HOME="/x", CUDA_VISIBLE_DEVICES="")
    assert found == dict.fromkeys(
        ("CUDA_VISIBLE_DEVICES", "NCCL_DEBUG", "OMP_NUM_THREADS", "TORCH_HOME"), "ok"
    )
    assert system.variables({"CUDA_VISIBLE_DEVICES": ""}, False)[0].found == "(empty)"


@pytest.mark.parametrize(
    ("name", "value", "with_gpu", "without"),
    [
        ("OMP_NUM_THREADS", "all", "warning", "warning"),
        ("OMP_NUM_THREADS", "0", "warning", "warning"),
        ("RANK", "0", "warning", "warning"),
        ("CUDA_LAUNCH_BLOCKING", "1", "warning", "ok"),
        ("CUDA_LAUNCH_BLOCKING", "0", "ok", "ok"),
        ("TORCH_DISTRIBUTED_DEBUG", "detail", "warning", "warning"),
        ("NCCL_P2P_DISABLE", "1", "warning", "ok"),
    ],
)
def test_variables_that_do_harm(name, value, with_gpu, without):
    assert states(True, **{name: value})[name] == with_gpu
    assert states(False, **{name: value})[name] == without
