"""Gates against hand-worked examples, and against the formulas in plain Python."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.attention.gates import GATES, contest
from oracle import gate_accepts

NAN, INF = math.nan, math.inf


def accepted(gate, scores, targets, tau=0.5) -> list[int]:
    """Indices of the target classes that the gate accepts."""
    labels_BC = torch.tensor([targets], dtype=torch.uint8)
    accept_BC = GATES[gate](torch.tensor([scores]), labels_BC, tau)
    assert accept_BC.dtype == torch.bool
    assert accept_BC.shape == labels_BC.shape
    return [c for c in range(len(targets)) if targets[c] and accept_BC[0, c]]


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        ([2.0, 1.0, 3.0], [1, 0, 1], [0, 2]),
        ([2.0, 2.5, 3.0], [1, 0, 1], [2]),
        ([2.0, 2.0, 3.0], [1, 0, 1], [2]),  # a tie with a non-target class does not beat it
        ([2.0, 2.0, 1.0], [1, 1, 0], [0, 1]),  # a tie among targets does not matter
        ([-5.0, -6.0], [1, 0], [0]),  # an improbable class may still be the likeliest
        ([-9.0, 3.0], [1, 1], [0, 1]),  # nothing to beat
        ([-INF, 3.0], [1, 1], [0, 1]),
        ([NAN, 3.0], [1, 1], [1]),  # NaN beats nothing, not even nothing
        ([NAN, 0.0], [1, 0], []),
        ([5.0, NAN], [1, 0], []),  # and nothing beats NaN
        ([INF, INF], [1, 0], []),
        ([30.0, 29.0], [1, 0], [0]),  # both sigmoids are 1 in float32, the logits differ
        ([1.0], [1], [0]),
    ],
)
def test_strict(scores, targets, expected):
    assert accepted("strict", scores, targets) == expected


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        ([2.0, 1.0, 3.0], [1, 0, 1], [0, 2]),
        ([2.0, 2.5, 3.0], [1, 0, 1], [2]),  # ranks 2, 1, 0 with two targets
        ([2.0, 2.0, 3.0], [1, 0, 1], [0, 2]),  # a tie shares the better rank
        ([1.0, 2.0, 3.0], [1, 0, 0], []),
        ([3.0, 2.0, 1.0], [1, 0, 0], [0]),
        ([3.0, 3.0, 3.0], [0, 1, 0], [1]),
        ([NAN, 1.0, 0.0], [1, 1, 0], [1]),
        ([1.0, NAN, 0.0], [1, 0, 0], [0]),  # a NaN outranks nobody
    ],
)
def test_topk(scores, targets, expected):
    assert accepted("topk", scores, targets) == expected


@pytest.mark.parametrize(
    ("scores", "tau", "expected"),
    [
        ([0.0, -0.01, 9.0], 0.5, [0, 2]),  # the threshold itself is accepted
        ([0.0, -9.0, 9.0], 0.0, [0, 1, 2]),
        ([0.0, 200.0, INF], 1.0, [2]),  # no finite score is certainty
        ([NAN, INF, -INF], 0.1, [1]),
    ],
)
def test_prob(scores, tau, expected):
    assert accepted("prob", scores, [1, 1, 1], tau) == expected


def test_none_accepts_every_target():
    assert accepted("none", [NAN, -INF, 0.0], [1, 1, 0]) == [0, 1]


def test_images_of_a_batch_do_not_see_each_other():
    logits_BC = torch.tensor([[1.0, 0.0], [-1.0, -2.0], [0.0, 5.0]])
    labels_BC = torch.tensor([[1, 0], [1, 0], [1, 0]], dtype=torch.uint8)
    for gate in ("strict", "topk"):
        assert GATES[gate](logits_BC, labels_BC, 0.5)[:, 0].tolist() == [True, True, False]


quarters = st.integers(-12, 12).map(lambda n: n / 4) | st.sampled_from([NAN, INF, -INF])


@given(
    gate=st.sampled_from(sorted(GATES)),
    rows=st.lists(st.tuples(quarters, st.integers(0, 1)), min_size=1, max_size=6),
    tau=st.sampled_from([0.0, 0.1, 0.5, 0.7]),
)
def test_gates_agree_with_the_formulas(gate, rows, tau):
    scores, targets = [s for s, _ in rows], [t for _, t in rows]
    expected = [
        c for c in range(len(rows)) if targets[c] and gate_accepts(gate, scores, targets, c, tau)
    ]
    assert accepted(gate, scores, targets, tau) == expected


def test_a_cell_belongs_to_who_has_enough_of_the_strongest():
    # Three classes over four cells; what is below rho times the best of the others is lost.
    cam_BCHW = torch.tensor([[[[4.0, 4.0, -1.0, 2.0]], [[1.0, 2.0, -2.0, 2.0]], [[0, 3.0, 0, 2]]]])
    half = contest(cam_BCHW, 0.5)
    assert half[0, 0].tolist() == [[4, 4, 0, 2]]
    assert half[0, 1].tolist() == [[0, 2, 0, 2]]  # 2 is exactly half of 4
    assert half[0, 2].tolist() == [[0, 3, 0, 2]]
    assert contest(cam_BCHW, 1.0)[0, :, 0].tolist() == [[4, 4, 0, 2], [0, 0, 0, 2], [0, 0, 0, 2]]
    # Without any share to reach, only what ReLU takes anyway is lost.
    assert torch.equal(contest(cam_BCHW, 0.0).relu(), cam_BCHW.relu())


def test_nan_neither_loses_a_cell_nor_wins_one():
    cam_BCHW = torch.tensor([[[[torch.nan, 1.0]], [[1.0, 5.0]]]])
    kept = contest(cam_BCHW, 0.5)
    assert kept[0, 0, 0, 0].isnan()
    assert kept[0, 1].tolist() == [[1, 5]]
    assert kept[0, 0, 0, 1] == 0


@given(st.integers(1, 5), st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_contest_cell_by_cell(classes, rho, seed):
    cam_BCHW = torch.randn(2, classes, 3, 4, generator=torch.Generator().manual_seed(seed))
    kept = contest(cam_BCHW, rho)
    for b, c, i, j in np.ndindex(2, classes, 3, 4):
        own = float(cam_BCHW[b, c, i, j])
        others = [float(cam_BCHW[b, d, i, j]) for d in range(classes) if d != c]
        lost = bool(others) and own < np.float32(rho) * np.float32(max(0, *others))
        assert float(kept[b, c, i, j]) == (0 if lost else own)
