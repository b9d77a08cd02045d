"""Pairs: which row of the bank belongs to which image and class."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.attention.batch import Pairs


def test_pairs_by_hand():
    labels_BC = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]], dtype=torch.uint8)
    pairs = Pairs.from_labels(labels_BC, torch.tensor([40, 7, 3]))
    assert pairs.image_P.tolist() == [0, 0, 2]
    assert pairs.class_P.tolist() == [1, 3, 0]
    assert pairs.row_P.tolist() == [40, 41, 3]
    assert len(pairs) == 3


@given(st.integers(0, 2**32 - 1), st.integers(0, 5), st.integers(1, 6))
def test_images_own_consecutive_rows_in_class_order(seed, images, classes):
    labels_BC = np.random.default_rng(seed).integers(0, 2, (images, classes), dtype=np.uint8)
    first_row_B = 100 * np.arange(images)
    pairs = Pairs.from_labels(torch.from_numpy(labels_BC), torch.from_numpy(first_row_B))
    expected = [
        (b, c, 100 * b + k)
        for b in range(images)
        for k, c in enumerate(c for c in range(classes) if labels_BC[b, c])
    ]
    triples = zip(pairs.image_P.tolist(), pairs.class_P.tolist(), pairs.row_P.tolist(), strict=True)
    assert list(triples) == expected


def test_two_writers_of_one_row_are_refused():
    labels_BC = torch.tensor([[1, 1], [1, 0]], dtype=torch.uint8)
    with pytest.raises(AssertionError, match="twice"):
        Pairs.from_labels(labels_BC, torch.tensor([5, 6]))


def test_to_a_device_keeps_the_pairs():
    pairs = Pairs.from_labels(torch.ones(2, 2, dtype=torch.uint8), torch.tensor([0, 2]))
    moved = pairs.to(torch.device("cpu"))
    assert moved.row_P.tolist() == [0, 1, 2, 3]
    assert moved.image_P.dtype == torch.int64
