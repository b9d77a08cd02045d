"""The classification loss. Legend: B images, C classes."""

import pytest
import torch
import torch.nn.functional as F

from dist_oaa.models.losses import multilabel_loss_B


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
