"""ADL: a layer that drops the most attended cells, or weighs all by their importance.

Legend: B images, D channels, H x W cells.
"""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.models.variants.adl import attention_dropout
from toys import erasing, input_of, see_through, toy

# Mean over the colours: 0, 1, 3, 4.
MEANS = torch.tensor([[0.0, 1.0], [3.0, 4.0]])
IMAGE = torch.stack([MEANS - 1, MEANS, MEANS + 1])[None]


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def layer(x_BDHW, drops, gamma=0.75, valid_B1HW=None):
    if valid_B1HW is None:
        valid_B1HW = torch.ones_like(x_BDHW[:, :1], dtype=torch.bool)
    return attention_dropout(x_BDHW, valid_B1HW, torch.tensor(drops), gamma)


def test_a_worked_example():
    """Dropped from 3/4 of 4 on; or sigmoid of 0, 1, 3, 4."""
    dropped, weighed = layer(IMAGE.expand(2, -1, -1, -1), [True, False])
    mask = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    assert torch.equal(dropped, IMAGE[0] * mask)
    importance = torch.tensor([[sigmoid(0), sigmoid(1)], [sigmoid(3), sigmoid(4)]])
    torch.testing.assert_close(weighed, IMAGE[0] * importance)


def test_the_maximum_is_that_of_the_image_and_not_of_the_padding():
    valid = torch.tensor([[[[True, True], [True, False]]]])
    out = layer(IMAGE, [True], gamma=0.5, valid_B1HW=valid)
    # Of 3, not of 4: dropped from 1.5 on.
    assert (out[0, 1] != 0).int().tolist() == [[0, 1], [0, 0]]
    assert (out[0, 2] != 0).int().tolist() == [[1, 1], [0, 0]]
    whole = layer(IMAGE, [True], gamma=0.76)  # from 3.04 on
    assert (whole[0, 2] != 0).int().tolist() == [[1, 1], [1, 0]]


def test_nothing_is_dropped_where_nothing_is_positive():
    assert torch.equal(layer(-IMAGE - 2, [True]), -IMAGE - 2)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 3), st.booleans()), min_size=1, max_size=4
    ),
    st.sampled_from([0.5, 0.8, 0.9]),
    st.integers(0, 99),
)
def test_against_a_loop(images, gamma, seed):
    generator = torch.Generator().manual_seed(seed)
    x_BDHW = torch.randn(len(images), 5, 4, 3, generator=generator)
    valid_B1HW = torch.zeros(len(images), 1, 4, 3, dtype=torch.bool)
    for b, (rows, columns, _) in enumerate(images):
        valid_B1HW[b, :, :rows, :columns] = True
    out_BDHW = layer(x_BDHW, [drops for *_, drops in images], gamma, valid_B1HW)
    for b, (rows, columns, drops) in enumerate(images):
        means = [[sum(x_BDHW[b, :, y, x].tolist()) / 5 for x in range(3)] for y in range(4)]
        peak = max(means[y][x] for y in range(rows) for x in range(columns))
        for y in range(4):
            for x in range(3):
                kept = float(means[y][x] < gamma * peak)
                factor = kept if drops else sigmoid(means[y][x])
                expected = x_BDHW[b, :, y, x] * factor
                torch.testing.assert_close(out_BDHW[b, :, y, x], expected)


def test_the_gradient_flows_through_importance_and_not_through_the_comparison():
    x = IMAGE.expand(2, -1, -1, -1).clone().requires_grad_()
    layer(x, [True, False]).sum().backward()
    assert x.grad[0].tolist() == [[[1, 1], [0, 0]]] * 3
    # d/dx of (3 a) sigmoid(a), with a the mean of three colours: sigmoid + a sigmoid (1 - sigmoid)
    for place, a in zip(x.grad[1].flatten(1).T, (0, 1, 3, 4), strict=True):
        slope = sigmoid(a) + a * sigmoid(a) * (1 - sigmoid(a))
        assert place.tolist() == pytest.approx([slope] * 3, rel=1e-5)


def test_the_coin_of_each_image_is_its_own():
    """With rate 1/2, a chance of 0.49 drops and one of 0.5 does not, whoever is in the batch."""
    model = see_through([[1.0, 0.0, 0.0]], "adl", adl_rate=0.5, adl_gamma=0.75)
    images = IMAGE.expand(3, -1, -1, -1)
    seen = input_of(model.head.class_aware)
    model(images, erasing=erasing([[1]] * 3, [0.49, 0.5, 0.0]))
    dropped = [(one[:, 1] == 0).all().item() for one in seen[0]]
    assert dropped == [True, False, True]
    model(images[:1], erasing=erasing([[1]], [0.5]))
    assert torch.equal(seen[1][0], seen[0][1])


@pytest.mark.parametrize(("rate", "drops"), [(0.0, False), (1.0, True)])
def test_the_rates_at_the_ends(rate, drops):
    model = see_through([[1.0, 0.0, 0.0]], "adl", adl_rate=rate, adl_gamma=0.75)
    seen = input_of(model.head.class_aware)
    model(IMAGE.expand(2, -1, -1, -1), erasing=erasing([[1]] * 2, [0.0, 0.999]))
    assert [(one[:, 1] == 0).all().item() for one in seen[0]] == [drops] * 2


@pytest.mark.parametrize("where", ["features", "head", "both"])
def test_the_places_of_the_layer(where):
    model = toy(variant="adl", layers=1, adl_where=where, adl_rate=1.0, adl_gamma=0.8)
    images, labels = torch.randn(2, 3, 6, 5), erasing([[1, 0, 0]] * 2)
    trunk_out, first, last = (input_of(m) for m in (model.trunk, model.head.conv1, model.head[-1]))
    logits_BC, cam_BCHW, extra, _ = model(images, erasing=labels)
    with torch.no_grad():
        features = model.trunk.body(images)
        at_first = layer(features, [True] * 2, 0.8) if where != "head" else features
        hidden = model.head.relu1(model.head.conv1(at_first))
        at_last = layer(hidden, [True] * 2, 0.8) if where != "features" else hidden
    assert torch.equal(trunk_out[0], images)
    torch.testing.assert_close(first[0], at_first)
    torch.testing.assert_close(last[0], at_last)
    torch.testing.assert_close(cam_BCHW, model.head.class_aware(at_last))
    torch.testing.assert_close(logits_BC, cam_BCHW.mean(dim=(2, 3)))
    assert extra == ()
    assert cam_BCHW.requires_grad


def test_two_places_have_two_coins():
    """Over many images both coins fall by their rate, and neither tells of the other."""
    model = toy(variant="adl", layers=1, adl_where="both", adl_rate=0.25, adl_gamma=0.0)
    first, last = input_of(model.head.conv1), input_of(model.head.class_aware)
    count = 2000
    chances = torch.rand(count, generator=torch.Generator().manual_seed(0)).tolist()
    with torch.no_grad():
        # With gamma 0 whatever is attended to is dropped: all that a drop leaves is 0.
        for layer_ in (model.trunk.body[0], model.head.conv1):
            layer_.weight.zero_()
            layer_.bias.fill_(1.0)
        model(torch.zeros(count, 3, 1, 1), erasing=erasing([[1, 0, 0]] * count, chances))
    early, late = ((seen[0] == 0).all(dim=1).flatten() for seen in (first, last))
    assert early.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert late.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert (early & late).float().mean().item() == pytest.approx(0.0625, abs=0.02)


def test_it_is_the_plain_classifier_in_evaluation():
    model, plain = toy(variant="adl", layers=2, adl_where="both"), toy(layers=2)
    plain.load_state_dict(model.state_dict())
    images, extent_B2 = torch.randn(2, 3, 6, 5), torch.tensor([[6, 5], [3, 4]])
    trained = model(images, extent_B2, erasing=erasing([[1, 0, 0]] * 2, [0.1, 0.9]))
    assert not torch.equal(trained.logits_BC, plain(images, extent_B2).logits_BC)
    model.eval()
    for given_ in (None, erasing([[1, 0, 0]] * 2, [0.1, 0.9])):
        predicted, expected = model(images, extent_B2, erasing=given_), plain(images, extent_B2)
        assert torch.equal(predicted.logits_BC, expected.logits_BC)
        assert torch.equal(predicted.cam_BCHW, expected.cam_BCHW)
