"""The network with its online CAM.

Legend: B images, 3 colours, C classes, H x W pixels or cells, 2 = (height, width).
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_oaa.models.online_cam import masked_mean, valid_cells
from toys import toy


@pytest.mark.parametrize(
    ("valid", "pixels", "cells", "expected"),
    [
        (224, 224, 28, 28),  # nothing is padded
        (160, 224, 28, 20),  # exactly 20 cells
        (163, 224, 28, 20),  # 20.375
        (164, 224, 28, 21),  # 20.5: half a cell counts
        (3, 224, 28, 1),  # 0.375, but at least 1
        (1, 500, 7, 1),
        (299, 300, 19, 19),  # a stride that does not divide the size
        (150, 300, 19, 10),  # 9.5
    ],
)
def test_valid_cells_by_hand(valid, pixels, cells, expected):
    out = valid_cells(torch.tensor([[valid, pixels], [pixels, valid]]), (pixels,) * 2, (cells,) * 2)
    assert out.dtype == torch.int64
    assert out.tolist() == [[expected, cells], [cells, expected]]


@given(st.integers(1, 64), st.integers(1, 2000), st.data())
def test_valid_cells_stay_within_the_map_and_near_the_share(cells, pixels, data):
    valid = data.draw(st.integers(1, pixels))
    out = valid_cells(torch.tensor([[valid, pixels]]), (pixels, pixels), (cells, cells))
    rows, columns = out[0].tolist()
    assert 1 <= rows <= cells
    assert columns == cells
    assert rows == 1 or abs(rows - valid * cells / pixels) <= 0.5


def test_gap_by_hand():
    cam_BCHW = torch.tensor([[[[1.0, 2.0, 90.0], [3.0, 6.0, 90.0], [90.0, 90.0, 90.0]]]])
    whole = masked_mean(cam_BCHW, None)
    assert whole.item() == pytest.approx((12 + 5 * 90) / 9)
    assert masked_mean(cam_BCHW, torch.tensor([[2, 2]])).tolist() == [[3.0]]
    assert masked_mean(cam_BCHW, torch.tensor([[1, 2]])).tolist() == [[1.5]]
    assert masked_mean(cam_BCHW, torch.tensor([[1, 1]])).tolist() == [[1.0]]


def test_gap_ignores_what_is_not_finite_in_the_padding():
    cam_BCHW = torch.ones(1, 2, 3, 3)
    cam_BCHW[..., 2] = torch.inf
    cam_BCHW.requires_grad_()
    score_BC = masked_mean(cam_BCHW, torch.tensor([[3, 2]]))
    score_BC.sum().backward()
    assert score_BC.tolist() == [[1.0, 1.0]]
    assert cam_BCHW.grad[0, 0].tolist() == [[pytest.approx(1 / 6)] * 2 + [0.0]] * 3


def test_gap_sums_in_float32():
    cam_BCHW = torch.full((1, 1, 64, 64), 1.001, dtype=torch.float16)
    score_BC = masked_mean(cam_BCHW, torch.tensor([[64, 64]]))
    assert score_BC.dtype == torch.float32
    assert score_BC.item() == pytest.approx(cam_BCHW[0, 0, 0, 0].item(), rel=1e-6)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    st.integers(1, 3),
    st.integers(0, 99),
)
def test_padding_changes_no_score_of_a_pointwise_network(cells, stride, seed):
    """Cells see their own pixels only, so a padded batch must score as the single images do."""
    model = toy(stride=stride, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(3, h * stride, w * stride, generator=generator) for h, w in cells]
    height, width = (max(c[axis] for c in cells) * stride for axis in (0, 1))
    padded_B3HW = torch.full((len(images), 3, height, width), 7.0)
    for padded, image in zip(padded_B3HW, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    extent_B2 = torch.tensor([image.shape[1:] for image in images])
    with torch.no_grad():
        logits_BC, cam_BCHW, *_ = model(padded_B3HW, extent_B2)
        for index, image in enumerate(images):
            alone_BC, alone_BCHW, *_ = model(image[None])
            rows, columns = cells[index]
            torch.testing.assert_close(logits_BC[index], alone_BC[0])
            torch.testing.assert_close(cam_BCHW[index, :, :rows, :columns], alone_BCHW[0])


def test_no_extent_is_the_full_extent():
    model = toy(stride=2, layers=2)
    images_B3HW = torch.randn(2, 3, 10, 14)
    with torch.no_grad():
        logits_BC, cam_BCHW, *_ = model(images_B3HW)
        full_BC, *_ = model(images_B3HW, torch.tensor([[10, 14], [10, 14]]))
    assert torch.equal(logits_BC, full_BC)
    torch.testing.assert_close(logits_BC, cam_BCHW.mean(dim=(2, 3)))


def test_cam_is_raw_and_keeps_its_padded_cells():
    model = toy(layers=1)
    images_B3HW = torch.randn(1, 3, 6, 6)
    with torch.no_grad():
        _, cam_BCHW, *_ = model(images_B3HW, torch.tensor([[2, 3]]))
        _, whole_BCHW, *_ = model(images_B3HW)
    assert torch.equal(cam_BCHW, whole_BCHW)
    assert cam_BCHW.min() < 0


@pytest.mark.parametrize(("layers", "convolutions"), [(0, 1), (1, 2), (3, 4)])
def test_head_layers(layers, convolutions):
    model = toy(layers=layers)
    found = [m for m in model.head if isinstance(m, nn.Conv2d)]
    assert len(found) == convolutions
    assert [m.kernel_size for m in found] == [(3, 3)] * layers + [(1, 1)]
    assert sum(isinstance(m, nn.ReLU) for m in model.head) == layers
    _, cam_BCHW, *_ = model(torch.zeros(2, 3, 5, 7))
    assert cam_BCHW.shape == (2, 3, 5, 7)


def test_autocast_gives_float32_scores_of_a_low_precision_map():
    model = toy(layers=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits_BC, cam_BCHW, *_ = model(torch.randn(2, 3, 6, 6), torch.tensor([[6, 3], [2, 6]]))
    assert cam_BCHW.dtype == torch.bfloat16
    assert logits_BC.dtype == torch.float32
    torch.testing.assert_close(logits_BC[0], cam_BCHW[0, :, :6, :3].float().mean(dim=(1, 2)))


def test_forward_compiles_without_a_graph_break():
    model = toy(layers=1)
    images_B3HW, extent_B2 = torch.randn(2, 3, 6, 8), torch.tensor([[6, 3], [2, 8]])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(images_B3HW, extent_B2), model(images_B3HW, extent_B2))
