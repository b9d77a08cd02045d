"""The update as a PyTorch operator: its registration, and the same bits inside torch.compile."""

import pytest
import torch

from cases import assert_same_bits, copy_bank, single
from dist_oaa.attention import fused, native, reference, vectorised
from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Outcome, Pairs, Rules
from dist_oaa.attention.gates import GATES
from dist_oaa.attention.update import update
from kernel_steps import random_steps


def operands(bank: MapBank, seen: Observation, rules: Rules) -> tuple:
    """What the operator takes, in its order."""
    pairs = seen.pairs
    return (
        bank.grid_R2Q, bank.accepted_R, bank.fallback_R, bank.dirty_R,
        seen.cam_BCHW, seen.logits_BC, seen.labels_BC, seen.geometry_B23, seen.cells_B2,
        pairs.image_P, pairs.class_P, pairs.row_P,
        bank.map_size, rules.gate, rules.tau, rules.fusion, rules.fallback,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [
        (Rules(), "uint8"),
        (Rules("topk", fallback=True), "float16"),
        (Rules("prob", 0.4, "average"), "float32"),
        (Rules("none", 0.5, "average", True), "uint8"),
    ],
)
def test_the_operator_is_registered_as_it_behaves(rule, dtype):
    """Schema, autograd key, shapes without data, and tracing with static and dynamic shapes."""
    bank = MapBank.empty(5, 6, DTYPES[dtype])
    (seen,) = random_steps((4, 5), ["crop"], classes=3)
    torch.library.opcheck(torch.ops.oaa.accumulate, operands(bank, seen, rule))


@pytest.mark.parametrize("gate", sorted(GATES))
@pytest.mark.parametrize("fusion", ["max", "average"])
def test_the_operator_is_the_update(gate, fusion):
    plain = MapBank.empty(5, 9, torch.float32)
    called = copy_bank(plain)
    rule = Rules(gate, 0.4, fusion, fallback=True)
    for seen in random_steps((7, 5), classes=4):
        expected = reference.update(plain, seen, rule)
        flags_3P = torch.ops.oaa.accumulate(*operands(called, seen, rule))
        assert torch.equal(flags_3P, expected.flags_3P)
        assert_same_bits(called, plain)


@pytest.mark.parametrize("built", [True, False])
def test_a_gate_of_ones_own_and_a_missing_library_take_the_plain_path(monkeypatch, built):
    ways = []

    def way(name: str):
        return lambda bank, seen, rules: ways.append(name) or Outcome(torch.zeros(3, 1))

    monkeypatch.setattr(native, "problem", lambda: None if built else "it was not built")
    monkeypatch.setattr(native, "update", way("native"))
    monkeypatch.setattr(vectorised, "update", way("vectorised"))
    monkeypatch.setitem(GATES, "odd", lambda logits_BC, labels_BC, tau: labels_BC > 0)
    for rule in (Rules(), Rules("odd"), Rules(fusion="odd")):
        fused.update(MapBank.empty(1, 3, torch.uint8), single(torch.ones(2, 2)), rule)
    assert ways == ["native" if built else "vectorised", "vectorised", "vectorised"]


def training_step(weight, bank, seen, rules) -> tuple[torch.Tensor, torch.Tensor]:
    """Features that a gradient flows through, accumulated on the way."""
    cam_BCHW = seen.cam_BCHW.nan_to_num(0) * weight
    looked = Observation(
        cam_BCHW, seen.logits_BC, seen.labels_BC, seen.geometry_B23, seen.cells_B2, seen.pairs
    )
    flags_3P = update(bank, looked, rules).flags_3P
    return flags_3P, (cam_BCHW**2).mean() + bank.accepted_R.sum()


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_compiled_steps_give_the_same_bits(backend, dtype):
    torch.compiler.reset()
    compiled = torch.compile(training_step, fullgraph=True, backend=backend)
    plain = MapBank.empty(5, 9, DTYPES[dtype])
    fast = copy_bank(plain)
    weights = [torch.tensor(1.5, requires_grad=True) for _ in range(2)]
    rules = [Rules(), Rules("topk", fallback=True), Rules("none", fusion="average")]
    steps = random_steps((7, 5), ["identity", "crop", "rotation"], classes=4)
    for seen, rule in zip(steps, rules, strict=True):
        flags_3P, loss = training_step(weights[0], plain, seen, rule)
        compiled_flags_3P, compiled_loss = compiled(weights[1], fast, seen, rule)
        loss.backward()
        compiled_loss.backward()
        assert torch.equal(compiled_flags_3P, flags_3P)
        assert_same_bits(fast, plain)
    assert plain.accepted_R.sum() >= 3
    torch.testing.assert_close(weights[1].grad, weights[0].grad)
    torch.compiler.reset()


def test_compiled_steps_without_pairs_change_nothing():
    torch.compiler.reset()
    seen = single(torch.ones(3, 3))
    seen.pairs = Pairs(*(torch.zeros(0, dtype=torch.long) for _ in range(3)))
    bank = MapBank.empty(2, 4, torch.uint8)
    compiled = torch.compile(update, fullgraph=True, backend="aot_eager")
    assert compiled(bank, seen, Rules()).flags_3P.shape == (3, 0)
    assert_same_bits(bank, MapBank.empty(2, 4, torch.uint8))
    torch.compiler.reset()
