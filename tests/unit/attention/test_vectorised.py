"""The batched update against the readable one, to the last bit."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import RULES, assert_like_reference, assert_same_bits, cases, observation, single
from dist_oaa.attention import reference, vectorised
from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Rules
from kernel_steps import cast

assert_equal_paths = functools.partial(assert_like_reference, vectorised.update)


@settings(max_examples=200, deadline=None)
@given(case=cases(), rule=RULES, dtype=st.sampled_from(sorted(DTYPES)))
def test_paths_agree_to_the_last_bit(case, rule, dtype):
    assert_equal_paths(case.bank(dtype), case.steps, rule)


@settings(max_examples=15, deadline=None)
@given(case=cases(map_sizes=(41,)), rule=RULES, dtype=st.sampled_from(sorted(DTYPES)))
def test_paths_agree_at_the_default_map_size(case, rule, dtype):
    assert_equal_paths(case.bank(dtype), case.steps, rule)


@settings(max_examples=40, deadline=None)
@given(
    case=cases(most_steps=2),
    kind=st.sampled_from([torch.float16, torch.bfloat16, torch.float64]),
    channels_last=st.booleans(),
    rule=RULES,
)
def test_paths_agree_for_any_float_type_and_stride(case, kind, channels_last, rule):
    steps = [cast(step, kind, channels_last) for step in case.steps]
    assert_equal_paths(case.bank("uint8"), steps, rule)


def test_strides_do_not_change_the_result():
    generator = torch.Generator().manual_seed(3)
    feature = torch.randn(9, 13, generator=generator)
    seen = single(feature)
    transposed = dataclasses.replace(
        seen, cam_BCHW=seen.cam_BCHW.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)
    )
    assert not transposed.cam_BCHW.is_contiguous()
    banks = [MapBank.empty(1, 11, torch.float32) for _ in range(2)]
    vectorised.update(banks[0], seen, Rules())
    vectorised.update(banks[1], transposed, Rules())
    assert banks[0].maps_RSS.any()
    assert_same_bits(*banks)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e30])
def test_padding_is_never_read(value):
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(6, 5, generator=generator)
    padded = torch.full((9, 8), value)
    padded[:6, :5] = feature
    seen = single(padded)
    seen.cells_B2[0] = torch.tensor([6, 5])
    for update in (reference.update, vectorised.update):
        alone, inside = (MapBank.empty(1, 7, torch.uint8) for _ in range(2))
        update(alone, single(feature), Rules())
        outcome = update(inside, seen, Rules())
        assert outcome.accepted_P.tolist() == [True]
        assert outcome.broken_P.tolist() == [False]
        assert_same_bits(inside, alone)


def test_attention_maps_are_those_of_the_update():
    """The maps that measuring uses are what an accepted first update stores."""
    rng = np.random.default_rng(5)
    labels_BC = torch.tensor([[1, 1], [1, 0]], dtype=torch.uint8)
    seen = observation(
        rng, labels_BC, (8, 9), ["normal"], ["crop", "flip"], [(8, 9), (5, 4)],
        np.zeros((2, 2), np.float32),
    )  # fmt: skip
    bank = MapBank.empty(3, 10, torch.float32)
    vectorised.update(bank, seen, Rules(gate="none"))
    image_P, class_P = seen.pairs.image_P, seen.pairs.class_P
    values_PSS, inside_PSS, finite_P = vectorised.attention_maps(
        seen.cam_BCHW[image_P, class_P], seen.cells_B2[image_P], seen.geometry_B23[image_P], 10
    )
    assert finite_P.all()
    assert 0 < int(inside_PSS[0].sum()) < 100
    assert inside_PSS[2].all()
    assert torch.equal(bank.maps_RSS, torch.where(inside_PSS, values_PSS, 0.0))
