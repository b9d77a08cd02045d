"""The C++ update against the readable one, to the last bit, for every instruction set it has."""

import dataclasses
import functools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import RULES, assert_like_reference, assert_same_bits, cases, single
from dist_oaa.attention import fused, native, reference
from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Rules
from kernel_steps import cast

pytestmark = pytest.mark.skipif(
    native.problem() is not None, reason=f"no C++ update: {native.problem()}"
)
levels = pytest.mark.parametrize("level", sorted(native.LEVELS))


def assert_agrees(bank: MapBank, steps: list[Observation], rule: Rules, level: str) -> MapBank:
    return assert_like_reference(functools.partial(native.update, level=level), bank, steps, rule)


@levels
@settings(max_examples=120, deadline=None)
@given(case=cases(), rule=RULES, dtype=st.sampled_from(sorted(DTYPES)))
def test_every_case_agrees(level, case, rule, dtype):
    assert_agrees(case.bank(dtype), case.steps, rule, level)


@levels
@settings(max_examples=25, deadline=None)
@given(
    # More than 16, 32, 48 and 64 columns: each takes another way through the vector registers.
    case=cases(
        map_sizes=(41, 64, 7),
        most_steps=2,
        shapes=((3, 17), (28, 37), (2, 33), (2, 50), (3, 64), (2, 65), (2, 130), (41, 41)),
    ),
    rule=RULES,
    dtype=st.sampled_from(sorted(DTYPES)),
)
def test_wide_features_and_large_maps_agree(level, case, rule, dtype):
    assert_agrees(case.bank(dtype), case.steps, rule, level)


@levels
@settings(max_examples=40, deadline=None)
@given(
    case=cases(most_steps=2),
    kind=st.sampled_from([torch.float16, torch.bfloat16, torch.float64]),
    channels_last=st.booleans(),
    rule=RULES,
)
def test_any_float_type_and_stride_agrees(level, case, kind, channels_last, rule):
    steps = [cast(step, kind, channels_last) for step in case.steps]
    assert_agrees(case.bank("uint8"), steps, rule, level)


@levels
@pytest.mark.parametrize("gate", ["strict", "topk"])
def test_a_thousand_classes(level, gate):
    generator = torch.Generator().manual_seed(0)
    seen = single(torch.randn(5, 4, generator=generator))
    logits_BC = torch.randn(1, 1000, generator=generator)
    for score in (9.0, -9.0):
        logits_BC[0, 0] = score
        many = dataclasses.replace(
            seen,
            cam_BCHW=seen.cam_BCHW[:, :1].expand(-1, 1000, -1, -1),
            logits_BC=logits_BC,
            labels_BC=torch.eye(1000, dtype=torch.uint8)[:1],
        )
        bank = MapBank.empty(1, 6, torch.uint8)
        bank = assert_agrees(bank, [many], Rules(gate), level)
        assert bank.accepted_R.tolist() == [score > 0]


def test_far_rows_of_a_large_bank_are_reached():
    """A row beyond 2^31 bytes: index arithmetic must be 64-bit. Untouched pages cost nothing."""
    rows = 2**31 // (2 * 48 * 48) + 3
    bank = MapBank.empty(rows, 48, torch.uint8)
    assert bank.grid_R2Q.numel() > 2**31
    seen = single(torch.randn(4, 4, generator=torch.Generator().manual_seed(0)), row=rows - 1)
    native.update(bank, seen, Rules())
    expected = MapBank.empty(1, 48, torch.uint8)
    reference.update(expected, dataclasses.replace(seen, pairs=single(torch.ones(1, 1)).pairs),
                     Rules())  # fmt: skip
    assert expected.maps_RSS.any()
    assert torch.equal(bank.grid_R2Q[-1], expected.grid_R2Q[0])


@pytest.mark.parametrize(
    ("field", "value"),
    [("image_P", 1), ("image_P", -1), ("class_P", 2), ("row_P", 3), ("row_P", -1)],
)
def test_indices_out_of_range_are_refused_before_anything_changes(field, value):
    seen = single(torch.ones(3, 3))
    setattr(seen.pairs, field, torch.tensor([value]))
    bank = MapBank.empty(3, 4, torch.uint8)
    with pytest.raises(IndexError, match="does not exist"):
        native.update(bank, seen, Rules())
    assert_same_bits(bank, MapBank.empty(3, 4, torch.uint8))


@pytest.mark.parametrize("cells", [[4, 3], [3, 0], [3, 4]])
def test_cells_beyond_the_features_are_refused(cells):
    seen = dataclasses.replace(single(torch.ones(3, 3)), cells_B2=torch.tensor([cells]))
    with pytest.raises(IndexError, match="does not exist"):
        native.update(MapBank.empty(1, 4, torch.uint8), seen, Rules())


def test_geometry_that_is_not_a_number_reads_nothing_outside():
    geometry = torch.full((2, 3), torch.nan)
    bank = MapBank.empty(1, 9, torch.uint8)
    for level in native.LEVELS:
        outcome = native.update(bank, single(torch.ones(3, 40), geometry), Rules(), level)
        assert outcome.accepted_P.tolist() == [True]
        assert not bank.maps_RSS.any()


def test_without_the_library_the_operator_takes_the_pytorch_path(monkeypatch):
    monkeypatch.setattr(native, "_library", lambda: "was not built")
    assert native.problem() == "was not built"
    seen = single(torch.randn(5, 6, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(RuntimeError, match="not built"):
        native.update(MapBank.empty(1, 7, torch.uint8), seen, Rules())
    bank, expected = (MapBank.empty(1, 7, torch.uint8) for _ in range(2))
    fused.update(bank, seen, Rules())
    reference.update(expected, seen, Rules())
    assert expected.maps_RSS.any()
    assert_same_bits(bank, expected)
