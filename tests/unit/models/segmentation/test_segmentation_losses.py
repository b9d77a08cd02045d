"""The loss of each image against loops, hand-worked numbers and finite differences."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.models.segmentation.losses import segmentation_loss_B

KINDS = ["ce", "balanced"]


def naive(logits, labels, kind):
    """One image, one pixel at a time: logits[l][y][x], labels[y][x]."""
    groups = {"background": [], "object": []}
    for y in range(labels.shape[0]):
        for x in range(labels.shape[1]):
            label = int(labels[y, x])
            if label == 255:
                continue
            scores = [float(v) for v in logits[:, y, x]]
            loss = math.log(sum(math.exp(s) for s in scores)) - scores[label]
            groups["object" if label else "background"].append(loss)
    if kind == "ce":
        every = groups["background"] + groups["object"]
        return sum(every) / len(every) if every else 0.0
    means = [sum(g) / len(g) for g in groups.values() if g]
    return sum(means) / len(means) if means else 0.0


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), share=st.sampled_from([0.0, 0.3, 0.9, 1.0]))
def test_as_a_loop_says(kind, seed, share):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, 3, 5, generator=generator, dtype=torch.float64) * 4
    labels = torch.randint(0, 4, (3, 3, 5), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < share] = 255
    found = segmentation_loss_B(logits, labels, kind)
    expected = [naive(a, b, kind) for a, b in zip(logits, labels, strict=True)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


def test_an_example_by_hand():
    # Two channels with a gap of 0 or ln 3: losses ln 2, and ln 4 - ln 3 or ln 4.
    gap = math.log(3)
    logits = torch.tensor([[[[0.0, 0.0, 0.0, 0.0]], [[0.0, gap, gap, 0.0]]]])
    labels = torch.tensor([[[0, 0, 1, 255]]])
    two, right, wrong = math.log(2), math.log(4 / 3), math.log(4)
    ce = segmentation_loss_B(logits, labels).item()
    assert ce == pytest.approx((two + wrong + right) / 3)
    balanced = segmentation_loss_B(logits, labels, "balanced").item()
    assert balanced == pytest.approx(((two + wrong) / 2 + right) / 2)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("resize", ["logits", "labels"])
def test_gradients_by_finite_differences(kind, resize):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(2, 3, 2, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(0, 3, (2, 5, 6), generator=generator)
    labels[0, :2] = 255
    assert torch.autograd.gradcheck(
        lambda x: segmentation_loss_B(x, labels, kind, resize), (logits,)
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_an_image_without_a_labelled_pixel_neither_costs_nor_teaches(kind, dtype):
    generator = torch.Generator().manual_seed(2)
    logits = (torch.randn(2, 3, 4, 4, generator=generator) * 4).to(dtype).requires_grad_()
    labels = torch.full((2, 8, 8), 255)
    labels[1, 3, 3] = 2
    loss = segmentation_loss_B(logits, labels, kind)
    assert loss.dtype == torch.float32
    assert loss[0].item() == 0.0
    assert loss[1].item() > 0
    loss.sum().backward()
    assert not logits.grad[0].any()
    assert logits.grad[1].any()
    assert torch.isfinite(logits.grad).all()


def test_a_single_kind_of_pixel_has_its_whole_weight_when_balanced():
    logits = torch.randn(1, 3, 2, 2)
    for labels in (torch.zeros(1, 2, 2), torch.full((1, 2, 2), 2)):
        torch.testing.assert_close(
            segmentation_loss_B(logits, labels, "balanced"), segmentation_loss_B(logits, labels)
        )


def test_batch_mates_play_no_role():
    logits, labels = torch.randn(4, 3, 5, 5), torch.randint(0, 3, (4, 5, 5))
    labels[2] = 255
    together = segmentation_loss_B(logits, labels, "balanced")
    alone = [segmentation_loss_B(logits[[i]], labels[[i]], "balanced")[0] for i in range(4)]
    torch.testing.assert_close(together, torch.stack(alone))


def test_scores_of_several_scales_add_up():
    labels = torch.randint(0, 3, (2, 8, 8))
    parts = (torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2))
    expected = segmentation_loss_B(parts[0], labels) + segmentation_loss_B(parts[1], labels)
    torch.testing.assert_close(segmentation_loss_B(parts, labels), expected)


def test_labels_are_shrunk_to_the_middle_of_each_cell():
    # Cells of 4 pixels: the label at index 2 of each, whatever stands around it.
    labels = torch.full((1, 8, 8), 255, dtype=torch.uint8)
    labels[0, 2::4, 2::4] = torch.tensor([[0, 1], [2, 1]], dtype=torch.uint8)
    logits = torch.randn(1, 3, 2, 2, dtype=torch.float64)
    found = segmentation_loss_B(logits, labels, resize="labels").item()
    assert found == pytest.approx(naive(logits[0], torch.tensor([[0, 1], [2, 1]]), "ce"))


def test_logits_are_enlarged_to_the_labels():
    # 1 cell a row, 2 columns to 4: with half-pixel centres at -1/4, 1/4, 3/4, 5/4 of a cell.
    logits = torch.tensor([[[[0.0, 4.0]], [[0.0, 0.0]]]], dtype=torch.float64)
    labels = torch.tensor([[[0, 0, 0, 0]]])
    expected = [math.log1p(math.exp(-s)) for s in (0.0, 1.0, 3.0, 4.0)]
    found = segmentation_loss_B(logits, labels).item()
    assert found == pytest.approx(sum(expected) / 4)


def test_sixteen_bit_scores_are_summed_in_float32():
    logits = torch.full((1, 2, 256, 256), 1.0, dtype=torch.float16)
    labels = torch.zeros(1, 256, 256, dtype=torch.long)
    assert segmentation_loss_B(logits, labels).item() == pytest.approx(math.log(2), rel=1e-5)
