"""What a trial asks for, and whether any node could give it."""

import sys

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.config.tune import TrialConfig
from dist_oaa.stages.tuning.driver import connected
from dist_oaa.stages.tuning.resources import refuse_impossible


def fits(there: list[dict], **trial: object) -> int:
    """Trials that fit at once."""
    return refuse_impossible(TrialConfig(**trial), there, "this machine")


def test_as_many_trials_as_the_nodes_hold():
    assert fits([{"CPU": 2}]) == 2
    assert fits([{"CPU": 8}, {"CPU": 5}], workers=2) == 4 + 2
    assert fits([{"CPU": 64, "GPU": 4}], gpus_per_worker=0.5) == 8
    assert fits([{"CPU": 64, "GPU": 4}], workers=2, gpus_per_worker=1) == 2
    assert fits([{"CPU": 2}] * 4, workers=2, nodes=2) == 2


@pytest.mark.parametrize(
    ("there", "trial", "message"),
    [
        ([{"CPU": 2}], {"workers": 3}, "3 workers asks for 3 CPU, but this machine has 2 CPU;"),
        (
            [{"CPU": 8}],
            {"gpus_per_worker": 1},
            "1 worker asks for 1 CPU and 1 GPU, but this machine has 8 CPU and 0 GPU",
        ),
        (
            [{"CPU": 4}, {"CPU": 1}],
            {"workers": 2, "nodes": 2},
            "2 CPU on each of 2 nodes, but only 1 of the 2 nodes of this machine could give that",
        ),
        (
            [{"CPU": 1}, {"CPU": 2}],
            {"workers": 3},
            "but this machine has 2 CPU on its largest node",
        ),
    ],
)
def test_what_no_node_could_ever_give_is_refused(there, trial, message):
    with pytest.raises(UserError, match=message):
        fits(there, **trial)


def test_a_machine_without_ray_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"oaa tune needs ray: pip install 'dist_oaa\[sweep\]'"):
        connected({}, "local").__enter__()


def test_a_gpu_is_shared_by_trials_of_one_process_only():
    with pytest.raises(ValueError, match="a fraction where"):
        TrialConfig(workers=2, gpus_per_worker=0.5)
