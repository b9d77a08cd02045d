"""The integral model's losses: by hand, against plain loops and torch's own, and their gradients.

Legend: B images, C classes, H x W feature cells.
"""

import math
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.models.integral_losses import integral_loss_B

LOSSES, NORMALISATIONS = ("mce", "ep", "hybrid"), ("pooled", "per_class")
ALL = list(product(LOSSES, NORMALISATIONS))


def oracle(f_CHW, p_CHW, counted_CHW, loss, tau, normalise) -> float:
    """One image's loss from the formulas, in Python's own floats."""

    def mean(chosen: list[tuple[float, bool]]) -> float:
        kept = [term for term, keep in chosen if keep]
        return sum(kept) / len(kept) if kept else 0.0

    groups = [
        [
            (float(f), float(p))
            for f, p, counts in zip(f_HW.ravel(), p_HW.ravel(), c_HW.ravel(), strict=True)
            if counts
        ]
        for f_HW, p_HW, c_HW in zip(f_CHW, p_CHW, counted_CHW, strict=True)
    ]
    groups = [group for group in groups if group]
    if normalise == "pooled":
        groups = [[cell for group in groups for cell in group]]
    total = 0.0
    for cells in groups:
        q = [1 / (1 + math.exp(-f)) for f, _ in cells]
        if loss == "mce":
            total -= mean(
                [
                    (p * math.log(x) + (1 - p) * math.log(1 - x), True)
                    for x, (_, p) in zip(q, cells, strict=True)
                ]
            )
            continue
        total -= mean([(p * math.log(x), p > tau) for x, (_, p) in zip(q, cells, strict=True)])
        if loss == "hybrid":
            total -= mean([(math.log(1 - x), p <= tau) for x, (_, p) in zip(q, cells, strict=True)])
    return total / max(1, len(groups))


@st.composite
def batches(draw):
    """F, p and what counts, with absent classes, padding and images of which nothing counts."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = tuple(draw(st.integers(1, most)) for most in (3, 4, 4, 5))
    f_BCHW = rng.normal(scale=draw(st.sampled_from([0.5, 4.0])), size=shape)
    # Multiples of 1/10, so that some lie on a threshold exactly.
    p_BCHW = rng.integers(0, 11, shape) / 10
    p_BCHW[rng.random(shape[:2]) < 0.5] = 0
    counted_BCHW = rng.random(shape) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return [torch.from_numpy(a) for a in (f_BCHW, p_BCHW, counted_BCHW)]


@settings(max_examples=150, deadline=None)
@given(batch=batches(), kind=st.sampled_from(ALL), tau=st.sampled_from([0.0, 0.1, 0.3]))
def test_against_plain_loops(batch, kind, tau):
    loss, normalise = kind
    found_B = integral_loss_B(*batch, loss, tau, normalise)
    expected_B = [
        oracle(f.numpy(), p.numpy(), c.numpy(), loss, tau, normalise)
        for f, p, c in zip(*batch, strict=True)
    ]
    assert found_B.tolist() == pytest.approx(expected_B, rel=1e-9, abs=1e-12)


def hand_worked() -> list[torch.Tensor]:
    """One image, two classes, two cells and one of padding; q is 1/4, 1/2 and 1/5, 2/3."""
    q_CHW = torch.tensor([[[1 / 4, 1 / 2, 0.9]], [[1 / 5, 2 / 3, 0.9]]], dtype=torch.float64)
    p_CHW = torch.tensor([[[1.0, 0.0, 1.0]], [[0.0, 0.0, 1.0]]], dtype=torch.float64)
    counted_CHW = torch.tensor([[[True, True, False]]] * 2)
    return [torch.logit(q_CHW)[None], p_CHW[None], counted_CHW[None]]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        # log 4 for the one attended cell; log 2, log 5/4 and log 3 for the rest.
        (("ep", "pooled"), math.log(4)),
        (("hybrid", "pooled"), math.log(4) + math.log(2 * 5 / 4 * 3) / 3),
        (("mce", "pooled"), math.log(4 * 2 * 5 / 4 * 3) / 4),
        (("ep", "per_class"), math.log(4) / 2),
        (("hybrid", "per_class"), (math.log(4) + math.log(2) + math.log(5 / 4 * 3) / 2) / 2),
        (("mce", "per_class"), math.log(4 * 2 * 5 / 4 * 3) / 4),
    ],
)
def test_by_hand(kind, expected):
    loss, normalise = kind
    found = integral_loss_B(*hand_worked(), loss, 0.0, normalise)
    assert found.tolist() == pytest.approx([expected], rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), normalise=st.sampled_from(NORMALISATIONS))
def test_mce_is_torchs_cross_entropy(seed, normalise):
    rng = torch.Generator().manual_seed(seed)
    f = torch.randn(3, 4, 5, 6, generator=rng, dtype=torch.float64)
    p = torch.rand(3, 4, 5, 6, generator=rng, dtype=torch.float64)
    found_B = integral_loss_B(f, p, torch.ones_like(f, dtype=torch.bool), "mce", 0.0, normalise)
    expected_BCHW = F.binary_cross_entropy_with_logits(f, p, reduction="none")
    torch.testing.assert_close(found_B, expected_BCHW.mean(dim=(1, 2, 3)))


@settings(max_examples=60, deadline=None)
@given(batch=batches(), normalise=st.sampled_from(NORMALISATIONS))
def test_hybrid_is_ep_and_the_constraint(batch, normalise):
    f, p, counted = batch
    hybrid_B = integral_loss_B(f, p, counted, "hybrid", 0.0, normalise)
    ep_B = integral_loss_B(f, p, counted, "ep", 0.0, normalise)
    # With the targets 1 - p' of hard labels and -F for F, Eq. 7 reads as Eq. 8.
    rest = (p <= 0).double()
    constraint_B = integral_loss_B(-f, rest, counted, "ep", 0.5, normalise)
    torch.testing.assert_close(hybrid_B, ep_B + constraint_B)


@settings(max_examples=40, deadline=None)
@given(batch=batches(), normalise=st.sampled_from(NORMALISATIONS))
def test_hybrid_with_everything_attended_is_ep(batch, normalise):
    f, p, counted = batch
    p = p.clamp(min=0.05)
    values = [integral_loss_B(f, p, counted, loss, 0.0, normalise) for loss in ("hybrid", "ep")]
    assert torch.equal(*values)


@settings(max_examples=60, deadline=None)
@given(batch=batches(), kind=st.sampled_from(ALL), seed=st.integers(0, 2**32 - 1))
def test_order_batch_mates_and_padding_change_nothing(batch, kind, seed):
    loss, normalise = kind
    rng = torch.Generator().manual_seed(seed)
    whole_B = integral_loss_B(*batch, loss, 0.1, normalise)
    alone_B = torch.cat(
        [
            integral_loss_B(*(t[b : b + 1] for t in batch), loss, 0.1, normalise)
            for b in range(len(whole_B))
        ]
    )
    torch.testing.assert_close(alone_B, whole_B)
    cells = torch.randperm(batch[0].shape[2] * batch[0].shape[3], generator=rng)
    classes = torch.randperm(batch[0].shape[1], generator=rng)
    mixed = [t[:, classes].flatten(2)[:, :, cells].unflatten(2, t.shape[2:]) for t in batch]
    torch.testing.assert_close(integral_loss_B(*mixed, loss, 0.1, normalise), whole_B)
    padded = [
        F.pad(t, (0, 2, 0, 1), value=value)
        for t, value in zip(batch, (math.nan, 1.0, False), strict=True)
    ]
    torch.testing.assert_close(integral_loss_B(*padded, loss, 0.1, normalise), whole_B)


@pytest.mark.parametrize(("loss", "normalise"), ALL)
def test_gradients_against_finite_differences(loss, normalise):
    rng = torch.Generator().manual_seed(3)
    f = torch.randn(2, 3, 3, 2, generator=rng, dtype=torch.float64, requires_grad=True)
    p = torch.rand(2, 3, 3, 2, generator=rng, dtype=torch.float64)
    p[:, 1] = 0
    counted = torch.rand(2, 3, 3, 2, generator=rng) < 0.8
    assert torch.autograd.gradcheck(
        lambda x: integral_loss_B(x, p, counted, loss, 0.3, normalise), f
    )


@pytest.mark.parametrize(("loss", "normalise"), ALL)
def test_broken_padding_has_no_gradient_and_huge_scores_stay_finite(loss, normalise):
    f = torch.tensor([[[[1e4, -1e4, 1e30, -1e30, math.nan, math.inf]]]], requires_grad=True)
    p = torch.tensor([[[[0.0, 1.0, 0.5, 0.5, 1.0, 0.0]]]])
    counted = torch.tensor([[[[True, True, True, True, False, False]]]])
    loss_B = integral_loss_B(f, p, counted, loss, 0.0, normalise)
    loss_B.sum().backward()
    assert torch.isfinite(loss_B).all()
    assert torch.isfinite(f.grad).all()
    assert f.grad.flatten()[4:].tolist() == [0, 0]
    assert f.grad.flatten()[1] < 0  # an attended cell is pulled up


def test_absent_classes_weigh_as_the_documentation_says():
    """Twenty classes of one cell each, one present: pooled or class by class."""
    f = torch.zeros(1, 20, 1, 1, dtype=torch.float64, requires_grad=True)
    p = torch.zeros(1, 20, 1, 1, dtype=torch.float64)
    p[0, 0] = 1
    counted = torch.ones(1, 20, 1, 1, dtype=torch.bool)
    ratios = {}
    for normalise in NORMALISATIONS:
        (slope,) = torch.autograd.grad(
            integral_loss_B(f, p, counted, "hybrid", 0.0, normalise).sum(), f
        )
        ratios[normalise] = float(slope[0, 1] / -slope[0, 0])
    assert ratios == pytest.approx({"pooled": 1 / 19, "per_class": 1.0})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype):
    f = torch.tensor([[[[-9.0, 2.0]]]], dtype=dtype)
    p, counted = torch.tensor([[[[0.25, 0.0]]]]), torch.ones(1, 1, 1, 2, dtype=torch.bool)
    found = integral_loss_B(f, p, counted)
    assert found.dtype == torch.float32
    expected = 0.25 * math.log1p(math.exp(9)) + math.log1p(math.exp(2))
    assert found.tolist() == pytest.approx([expected], rel=1e-6)
