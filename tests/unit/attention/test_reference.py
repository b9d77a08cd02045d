"""The readable update against plain Python loops and against maps worked out by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import cases, single
from dist_oaa.attention import reference
from dist_oaa.attention.bank import DTYPES, MapBank, full_scale
from dist_oaa.attention.batch import Rules
from oracle import OracleRow, gate_accepts, update_row

TOLERANCE = {"uint8": 1 / 255 + 1e-9, "float16": 1e-3, "float32": 1e-5}


def run_oracle(case, rules: Rules, dtype: str) -> tuple[list[OracleRow], list[list[str]]]:
    rows = [OracleRow(case.map_size) for _ in range(case.rows)]
    outcomes = []
    for seen in case.steps:
        pairs, outcome = seen.pairs, []
        for k in range(len(pairs)):
            b, c = int(pairs.image_P[k]), int(pairs.class_P[k])
            height, width = seen.cells_B2[b].tolist()
            feature = [line[:width] for line in seen.cam_BCHW[b, c].tolist()[:height]]
            passed = gate_accepts(
                rules.gate, seen.logits_BC[b].tolist(), seen.labels_BC[b].tolist(), c, rules.tau
            )
            outcome.append(
                update_row(
                    rows[int(pairs.row_P[k])],
                    feature,
                    seen.geometry_B23[b].tolist(),
                    passed,
                    rules.fusion,
                    rules.fallback,
                    dtype == "uint8",
                )
            )
        outcomes.append(outcome)
    return rows, outcomes


def assert_close_to_oracle(bank: MapBank, rows: list[OracleRow], dtype: str) -> None:
    scale = full_scale(bank.maps_RSS.dtype)
    for number, row in enumerate(rows):
        decided = torch.ones(bank.map_size, bank.map_size, dtype=torch.bool)
        for cell in row.undecided:
            decided[cell] = False
        for stored, expected in ((bank.maps_RSS, row.map), (bank.last_RSS, row.last)):
            exact = torch.tensor(expected, dtype=torch.float64)
            distance = (stored[number].double() / scale - exact).abs()
            assert (distance[decided] <= TOLERANCE[dtype]).all(), (number, distance.max())
        assert int(bank.accepted_R[number]) == row.accepted
        assert bool(bank.fallback_R[number]) == row.fallback
        assert bool(bank.dirty_R[number]) == row.dirty


@settings(max_examples=60, deadline=None)
@given(
    case=cases(map_sizes=(1, 2, 5, 8), most_steps=3, shapes=((1, 1), (7, 1), (5, 5), (9, 13))),
    gate=st.sampled_from(["strict", "topk", "prob", "none"]),
    how=st.sampled_from(
        [("max", "uint8"), ("max", "float16"), ("max", "float32"), ("average", "float32")]
    ),
    fallback=st.booleans(),
)
def test_reference_agrees_with_plain_loops(case, gate, how, fallback):
    fusion, dtype = how
    rules = Rules(gate, 0.5, fusion, fallback)
    bank = case.bank(dtype)
    outcomes = [reference.update(bank, seen, rules) for seen in case.steps]
    rows, expected = run_oracle(case, rules, dtype)
    assert_close_to_oracle(bank, rows, dtype)
    for outcome, kinds in zip(outcomes, expected, strict=True):
        assert outcome.accepted_P.tolist() == [k == "accepted" for k in kinds]
        assert outcome.fallback_P.tolist() == [k == "fallback" for k in kinds]
        assert outcome.broken_P.tolist() == [k == "broken" for k in kinds]


@settings(max_examples=4, deadline=None)
@given(case=cases(map_sizes=(41,), most_steps=2, shapes=((28, 37), (41, 41))))
def test_reference_agrees_with_plain_loops_at_real_sizes(case):
    rules = Rules("none", 0.5, "max", False)
    bank = case.bank("uint8")
    for seen in case.steps:
        reference.update(bank, seen, rules)
    assert_close_to_oracle(bank, run_oracle(case, rules, "uint8")[0], "uint8")


def test_two_by_two_by_hand():
    """A 2 x 2 feature on a 4 x 4 map: cell centres fall a quarter of a feature cell apart."""
    bank = MapBank.empty(1, 4, torch.float32)
    reference.update(bank, single([[0.0, 4.0], [-3.0, 2.0]]), Rules())
    # A = [[0, 1], [0, .5]]; weights of the right column and of the lower row: 0, 1/4, 3/4, 1.
    w = [0.0, 0.25, 0.75, 1.0]
    expected = [[right * (1 - 0.5 * lower) for right in w] for lower in w]
    assert bank.maps_RSS[0].tolist() == expected


def test_uint8_is_255_times_the_attention_rounded():
    bank = MapBank.empty(1, 2, torch.uint8)
    reference.update(bank, single([[510.0, 1.0], [2.0, 3.1]]), Rules())
    # 255 / 510 = 1/2: the values 255, .5 (ties to even), 1 and 1.55
    assert bank.maps_RSS[0].tolist() == [[255, 0], [1, 2]]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("peak", [0.0, -1.0, 1e-42])
def test_without_a_usable_maximum_the_attention_is_zero_but_counts(dtype, peak):
    bank = MapBank.empty(1, 3, DTYPES[dtype])
    outcome = reference.update(bank, single([[peak, -2.0]]), Rules())
    assert outcome.accepted_P.tolist() == [True]
    assert bank.maps_RSS.eq(0).all()
    assert bank.accepted_R.tolist() == [1]


def test_quantise_rounds_to_the_nearest_even():
    values = torch.tensor([0.5, 1.5, 2.5, 254.49, 254.51])
    assert reference.quantise(values, torch.uint8).tolist() == [0, 2, 2, 254, 255]
    assert torch.equal(reference.quantise(values, torch.float32), values)
