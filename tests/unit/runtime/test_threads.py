"""How many threads a rank's arithmetic takes where no setting says so."""

import os

import pytest
import torch

from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.distributed import arithmetic_threads, open_world, threads_per_rank


@pytest.fixture
def six_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, 6),
        ({"OMP_NUM_THREADS": "2"}, 2),
        ({"OMP_NUM_THREADS": "9"}, 9),
        # torchrun of one rank leaves the variable alone.
        ({"OMP_NUM_THREADS": "2", "LOCAL_WORLD_SIZE": "1"}, 2),
        # Of several it sets 1, which nobody has asked for.
        ({"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": "3"}, 2),
        ({"LOCAL_WORLD_SIZE": "4"}, 1),
        ({"LOCAL_WORLD_SIZE": "12"}, 1),
        ({"OMP_NUM_THREADS": "0"}, 6),
        ({"OMP_NUM_THREADS": "many"}, 6),
        ({"OMP_NUM_THREADS": "4,2"}, 6),
    ],
)
def test_cores_are_shared_unless_somebody_asks(six_cores, variables, threads):
    for name, value in variables.items():
        six_cores.setenv(name, value)
    assert arithmetic_threads() == threads


def test_the_cores_themselves_do_not_depend_on_what_is_asked(six_cores):
    six_cores.setenv("OMP_NUM_THREADS", "1")
    assert threads_per_rank() == 6


@pytest.mark.parametrize(("setting", "threads"), [(0, 2), (3, 3)])
def test_a_setting_outweighs_the_environment(six_cores, setting, threads):
    six_cores.setenv("OMP_NUM_THREADS", "2")
    before = torch.get_num_threads()
    try:
        with open_world(RuntimeConfig(device="cpu", threads=setting)):
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
