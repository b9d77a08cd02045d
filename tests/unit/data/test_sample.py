"""Image sets: labels as an array, and a fingerprint that knows labels and nothing else."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.data.sample import ImageSet, Sample

NAMES = ("cat", "dog", "cow")


def image_set(labels: dict[str, tuple[int, ...]], root: str = "/data", names=NAMES) -> ImageSet:
    samples = (Sample(i, Path(root, f"{i}.jpg"), c, None) for i, c in labels.items())
    return ImageSet(Path(root), names, tuple(samples), "labels.csv")


def test_labels_array():
    labels = image_set({"a": (0, 2), "b": (1,)})
    np.testing.assert_array_equal(labels.labels_NC, [[1, 0, 1], [0, 1, 0]])
    assert labels.labels_NC.dtype == np.uint8
    assert labels.labels_NC is labels.labels_NC
    assert len(labels) == 2
    with pytest.raises(ValueError, match="read-only"):
        labels.labels_NC[0, 0] = 0


def test_duplicate_ids_name_the_id_and_both_files():
    first, second = (Sample("x", Path(p), (0,), None) for p in ("/d/x.jpg", "/d/x.png"))
    with pytest.raises(UserError, match=r"'x' occurs twice.*/d/x\.jpg.*/d/x\.png"):
        ImageSet(Path("/d"), NAMES, (first, second), "")


label_maps = st.dictionaries(
    st.text(min_size=1, max_size=5), st.sets(st.integers(0, 2), min_size=1), max_size=6
).map(lambda labels: {i: tuple(sorted(c)) for i, c in labels.items()})


@given(label_maps, st.randoms())
def test_fingerprint_ignores_order_and_place(labels, random):
    items = list(labels.items())
    random.shuffle(items)
    assert image_set(labels).fingerprint == image_set(dict(items), "/elsewhere").fingerprint


@given(label_maps, label_maps)
def test_fingerprint_tells_labels_apart(one, other):
    same = image_set(one).fingerprint == image_set(other).fingerprint
    assert same == (one == other)


def test_fingerprint_knows_names_and_is_stable():
    labels = {"a": (0,)}
    base = image_set(labels).fingerprint
    assert base != image_set(labels, names=("dog", "cat", "cow")).fingerprint
    assert base != image_set(labels, names=("cat", "dog")).fingerprint
    # Written down: a store made by one version must open with the next.
    assert base == hashlib.sha256(b'["cat", "dog", "cow"]\n["a", 0]').hexdigest()
