"""The scores that a gate compares: of single labels, `prob` means the softmax."""

import math
from types import SimpleNamespace

import pytest
import torch

from dist_oaa.attention.batch import Observation, Pairs
from dist_oaa.attention.gates import GATES
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.model import ModelConfig
from dist_oaa.stages.classifying.stage import ClassifyStage

# Under the softmax 1/8, 2/8 and 5/8; under the sigmoid 1/2, 2/3 and 5/6.
LOGITS = torch.tensor([[0.0, math.log(2), math.log(5)]])


def accepted(kind: str, gate: str, tau: float, logits_BC=LOGITS) -> list[bool]:
    """What the gate says of the classes, as the stage asks it."""
    stage = SimpleNamespace(config=ClassifyConfig(model=ModelConfig(labels=kind)))
    none = torch.zeros(0, dtype=torch.int64)
    labels_BC = torch.ones_like(logits_BC)
    seen = Observation(None, logits_BC, labels_BC, None, None, Pairs(none, none, none))
    scored = ClassifyStage._scored(stage, seen, gate)
    return GATES[gate](scored.logits_BC, labels_BC, tau)[0].tolist()


@pytest.mark.parametrize(
    ("kind", "tau", "expected"),
    [
        ("single", 0.2, [False, True, True]),
        ("single", 0.3, [False, False, True]),
        ("single", 0.7, [False, False, False]),
        ("single", 0.0, [True, True, True]),
        ("multi", 0.6, [False, True, True]),
        ("multi", 0.7, [False, False, True]),
    ],
)
def test_the_probability_that_the_gate_asks_for(kind, tau, expected):
    assert accepted(kind, "prob", tau) == expected


def test_a_sure_class_passes_any_gate():
    sure = torch.tensor([[500.0, 0.0, -500.0]])
    assert accepted("single", "prob", 1.0, sure) == [True, False, False]


@pytest.mark.parametrize("gate", ["strict", "topk", "none", "contest"])
def test_other_gates_compare_the_logits_themselves(gate):
    """Two sure classes whose softmax rounds to the same are still told apart."""
    stage = SimpleNamespace(config=ClassifyConfig(model=ModelConfig(labels="single")))
    none = torch.zeros(0, dtype=torch.int64)
    seen = Observation(None, LOGITS, None, None, None, Pairs(none, none, none))
    assert ClassifyStage._scored(stage, seen, gate) is seen
