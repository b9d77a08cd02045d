"""SeeNet: a ternary mask for the second head, the background for the third.

Legend: B images, C classes, H x W cells.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.models.losses import multilabel_loss_B, prediction_loss_B
from dist_oaa.models.variants.seenet import background_mask, c_relu, ternary_mask
from toys import erasing, input_of, see_through, toy

# Class 0 reads the first colour, class 1 the second.
WEIGHTS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
IMAGE = torch.tensor([[[[0.0, 2.0], [4.0, 8.0]], [[-9.0, -9.0], [1.0, -1.0]], [[5.0] * 2] * 2]])
THRESHOLDS = {"seenet_high": 0.75, "seenet_low": 0.125, "seenet_background": 0.25}


def seenet(**changes):
    return see_through(WEIGHTS, "seenet", **THRESHOLDS | changes)


def test_a_worked_example():
    """M of class 0: 0, 1/4, 1/2, 1, so T = -1, 1, 1, 0 and head C sees the first two."""
    model = seenet()
    second, third = input_of(model.erased_head), input_of(model.background_head)
    logits_BC, cam_BCHW, extra, _ = model(IMAGE, erasing=erasing([[1, 0]]))
    assert logits_BC.tolist() == [[3.5, -4.5]]
    assert second[0].tolist() == [[[[0, 2], [4, 0]], [[0, 0], [1, 0]], [[-5, 5], [5, 0]]]]
    assert third[0].tolist() == [[[[0, 2], [0, 0]], [[0, 0], [0, 0]], [[5, 5], [0, 0]]]]
    assert [targets.tolist() for _, targets in extra] == [[[1, 0]], [[0, 0]]]
    assert [logits.tolist() for logits, _ in extra] == [[[1.5, 0.25]], [[0.5, 0.0]]]
    # Maximum of (0, 1/4, 1/2, 1) and (0, 1/2, 1, 0).
    assert cam_BCHW[0].tolist() == [[[0, 0.5], [1, 1]], [[0, 0], [1, 0]]]


def test_the_union_of_the_classes():
    """M of class 1 is 0, 0, 1, 0: the third cell is now a core too."""
    model = seenet()
    second = input_of(model.erased_head)
    model(IMAGE, erasing=erasing([[1, 1]]))
    assert second[0][0, 2].tolist() == [[-5, 5], [0, 0]]


@pytest.mark.parametrize(
    ("attention", "ternary", "background"),
    [(0.0, -1, 1), (0.124, -1, 1), (0.125, 1, 1), (0.25, 1, 1), (0.26, 1, 0), (0.74, 1, 0),
     (0.75, 0, 0), (1.0, 0, 0)],
)  # fmt: skip
def test_the_thresholds_by_hand(attention, ternary, background):
    attention_B1HW = torch.tensor([[[[attention, 1.0]]]])
    everywhere = torch.ones(1, 1, 1, 2, dtype=torch.bool)
    assert ternary_mask(attention_B1HW, everywhere, 0.75, 0.125)[0, 0, 0, 0] == ternary
    assert background_mask(attention_B1HW, everywhere, 0.25)[0, 0, 0, 0] == background


def test_without_attention_head_b_sees_all_and_head_c_nothing():
    model = seenet()
    second, third = input_of(model.erased_head), input_of(model.background_head)
    # Class 0 is nowhere positive, class 1 is no class of the image.
    image = IMAGE - torch.tensor([9.0, 0.0, 0.0])[:, None, None]
    model(image, erasing=erasing([[1, 0]]))
    assert torch.equal(second[0], image.relu())
    assert third[0].abs().max() == 0
    model(image, erasing=erasing([[0, 0]]))
    assert torch.equal(second[1], image.relu())


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=3),
    st.integers(0, 99),
)
def test_masks_against_a_loop(cells, seed):
    generator = torch.Generator().manual_seed(seed)
    model = see_through(WEIGHTS, "seenet")  # the default thresholds: .8, .05, .3
    second, third = input_of(model.erased_head), input_of(model.background_head)
    images = torch.randint(-4, 9, (len(cells), 3, 5, 4), generator=generator).float()
    labels_BC = torch.randint(0, 2, (len(cells), 2), generator=generator).tolist()
    with torch.no_grad():
        model(images, torch.tensor(cells), erasing=erasing(labels_BC))
    for b, (rows, columns) in enumerate(cells):
        inside = [(y, x) for y in range(rows) for x in range(columns)]
        attention = dict.fromkeys(inside, 0.0)
        for c in (c for c in (0, 1) if labels_BC[b][c]):
            values = {place: max(images[b, c][place].item(), 0) for place in inside}
            low, high = min(values.values()), max(values.values())
            for place, value in values.items():
                share = (value - low) / (high - low) if high > low else 0
                attention[place] = max(attention[place], share)
        attends = max(attention.values()) > 0
        for place in ((y, x) for y in range(5) for x in range(4)):
            m, factors = attention.get(place), (0, 0)
            if m is not None:
                factors = (0 if m >= 0.8 else -1 if m < 0.05 else 1, int(m <= 0.3))
                factors = factors if attends else (1, 0)
            positive = images[b, :, place[0], place[1]].relu()
            for seen, factor in zip((second, third), factors, strict=True):
                assert torch.equal(seen[0][b, :, place[0], place[1]], positive * factor)


def test_the_gradient_of_c_relu_is_the_mask_on_what_is_positive():
    x = torch.tensor([[[[2.0, 2.0, 2.0, -2.0]]]], requires_grad=True)
    out = c_relu(x, torch.tensor([[[[0.0, -1.0, 1.0, -1.0]]]]))
    out.sum().backward()
    assert out.tolist() == [[[[0, -2, 2, 0]]]]
    assert x.grad.tolist() == [[[[0, -1, 1, 0]]]]


def test_no_gradient_passes_the_masks():
    model = seenet()
    image = IMAGE.clone().requires_grad_()
    _, cam_BCHW, ((second_BC, _), (third_BC, _)), _ = model(image, erasing=erasing([[1, 0]]))
    (second_BC.sum() + third_BC.sum()).backward()
    # Where positive: T / 4 = (-1, 1, 1, 0) / 4 for head B and (1, 1, 0, 0) / 4 for head C.
    expected = torch.tensor([[[0, 0.5], [0.25, 0]], [[0, 0], [0.25, 0]], [[0, 0], [0, 0]]])
    assert torch.equal(image.grad[0], expected)
    assert model.head.class_aware.weight.grad is None
    assert model.erased_head.class_aware.weight.grad is not None
    assert model.background_head.class_aware.weight.grad is not None
    assert not cam_BCHW.requires_grad


def test_the_loss_is_that_of_three_heads():
    model, labels_BC = toy(variant="seenet", layers=1), torch.tensor([[1, 0, 1], [0, 1, 0]])
    predicted = model(torch.randn(2, 3, 6, 5), erasing=erasing(labels_BC.tolist()))
    (second_BC, second_targets), (third_BC, third_targets) = predicted.extra
    assert torch.equal(second_targets, labels_BC)
    assert third_targets.shape == labels_BC.shape
    assert not third_targets.any()
    expected = multilabel_loss_B(predicted.logits_BC, labels_BC)
    expected = expected + multilabel_loss_B(second_BC, labels_BC)
    expected = expected + multilabel_loss_B(third_BC, torch.zeros(2, 3))
    torch.testing.assert_close(prediction_loss_B(predicted, labels_BC), expected)


def test_evaluation_flips_nothing_and_leaves_the_third_head_alone():
    model = seenet().eval()
    second, third = input_of(model.erased_head), input_of(model.background_head)
    first = model(IMAGE)  # class 0 alone has a positive score
    assert second[0][0, 2].tolist() == [[5, 5], [5, 0]]
    labelled = model(IMAGE, erasing=erasing([[1, 1]]))
    assert second[1][0, 2].tolist() == [[5, 5], [0, 0]]
    assert third == []
    assert first.extra == labelled.extra == ()
