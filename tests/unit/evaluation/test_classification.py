"""Mean average precision: by hand, and against the definition in exact fractions."""

import math
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.evaluation.classification import mean_average_precision, top_k_accuracy


def naive(scores, labels) -> Fraction:
    """Sum over the distinct scores, from the top, of (gain in recall) x precision."""
    total, before, area = sum(labels), 0, Fraction(0)
    for cut in sorted(set(scores), reverse=True):
        taken = [y for s, y in zip(scores, labels, strict=True) if s >= cut]
        area += Fraction(sum(taken) - before, total) * Fraction(sum(taken), len(taken))
        before = sum(taken)
    return area


def test_a_worked_example():
    scores = np.array([[0.9, 0.1, 5.0], [0.8, 0.2, 4.0], [0.7, 0.3, 3.0], [0.6, 0.4, 2.0]])
    labels = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 0, 0]])
    mean, per_class = mean_average_precision(scores, labels)
    # Positives at ranks 1 and 3: (1/1 + 2/3) / 2. One positive at rank 4: 1/4. No positive: nan.
    np.testing.assert_allclose(per_class, [5 / 6, 1 / 4, np.nan], rtol=1e-6)
    assert mean == pytest.approx((5 / 6 + 1 / 4) / 2)


def test_equal_scores_are_taken_together():
    _, per_class = mean_average_precision(np.zeros((4, 1)), np.array([[1], [0], [0], [1]]))
    np.testing.assert_allclose(per_class, [0.5])


def test_large_logits_keep_their_order():
    # A sigmoid makes all of these 1.
    scores = np.array([[40.0], [39], [38], [37]])
    mean, _ = mean_average_precision(scores, np.array([[1], [0], [1], [0]]))
    assert mean == pytest.approx(5 / 6)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.integers(-4, 4), st.integers(-4, 4), st.booleans(), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_equals_the_definition(rows):
    table = np.array(rows, dtype=np.float32)
    scores, labels = table[:, :2], table[:, 2:].astype(np.uint8)
    mean, per_class = mean_average_precision(scores, labels)
    expected = [
        float(naive(scores[:, c].tolist(), labels[:, c].tolist())) if labels[:, c].any() else None
        for c in range(2)
    ]
    for got, want in zip(per_class, expected, strict=True):
        assert math.isnan(got) if want is None else got == pytest.approx(want, rel=1e-5)
    defined = [want for want in expected if want is not None]
    if defined:
        assert mean == pytest.approx(sum(defined) / len(defined), rel=1e-5)
    else:
        assert math.isnan(mean)


def test_no_positive_at_all_gives_nan_without_a_warning():
    with warnings.catch_warnings(), np.errstate(all="raise"):
        warnings.simplefilter("error")
        mean, per_class = mean_average_precision(np.ones((3, 2)), np.zeros((3, 2)))
        assert math.isnan(mean)
        assert np.isnan(per_class).all()
        mean, _ = mean_average_precision(np.ones((0, 2)), np.zeros((0, 2)))
        assert math.isnan(mean)


def test_refusals():
    with pytest.raises(ValueError, match="both be"):
        mean_average_precision(np.ones((3, 2)), np.ones((2, 2)))
    with pytest.raises(ValueError, match="finite"):
        mean_average_precision(np.full((1, 1), np.nan), np.ones((1, 1)))
    with pytest.raises(ValueError, match="0 and 1"):
        mean_average_precision(np.ones((1, 1)), np.full((1, 1), 2))


def test_top_k_by_hand():
    scores = np.array([[0.1, 0.7, 0.2], [0.5, 0.3, 0.2], [0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    classes = np.array([1, 1, 1, 2])  # first, second, second, third
    assert [top_k_accuracy(scores, classes, k) for k in (1, 2, 3, 5)] == [0.25, 0.75, 1, 1]


def test_a_class_that_ties_is_the_last_of_them():
    even = np.zeros((2, 4), np.float32)
    assert [top_k_accuracy(even, np.array([0, 3]), k) for k in (1, 3, 4)] == [0, 0, 1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(1, 30), st.integers(2, 9), st.integers(1, 6))
def test_top_k_against_torch(seed, images, classes, k):
    rng = np.random.default_rng(seed)
    scores = rng.permuted(np.tile(np.arange(classes), (images, 1)), axis=1).astype(np.float32)
    truth = rng.integers(0, classes, images)
    best = torch.from_numpy(scores).topk(min(k, classes), dim=1).indices.numpy()
    expected = np.mean([t in row for t, row in zip(truth, best, strict=True)])
    assert top_k_accuracy(scores, truth, k) == expected
