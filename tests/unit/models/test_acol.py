"""ACoL: two heads, the second without what the first attends to.

Legend: B images, C classes, H x W cells.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.models.losses import multilabel_loss_B, prediction_loss_B
from toys import erasing, input_of, see_through, toy

# Class 0 reads the first colour, class 1 the second.
WEIGHTS = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
IMAGE = torch.tensor([[[[0.0, 2.0], [4.0, 8.0]], [[3.0, 3.0], [1.0, -1.0]], [[5.0] * 2] * 2]])


def acol(delta=0.5):
    return see_through(WEIGHTS, "acol", acol_delta=delta)


def test_a_worked_example():
    """minmax of class 0: 0, 1/4, 1/2, 1; of class 1: 1, 1, 1/2, 0. Erased from 1/2 on."""
    model = acol()
    seen = input_of(model.erased_head)
    logits_BC, cam_BCHW, extra, _ = model(IMAGE, erasing=erasing([[1, 0]]))
    assert logits_BC.tolist() == [[3.5, 1.5]]
    assert seen[0].tolist() == [[[[0, 2], [0, 0]], [[3, 3], [0, 0]], [[5, 5], [0, 0]]]]
    assert len(extra) == 1
    assert extra[0][0].tolist() == [[0.5, 1.5]]
    assert extra[0][1].tolist() == [[1, 0]]
    # Maximum of (0, 1/4, 1/2, 1) and (0, 1, 0, 0); of (1, 1, 1/3, 0) and (1, 1, 0, 0).
    assert cam_BCHW[0, 0].tolist() == [[0, 1], [0.5, 1]]
    assert cam_BCHW[0, 1].flatten().tolist() == pytest.approx([1, 1, 1 / 3, 0])


@pytest.mark.parametrize(
    ("labels", "delta", "kept"),
    [
        ([1, 0], 0.5, [[1, 1], [0, 0]]),
        ([1, 0], 0.51, [[1, 1], [1, 0]]),
        ([1, 0], 0.25, [[1, 0], [0, 0]]),
        ([1, 0], 1.0, [[1, 1], [1, 0]]),
        ([0, 1], 0.5, [[0, 0], [0, 1]]),
        ([1, 1], 0.5, [[0, 0], [0, 0]]),  # the union over both classes
        ([1, 1], 0.51, [[0, 0], [1, 0]]),
        ([0, 0], 0.5, [[1, 1], [1, 1]]),  # no class, nothing to erase
    ],
)
def test_what_is_kept_by_hand(labels, delta, kept):
    model = acol(delta)
    seen = input_of(model.erased_head)
    model(IMAGE, erasing=erasing([labels]))
    assert (seen[0][0, 2] == 5).int().tolist() == kept


def test_a_constant_map_erases_nothing():
    model = acol()
    seen = input_of(model.erased_head)
    logits_BC, cam_BCHW, *_ = model(torch.full((1, 3, 2, 2), -1.0), erasing=erasing([[1, 1]]))
    assert torch.equal(seen[0], torch.full((1, 3, 2, 2), -1.0))
    assert cam_BCHW.abs().max() == 0, "nowhere positive: no attention"
    assert logits_BC.tolist() == [[-1, -1]]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), min_size=1, max_size=3),
    st.sampled_from([0.3, 0.6, 0.9]),
    st.integers(0, 99),
)
def test_the_mask_against_a_loop(cells, delta, seed):
    generator = torch.Generator().manual_seed(seed)
    cam_BCHW = torch.randint(-4, 5, (len(cells), 3, 5, 4), generator=generator).float()
    labels_BC = torch.randint(0, 2, (len(cells), 3), generator=generator).bool()
    model = toy(variant="acol", acol_delta=delta)
    valid_B1HW = torch.zeros(len(cells), 1, 5, 4, dtype=torch.bool)
    for valid_1HW, (rows, columns) in zip(valid_B1HW, cells, strict=True):
        valid_1HW[:, :rows, :columns] = True
    kept_B1HW = model.kept(cam_BCHW, labels_BC, valid_B1HW)
    for b, (rows, columns) in enumerate(cells):
        for y in range(5):
            for x in range(4):
                expected = y < rows and x < columns
                for c in labels_BC[b].nonzero()[:, 0].tolist():
                    part = cam_BCHW[b, c, :rows, :columns]
                    low, high = part.min().item(), part.max().item()
                    if expected and high > low:
                        share = (cam_BCHW[b, c, y, x].item() - low) / (high - low)
                        expected = share < delta - 1e-6
                assert kept_B1HW[b, 0, y, x].item() == expected


def test_the_loss_is_that_of_both_heads():
    model, labels_BC = toy(variant="acol", layers=1), torch.tensor([[1, 0, 1], [0, 1, 0]])
    predicted = model(torch.randn(2, 3, 6, 5), erasing=erasing(labels_BC.tolist()))
    ((erased_BC, targets_BC),) = predicted.extra
    assert torch.equal(targets_BC, labels_BC)
    expected = multilabel_loss_B(predicted.logits_BC, labels_BC)
    expected = expected + multilabel_loss_B(erased_BC, labels_BC)
    torch.testing.assert_close(prediction_loss_B(predicted, labels_BC), expected)


def test_no_gradient_passes_the_mask():
    """Head B's scores depend on the kept features and on its own weights alone."""
    model = acol()
    image = IMAGE.clone().requires_grad_()
    _, cam_BCHW, ((erased_BC, _),), _ = model(image, erasing=erasing([[1, 0]]))
    erased_BC.sum().backward()
    kept = torch.tensor([[0.25, 0.25], [0, 0]])
    assert torch.equal(image.grad[0], torch.stack([kept, kept, torch.zeros(2, 2)]))
    assert model.head.class_aware.weight.grad is None
    assert model.erased_head.class_aware.weight.grad is not None
    assert not cam_BCHW.requires_grad


def test_evaluation_erases_what_is_seen_or_the_labels_that_are_passed():
    model = acol().eval()
    seen = input_of(model.erased_head)
    first = model(IMAGE)  # both scores are positive: the union of both
    assert (seen[0] == 0).all()
    lower = IMAGE - torch.tensor([0.0, 9.0, 0.0])[:, None, None]
    model(lower)  # class 0 alone is seen
    assert (seen[1][0, 2] == 5).int().tolist() == [[1, 1], [0, 0]]
    model(lower - 20)  # neither is: the higher one
    assert (seen[2][0, 2] == -15).int().tolist() == [[1, 1], [0, 0]]
    labelled = model(IMAGE, erasing=erasing([[0, 1]]))
    assert (seen[3][0, 2] == 5).int().tolist() == [[0, 0], [0, 1]]
    assert first.extra == labelled.extra == ()
    assert torch.equal(first.logits_BC, labelled.logits_BC)


def test_of_one_class_an_image_only_the_highest_is_erased():
    """Both scores are positive, which says nothing before a softmax: class 0 is the highest."""
    model = acol().eval()
    model.one_class = True
    seen = input_of(model.erased_head)
    model(IMAGE)
    assert (seen[0][0, 2] == 5).int().tolist() == [[1, 1], [0, 0]]
