"""The network of two branches: one classifies and accumulates, one learns what is accumulated.

Legend: B images, C classes, H x W cells.
"""

import pytest
import torch

from dist_oaa.config.model import ModelConfig, TwoBranchConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.models.integral_losses import integral_loss_B
from dist_oaa.models.losses import prediction_loss_B
from toys import erasing, see_through, toy

# Class 0 of F1 reads the first colour, class 1 the second.
WEIGHTS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
IMAGE = torch.tensor([[[[0.0, 2.0], [4.0, 8.0]], [[3.0, 3.0], [1.0, -1.0]], [[5.0] * 2] * 2]])


def worked():
    """F2 is F1 negated, plus the third colour."""
    model = see_through(WEIGHTS, "two_branch")
    negated = torch.tensor([[-1.0, 0.0, 1.0], [0.0, -1.0, 1.0]])
    model.integral_head.class_aware.weight.data = negated[:, :, None, None]
    return model


@pytest.mark.parametrize("training", [True, False])
def test_scores_are_of_the_first_branch_and_maps_of_the_second(training):
    model = worked().train(training)
    predicted = model(IMAGE, erasing=erasing([[1, 0]]) if training else None)
    assert predicted.logits_BC.tolist() == [[3.5, 1.5]]
    assert predicted.cam_BCHW[0].tolist() == [[[5, 3], [1, -3]], [[2, 2], [4, 6]]]
    assert predicted.accumulated_BCHW[0].tolist() == IMAGE[0, :2].tolist()
    assert predicted.extra == ()


def test_before_its_start_the_second_branch_is_not_there():
    model = worked()
    known = erasing([[1, 0]])._replace(second_branch=False)
    predicted = model(IMAGE, erasing=known)
    assert predicted.online_cam_BCHW is None
    assert torch.equal(predicted.accumulated_BCHW, IMAGE[:, :2])
    (predicted.logits_BC.sum() + predicted.cam_BCHW.sum()).backward()
    assert model.integral_head.class_aware.weight.grad is None


def test_one_loss_reaches_one_head_and_both_reach_the_trunk():
    for scores, used, unused in ((True, "head", "integral_head"), (False, "integral_head", "head")):
        model = toy(variant="two_branch", layers=1, seed=2)
        predicted = model(torch.randn(2, 3, 6, 5), erasing=erasing([[1, 0, 0], [0, 1, 0]]))
        (predicted.logits_BC if scores else predicted.cam_BCHW).square().sum().backward()
        parts = {name: getattr(model, name) for name in ("trunk", used)}
        for name, part in parts.items():
            assert all(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters()), (
                name
            )
        assert all(p.grad is None for p in getattr(model, unused).parameters())


def test_a_rank_without_images_leaves_the_second_branch_out_of_the_graph():
    """It joins with scores alone; DDP must see that the rest is unused."""
    model = toy(variant="two_branch").eval()
    predicted = model(torch.zeros(1, 3, 4, 4))
    assert not predicted.cam_BCHW.requires_grad
    predicted.logits_BC.sum().backward()
    assert model.head.class_aware.weight.grad is not None
    assert model.integral_head.class_aware.weight.grad is None


def test_the_joint_loss_by_finite_differences():
    """w1 CE(F1) + w2 hybrid(F2) with fixed targets, in every weight of the trunk and the heads."""
    model = toy(variant="two_branch", classes=3, seed=4).double()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 3, 2, generator=generator, dtype=torch.float64)
    labels_BC = torch.tensor([[0, 1, 0], [1, 0, 0]])
    target_BCHW = torch.rand(2, 3, 3, 2, generator=generator).double() * labels_BC[:, :, None, None]
    counted_BCHW = torch.rand(2, 3, 3, 2, generator=generator) < 0.9

    def loss() -> torch.Tensor:
        predicted = model(images, erasing=erasing(labels_BC.tolist()))
        # float32 scores would drown the differences: the mean is taken anew in float64.
        logits_BC = predicted.accumulated_BCHW.mean(dim=(2, 3))
        first = -(logits_BC.log_softmax(1) * labels_BC).sum()
        second = integral_loss_B(predicted.cam_BCHW, target_BCHW, counted_BCHW)
        return 0.7 * first + 1.3 * second.sum()

    loss().backward()
    step, checked = 1e-5, 0
    for name, parameter in model.named_parameters():
        flat, grad = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(len(flat)):
            value = float(flat[index])
            sides = []
            for shift in (step, -step):
                flat[index] = value + shift
                sides.append(loss().item())
            flat[index] = value
            slope = (sides[0] - sides[1]) / (2 * step)
            assert float(grad[index]) == pytest.approx(slope, rel=1e-4, abs=1e-6), (name, index)
            checked += abs(slope) > 1e-3
    assert checked > 20
    with torch.no_grad():
        predicted = model(images, erasing=erasing(labels_BC.tolist()))
        first = prediction_loss_B(predicted, labels_BC, "single").sum()
        second = integral_loss_B(predicted.cam_BCHW, target_BCHW, counted_BCHW).sum()
        assert float(0.7 * first + 1.3 * second) == pytest.approx(float(loss()), rel=1e-5)


@pytest.mark.parametrize(("labels", "one_class"), [("multi", False), ("single", True)])
def test_a_network_knows_of_what_kind_its_labels_are(labels, one_class):
    for variant in ("cam", "acol", "two_branch"):
        config = ModelConfig(
            backbone="test_efficientnet",
            weights="none",
            head_channels=8,
            variant=variant,
            labels=labels,
        )
        assert build_classifier(config, 3, seed=0)[0].one_class is one_class


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"classification_weight": 0.0}, "classification_weight"),
        ({"integral_weight": -1.0}, "integral_weight"),
        ({"integral_weight": float("inf")}, "integral_weight"),
        ({"start_epoch": -1}, "start_epoch"),
        ({"threshold": 1.0}, "threshold"),
    ],
)
def test_settings_out_of_range(changes, key):
    with pytest.raises(ValueError, match=rf"^model\.two_branch\.{key} is .*expected"):
        TwoBranchConfig(**changes)


def test_a_softmax_has_no_room_for_no_class():
    with pytest.raises(ValueError, match=r"^model\.labels is single and model\.variant is seenet"):
        ModelConfig(variant="seenet", labels="single")
