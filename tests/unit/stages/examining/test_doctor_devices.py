"""Processors with a quota, little memory, GPUs of every condition."""

import os

import pytest

from dist_oaa.stages.examining import devices, kernels
from dist_oaa.stages.examining.asking import Answer
from dist_oaa.stages.examining.torch_facts import nvidia_cards

GPU = {"name": "H100", "capability": [9, 0], "memory": 80 << 30, "free": 79 << 30}


def cuda(**changes) -> Answer:
    facts = {
        "built": "13.0", "available": False, "compiled_for": ["sm_80", "sm_90"], "gpus": [],
        "driver": "", "in_machine": 0, "said": [],
    }  # fmt: skip
    return Answer(facts | changes)


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_the_processor_is_this_one():
    found = devices.processor()
    assert found.facts["cores"] == len(os.sched_getaffinity(0))


def test_a_quota_below_the_cores(monkeypatch):
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.setattr(devices, "cores_limit", lambda _: 2.5)
    found = devices.processor()
    assert found.state == "warning"
    assert "runtime.threads to 2 " in found.advice
    monkeypatch.setattr(devices, "cores_limit", lambda _: 60.0)
    assert devices.processor().state == "ok"


def test_memory_and_its_limit(tmp_path, monkeypatch):
    (tmp_path / "proc").mkdir()
    lines = "MemTotal:       33554432 kB\nMemAvailable:   16777216 kB\nHugePages_Total: 0\n"
    (tmp_path / "proc/meminfo").write_text(lines)
    assert devices.memory(tmp_path).found == "32.0 GiB; 16.0 GiB free"
    monkeypatch.setattr(devices, "memory_limit", lambda _: 1 << 30)
    found = devices.memory(tmp_path)
    assert found.state == "warning"
    assert "limited to 1.0 GiB" in found.found
    assert devices.memory(tmp_path / "elsewhere").state == "ok"


def test_no_gpu_is_no_fault():
    (found,) = devices.gpus(cuda())
    assert found.state == "ok"
    assert "built for CUDA 13.0, but no driver answers" in found.found
    assert devices.gpus(cuda(built=None))[0].state == "ok"


@pytest.mark.parametrize(
    ("changes", "variable", "word"),
    [
        ({"in_machine": 2}, None, "--gpus all"),
        ({"driver": "550.1", "said": ["driver is too old"]}, None, "NVIDIA's driver"),
        ({"in_machine": 1, "built": None}, None, "built for CUDA"),
        ({"in_machine": 1}, "", "Unset CUDA_VISIBLE_DEVICES"),
        ({"in_machine": 1}, "-1", "Unset CUDA_VISIBLE_DEVICES"),
    ],
)
def test_a_gpu_that_is_not_used(monkeypatch, changes, variable, word):
    if variable is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", variable)
    (found,) = devices.gpus(cuda(**changes))
    assert found.state == "warning"
    assert word in found.advice
    assert all(sentence in found.found for sentence in changes.get("said", []))


def test_gpus_each_for_itself():
    cards = [GPU, GPU | {"capability": [6, 1]}, GPU | {"free": 1 << 30}]
    found = devices.gpus(cuda(available=True, gpus=cards, driver="580.1"))
    assert [f.state for f in found] == ["ok", "ok", "problem", "warning"]
    assert "580.1" in found[0].found
    assert "9.0, 80.0 GiB, 79.0 GiB free" in found[1].found
    assert "sm_80, sm_90" in found[2].advice


def test_torch_warns_of_a_gpu():
    found = devices.gpus(cuda(available=True, gpus=[GPU], said=["not compatible"]))
    assert found[0].state == "warning"


def test_torch_dies_of_the_driver():
    (found,) = devices.gpus(Answer(error="killed by SIGSEGV"))
    assert (found.state, "SIGSEGV" in found.found) == ("problem", True)


@pytest.mark.parametrize(
    ("compiled_for", "capability", "expected"),
    [
        (["sm_80"], (8, 0), True),
        (["sm_80"], (8, 9), True),  # binary code runs on later minor versions
        (["sm_86"], (8, 0), False),
        (["sm_80"], (9, 0), False),
        (["sm_80", "compute_80"], (9, 0), True),  # compiled by the driver
        (["compute_90"], (8, 6), False),
        (["sm_120"], (12, 0), True),
        (["sm_75", "sm_100"], (10, 3), True),
        (["gfx90a"], (9, 0), True),
        ([], (9, 0), True),
    ],
)
def test_which_gpus_a_torch_has_code_for(compiled_for, capability, expected):
    assert devices.can_run(compiled_for, *capability) is expected


def test_cards_on_the_bus(tmp_path):
    for name, vendor, kind in (
        ("a", "0x10de", "0x030200"),
        ("b", "0x10de", "0x030000"),
        ("c", "0x10de", "0x040300"),  # its sound
        ("d", "0x1002", "0x030000"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "e").mkdir()
    assert nvidia_cards(tmp_path) == 2
    assert nvidia_cards(tmp_path / "none") == 0


def triton(**changes) -> Answer:
    facts = {"interpreted": False, "c_compiler": "gcc", "target": "sm_90", "error": ""}
    return Answer(facts | changes)


@pytest.mark.parametrize(
    ("answer", "with_gpu", "without"),
    [
        (triton(), "ok", "ok"),
        (triton(interpreted=True), "warning", "ok"),
        (triton(c_compiler=""), "problem", "ok"),
        (triton(error="PermissionError: ~/.triton"), "problem", "warning"),
        (Answer(error="ModuleNotFoundError"), "problem", "ok"),
    ],
)
def test_triton(answer, with_gpu, without):
    for has_gpu, state in ((True, with_gpu), (False, without)):
        found = kernels.triton(answer, has_gpu)
        assert found.state == state
        assert bool(found.advice) == (state != "ok")


def test_the_native_update():
    assert kernels.native(Answer("")).state == "ok"
    found = kernels.native(Answer("was not built: a C++ compiler was missing"))
    assert (found.state, "PyTorch is used" in found.found) == ("warning", True)
    assert kernels.native(Answer(error="killed by SIGILL")).state == "warning"
