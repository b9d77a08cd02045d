"""ExternalCAM: maps of another method go where they belong and leave no trace in the training."""

import numpy as np
import pytest
import torch
from torch import nn

from dist_oaa import ExternalCAM, OnlineCAM, UserError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 4, 4),
        nn.BatchNorm2d(6),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def gradcam(model: nn.Module):
    """Grad-CAM (Selvaraju et al., Eq. 1 and 2 before the ReLU), as its public packages do it."""

    def maps(images, classes):
        kept = []

        def keep(module, given, output):
            output.retain_grad()
            kept.append(output)

        handle = model[1].register_forward_hook(keep)
        scores = model(images)
        handle.remove()
        model.zero_grad()
        sum(score[c] for score, c in zip(scores, classes, strict=True)).backward()
        weights = kept[0].grad.mean((2, 3), keepdim=True)
        return (weights * kept[0]).sum(1).detach().numpy()

    return maps


def test_grad_cam_of_a_linear_head_is_its_cam():
    model = network().eval()
    images, labels = torch.randn(3, 3, 16, 24), torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0]])
    logits, cam = ExternalCAM(model, gradcam(model))(images, labels)
    expected_logits, expected = OnlineCAM(model)(images)
    torch.testing.assert_close(logits, expected_logits)
    assert cam.shape == expected.shape
    cells = 4 * 6  # Grad-CAM takes the mean of the gradient of a mean
    bias = model[4].bias.detach()
    for b, c in labels.nonzero().tolist():
        torch.testing.assert_close(cam[b, c] * cells + bias[c], expected[b, c])
    assert cam[labels == 0].abs().sum() == 0


def test_the_training_goes_on_undisturbed():
    model = network().train()
    model[1].eval()
    model[4].weight.grad = torch.full_like(model[4].weight, 7)
    modes = [m.training for m in model.modules()]
    statistics = model[1].running_mean.clone()
    logits, cam = ExternalCAM(model, gradcam(model))(
        torch.randn(2, 3, 16, 16), torch.tensor([2, 0])
    )
    assert not cam.requires_grad
    assert modes == [m.training for m in model.modules()]
    assert (model[4].weight.grad == 7).all()
    assert model[0].weight.grad is None
    assert torch.equal(statistics, model[1].running_mean)
    logits.sum().backward()
    assert model[0].weight.grad is not None


def test_single_labels_and_no_labels_at_all():
    model = network()

    def maps(images, classes):
        assert len(images) == len(classes)
        return np.stack([np.full((2, 2), 10.0 + c, np.float32) for c in classes])

    source, images = ExternalCAM(model, maps), torch.randn(2, 3, 16, 16)
    _, cam = source(images, torch.tensor([2, 0]))
    assert cam[:, :, 0, 0].tolist() == [[0, 0, 12], [10, 0, 0]]
    _, cam = source(images, torch.zeros(2, 3))
    assert cam.shape == (2, 3, 1, 1)


def test_mistakes():
    model, images = network(), torch.randn(2, 3, 16, 16)
    with pytest.raises(UserError, match=r"labels have shape \(2, 4\), expected \(2, 3\)"):
        ExternalCAM(model, gradcam(model))(images, torch.ones(2, 4))
    with pytest.raises(UserError, match=r"shape \(1, 2, 2\), expected \(2, h, w\) for 2 images"):
        ExternalCAM(model, lambda i, c: torch.ones(1, 2, 2))(images, torch.tensor([0, 1]))
