"""Drawing outlines: against pycocotools, and what it must never be given."""

import builtins

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as oracle

from coco_trees import runs_of, square
from dist_oaa.config.errors import UserError
from dist_oaa.data.coco_mask import InstanceMask, Outline, counts_of, pack
from dist_oaa.data.images import BadImageError, read_mask


def mask_of(*outlines: Outline, height: int = 6, width: int = 9) -> InstanceMask:
    return InstanceMask("f.json, image 1", height, width, pack(outlines))


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 9).flatmap(
        lambda h: st.integers(1, 40).flatmap(
            lambda w: st.lists(st.booleans(), min_size=h * w, max_size=h * w).map(
                lambda cells: np.array(cells).reshape(h, w)
            )
        )
    )
)
def test_compressed_text_means_the_runs_of_a_plain_loop(covered_HW):
    encoded = oracle.encode(np.asfortranarray(covered_HW.astype(np.uint8)))
    assert counts_of(encoded["counts"].decode()) == runs_of(covered_HW)


@pytest.mark.parametrize("side", [70, 1500])
def test_long_runs(side):
    covered_HW = np.zeros((side, side), bool)
    covered_HW[side // 3 :, side // 2] = True
    covered_HW[: side // 4, side - 2] = True
    text = oracle.encode(np.asfortranarray(covered_HW.astype(np.uint8)))["counts"].decode()
    shape = {"size": [side, side], "counts": text}
    drawn_HW = mask_of(Outline(3, False, shape), height=side, width=side).draw()
    np.testing.assert_array_equal(drawn_HW == 3, covered_HW)


def test_overlaps_and_crowds_by_hand():
    whole = [[0, 0, 9, 0, 9, 6, 0, 6]]
    left = [[0, 0, 4, 0, 4, 6, 0, 6]]
    same = mask_of(Outline(1, False, whole), Outline(1, False, left))
    assert np.unique(same.draw()).tolist() == [1]
    for order in (1, -1):
        both = [Outline(1, False, whole), Outline(2, False, left)][::order]
        drawn_HW = mask_of(*both, Outline(1, False, whole)).draw()
        assert np.unique(drawn_HW[:, :4]).tolist() == [255]
        assert np.unique(drawn_HW[:, 4:]).tolist() == [1]
    crowd = mask_of(Outline(2, True, whole), Outline(1, False, left)).draw()
    assert np.unique(crowd[:, :4]).tolist() == [1]
    assert np.unique(crowd[:, 4:]).tolist() == [255]


@pytest.mark.parametrize(
    "shape",
    [
        [[0, 0, 1, 1]],
        [[0, 0, 1, 1, 2]],
        [[0, 0, 1, 1, 2, 1e9]],
        [[0, 0, 1, 1, 2, float("nan")]],
        [[0, 0, 1, 1, 2, "3"]],
        [square(0, 0, 3), 5],
        "text",
        7,
        {"size": [6, 9]},
        {"size": [9, 6], "counts": [54]},
        {"size": [6, 9], "counts": [53]},
        {"size": [6, 9], "counts": [60, -6]},
        {"size": [6, 9], "counts": [54.0]},
        {"size": [6, 9], "counts": "0"},
        {"size": [6, 9], "counts": ""},
        {"size": [6, 9], "counts": "zzzz"},
        {"size": [6, 9], "counts": "é"},
        {"size": [6, 9], "counts": "o" * 5000},
    ],
)
def test_outlines_that_are_none(shape):
    with pytest.raises(BadImageError, match=r"^f\.json, image 1: an outline is n"):
        read_mask(mask_of(Outline(1, False, shape)))


def test_a_size_that_nobody_has():
    huge = InstanceMask("f.json, image 1", 10**6, 10**6, pack([]))
    with pytest.raises(BadImageError, match="has 1000000 x 1000000 pixels, and the limit"):
        read_mask(huge)


def test_without_pycocotools(monkeypatch):
    real = builtins.__import__

    def none_of_it(name, *arguments, **keywords):
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", none_of_it)
    with pytest.raises(UserError, match=r"install dist_oaa\[coco\]") as caught:
        read_mask(mask_of(Outline(1, False, [square(0, 0, 3)])))
    assert not isinstance(caught.value, BadImageError)  # which may be skipped
