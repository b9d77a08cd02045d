"""Fixed-point sums against whole numbers and fractions of Python, which know no rounding."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.runtime.exact_sums import (
    ABSENT,
    LARGEST_SHIFT,
    FixedPoint,
    can_be_summed,
    largest_magnitudes,
    shifts,
)

FLOAT_MAX = float(np.finfo(np.float32).max)
LARGE = 2.0**123
floats = st.floats(-LARGE, LARGE, width=32, allow_nan=False, allow_infinity=False)


@st.composite
def terms_of_one(draw) -> list[list[float]]:
    """Several gradients of one parameter of several elements, of wildly different sizes."""
    elements = draw(st.integers(1, 4))
    row = st.lists(floats, min_size=elements, max_size=elements)
    return draw(st.lists(row, min_size=1, max_size=9))


def summed(terms: list[list[float]], virtual: int, ranks: list[list[int]]) -> torch.Tensor:
    """What every rank has in the end: `ranks` says which terms each adds up, in which order."""
    gradients = [torch.tensor(term) for term in terms]
    largest = np.max([largest_magnitudes([g]) for g in gradients], axis=0)
    shift = shifts(largest, virtual)
    total = torch.zeros(len(terms[0]), dtype=torch.int64)
    for own in ranks:
        fixed = FixedPoint([torch.zeros(len(terms[0]))])
        total += fixed.sum([[gradients[k].clone()] for k in own], shift)
    last = FixedPoint([torch.nn.Parameter(torch.zeros(len(terms[0])))])
    last.sum([], shift).copy_(total)
    last.spread(shift)
    return last.parameters[0].grad


@given(terms_of_one())
def test_the_sum_against_whole_numbers(terms):
    """Every step of the definition, done again with Python's integers."""
    (result,) = [summed(terms, len(terms), [list(range(len(terms)))]).tolist()]
    largest = max(abs(x) for term in terms for x in term)
    exponent = math.frexp(np.float32(largest))[1]
    shift = min(LARGEST_SHIFT, 62 - math.ceil(math.log2(len(terms))) - exponent)
    for element, found in enumerate(result):
        whole = sum(
            math.trunc(Fraction(float(np.float32(term[element]))) * Fraction(2) ** shift)
            for term in terms
        )
        assert abs(whole) < 2**63
        # int -> float32 rounds once, to nearest even, as numpy's conversion from int64 does.
        expected = np.float32(np.int64(whole)) * np.float32(2.0**-shift)
        assert np.float32(found).tobytes() == (expected + np.float32(0)).tobytes()


@given(terms_of_one())
def test_the_sum_is_nearly_the_true_one(terms):
    result = summed(terms, len(terms), [list(range(len(terms)))])
    largest = max(abs(Fraction(float(np.float32(x)))) for term in terms for x in term)
    for element, found in enumerate(result.tolist()):
        true = sum(Fraction(float(np.float32(term[element]))) for term in terms)
        unit = largest * Fraction(2) ** -50 + Fraction(2) ** -120
        assert abs(Fraction(found) - true) <= abs(true) * Fraction(2) ** -23 + unit


@given(terms_of_one(), st.randoms(), st.integers(1, 5), st.integers(0, 3))
def test_any_split_over_ranks_gives_the_same_bits(terms, random, world, more):
    virtual = len(terms) + more
    alone = summed(terms, virtual, [list(range(len(terms)))])
    order = random.sample(range(len(terms)), len(terms))
    split = [order[rank::world] for rank in range(world)]
    shared = summed(terms, virtual, split)
    assert alone.numpy().tobytes() == shared.numpy().tobytes()


def test_sums_of_floats_would_differ():
    """What the fixed point is for: the same numbers, added in float32 in two orders."""
    x = torch.tensor([1e8, 1.0, -1e8])
    assert (x[0] + x[1]) + x[2] != (x[0] + x[2]) + x[1]
    terms = [[float(v)] for v in x]
    assert summed(terms, 3, [[0, 1, 2]]).item() == summed(terms, 3, [[1], [2, 0]]).item() == 1


@pytest.mark.parametrize("virtual", [1, 2, 3, 8, 9, 4096])
@pytest.mark.parametrize("largest", [1e-30, 1.0, 0.99999994, FLOAT_MAX / 4096])
def test_the_largest_sum_does_not_overflow(virtual, largest):
    value = float(np.float32(largest))
    assert can_be_summed(np.array([value]), virtual)
    (shift,) = shifts(np.array([value]), virtual)
    fixed = FixedPoint([torch.zeros(1)])
    whole = fixed.sum([[torch.tensor([value])] for _ in range(virtual)], [shift])
    each = math.trunc(Fraction(value) * Fraction(2) ** shift)
    assert whole.item() == virtual * each, "it has wrapped round"
    assert 0 < whole.item() <= 2**62


def test_magnitudes():
    gradients = [torch.tensor([1.0, -3.0]), None, torch.zeros(2, 2)]
    assert largest_magnitudes(gradients).tolist() == [3.0, ABSENT, 0.0]
    assert largest_magnitudes([None]).tolist() == [ABSENT]
    assert shifts(np.array([3.0, ABSENT, 0.0]), 4) == [58, None, 60]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_seen_before(bad):
    gradients = [torch.ones(3), torch.tensor([0.0, bad, 1.0])]
    assert not can_be_summed(largest_magnitudes(gradients), 2)
    assert can_be_summed(largest_magnitudes(gradients[:1]), 2)


def test_a_sum_beyond_float32_is_seen_before():
    assert can_be_summed(np.array([FLOAT_MAX]), 1)
    assert not can_be_summed(np.array([FLOAT_MAX]), 2)
    assert can_be_summed(np.array([ABSENT]), 2)


def test_parameters_keep_their_memory_order():
    weight = torch.nn.Parameter(torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))
    bias, unused = torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))
    unused.grad = torch.ones(2)
    gradient = torch.arange(120.0).reshape(2, 3, 4, 5)
    shift = shifts(np.array([119.0, 1.0, ABSENT]), 2)
    fixed = FixedPoint([weight, bias, unused])
    plain, last = gradient.clone(), gradient.clone().to(memory_format=torch.channels_last)
    fixed.sum([[plain, torch.ones(3), None], [last, None, None]], shift)
    fixed.spread(shift)
    assert torch.equal(weight.grad, 2 * gradient)
    assert weight.grad.stride() == weight.stride()
    assert torch.equal(bias.grad, torch.ones(3))
    assert unused.grad is None
