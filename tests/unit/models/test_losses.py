"""The classification loss. Legend: B images, C classes."""

import math

import pytest
import torch
import torch.nn.functional as F

from dist_oaa.models.losses import (
    log_odds,
    multilabel_loss_B,
    prediction_loss_B,
    probabilities,
    single_label_loss_B,
)
from dist_oaa.models.online_cam import Prediction


def batch(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits_BC = torch.randn(4, 6, generator=generator, dtype=dtype) * 3
    labels_BC = (torch.rand(4, 6, generator=generator) > 0.6).to(torch.uint8)
    return logits_BC, labels_BC


def test_by_hand():
    """Scores of 0 have probability 1/2: log 2 for any label; a sure and right class costs 0."""
    loss_B = multilabel_loss_B(
        torch.tensor([[0.0, 0.0], [100.0, 0.0]]), torch.tensor([[1, 0], [1, 1]])
    )
    assert loss_B.tolist() == pytest.approx([0.693147, 0.693147 / 2])


def test_equals_binary_cross_entropy_of_the_probabilities():
    logits_BC, labels_BC = batch()
    expected = [
        F.binary_cross_entropy(torch.sigmoid(logits), labels.float())
        for logits, labels in zip(logits_BC, labels_BC, strict=True)
    ]
    torch.testing.assert_close(multilabel_loss_B(logits_BC, labels_BC), torch.stack(expected))


def test_equals_the_loss_of_the_public_pytorch_code():
    logits_BC, labels_BC = batch()
    theirs = F.multilabel_soft_margin_loss(logits_BC, labels_BC.float())
    torch.testing.assert_close(multilabel_loss_B(logits_BC, labels_BC).mean(), theirs)


def test_gradient_equals_finite_differences():
    logits_BC, labels_BC = batch()
    logits_BC.requires_grad_()
    multilabel_loss_B(logits_BC, labels_BC).sum().backward()
    labels = labels_BC.double()
    for row in range(4):
        for column in range(6):
            nudge = torch.zeros(4, 6, dtype=torch.float64)
            nudge[row, column] = 1e-5
            up, down = (
                F.binary_cross_entropy(
                    torch.sigmoid(logits_BC.detach().double() + s * nudge), labels
                )
                for s in (1, -1)
            )
            slope = (up - down).item() / 2e-5 * 4  # binary_cross_entropy averages over 4 images
            assert logits_BC.grad[row, column].item() == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("score", [-1000.0, 1000.0])
def test_extreme_scores_stay_finite(score):
    logits_BC = torch.full((1, 2), score, requires_grad=True)
    loss_B = multilabel_loss_B(logits_BC, torch.tensor([[0, 1]]))
    loss_B.sum().backward()
    assert loss_B.item() == pytest.approx(500)
    assert torch.isfinite(logits_BC.grad).all()


def test_low_precision_scores_give_a_float32_loss():
    logits_BC, labels_BC = batch(torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss_B = multilabel_loss_B(logits_BC, labels_BC.bool())
    assert loss_B.dtype == torch.float32
    assert loss_B.shape == (4,)
    torch.testing.assert_close(loss_B, multilabel_loss_B(logits_BC.float(), labels_BC))


def one_class_each(dtype=torch.float32):
    logits_BC, _ = batch(dtype)
    return logits_BC, F.one_hot(torch.tensor([2, 0, 5, 2]), 6)


def test_one_class_by_hand():
    """Even scores of C classes cost log C; scores of log 1, log 2 and log 5 are 1/8, 2/8, 5/8."""
    logits_BC = torch.tensor([[0.0, 0.0, 0.0], [0.0, math.log(2), math.log(5)]])
    loss_B = single_label_loss_B(logits_BC, torch.tensor([[0, 1, 0], [0, 1, 0]]))
    assert loss_B.tolist() == pytest.approx([math.log(3), math.log(4)])


def test_one_class_against_torch_s_indices():
    logits_BC, labels_BC = one_class_each()
    expected = F.cross_entropy(logits_BC, labels_BC.argmax(dim=1), reduction="none")
    torch.testing.assert_close(single_label_loss_B(logits_BC, labels_BC), expected)
    half = single_label_loss_B(logits_BC.half(), labels_BC.to(torch.uint8))
    assert half.dtype == torch.float32


def test_the_gradient_of_one_class_is_p_minus_the_label():
    logits_BC, labels_BC = one_class_each()
    logits_BC.requires_grad_()
    single_label_loss_B(logits_BC, labels_BC).sum().backward()
    torch.testing.assert_close(logits_BC.grad, logits_BC.detach().softmax(1) - labels_BC)


@pytest.mark.parametrize(
    ("kind", "loss_of"), [("multi", multilabel_loss_B), ("single", single_label_loss_B)]
)
def test_every_branch_has_the_loss_of_its_kind(kind, loss_of):
    logits_BC, labels_BC = one_class_each()
    predicted = Prediction(logits_BC, torch.zeros(4, 6, 1, 1), ((2 * logits_BC, labels_BC),))
    expected = loss_of(logits_BC, labels_BC) + loss_of(2 * logits_BC, labels_BC)
    torch.testing.assert_close(prediction_loss_B(predicted, labels_BC, kind), expected)


@pytest.mark.parametrize("kind", ["multi", "single"])
def test_log_odds_are_the_scores_whose_sigmoid_is_p(kind):
    logits_BC, _ = batch(torch.float64)
    odds_BC = log_odds(logits_BC, kind)
    torch.testing.assert_close(odds_BC.sigmoid(), probabilities(logits_BC, kind))
    by_hand = 1 / (1 + math.exp(-float(logits_BC[1, 3])))
    if kind == "single":
        shares = [math.exp(z) for z in logits_BC[1].tolist()]
        by_hand = shares[3] / sum(shares)
    assert float(probabilities(logits_BC, kind)[1, 3]) == pytest.approx(by_hand, rel=1e-5)


def test_log_odds_of_a_sure_class_are_infinite_and_never_broken():
    odds_BC = log_odds(torch.tensor([[200.0, 0.0, -200.0]]), "single")
    assert odds_BC[0, 0] == math.inf
    assert odds_BC[0, 1:].tolist() == pytest.approx([-200, -400])
