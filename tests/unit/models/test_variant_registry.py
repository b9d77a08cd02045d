"""What holds for every variant of the classifier.

Legend: B images, 3 colours, C classes, H x W pixels or cells.
"""

import copy
import dataclasses
import typing

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from dist_oaa.config.model import EraseConfig, ModelConfig, OptimConfig
from dist_oaa.models.classifier import Erasing, build_classifier
from dist_oaa.models.losses import prediction_loss_B
from dist_oaa.models.online_cam import OnlineCAMClassifier
from dist_oaa.models.optimisation import build_optimizer
from dist_oaa.models.variants.registry import VARIANTS
from dist_oaa.models.variants.two_branch import TwoBranch
from toys import erasing, toy

NAMES = ["cam", *VARIANTS, "two_branch"]
ERASING, MORE = list(VARIANTS), [*VARIANTS, "two_branch"]
EXTRA = {"cam": 0, "acol": 1, "adl": 0, "seenet": 2, "two_branch": 0}
HEADS = [("cam", 1), ("acol", 2), ("adl", 1), ("seenet", 3), ("two_branch", 2)]
# Thresholds at which random features fall on both sides.
DIFFERENT = {"adl_where": "both", "adl_rate": 0.5, "adl_gamma": 0.6, "acol_delta": 0.6}
SMALL = {"backbone": "test_efficientnet", "weights": "none", "head_channels": 8}


def build(variant, seed=5, **changes):
    return build_classifier(ModelConfig(**SMALL, variant=variant, **changes), 4, seed)[0]


def test_every_name_of_the_setting_is_a_network():
    assert list(typing.get_args(typing.get_type_hints(ModelConfig)["variant"])) == NAMES
    kinds = {name: type(build(name)) for name in NAMES}
    assert kinds == {"cam": OnlineCAMClassifier} | VARIANTS | {"two_branch": TwoBranch}


def test_the_settings_reach_the_network():
    erase = EraseConfig(
        acol_delta=0.1,
        adl_gamma=0.2,
        adl_rate=0.3,
        adl_where="both",
        seenet_high=0.4,
        seenet_low=0.02,
        seenet_background=0.25,
    )
    acol, adl, seenet = (build(name, erase=erase) for name in ERASING)
    assert acol.delta == 0.1
    assert (adl.gamma, adl.rate, adl.at_features, adl.at_head) == (0.2, 0.3, True, True)
    assert (seenet.high, seenet.low, seenet.background) == (0.4, 0.02, 0.25)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"acol_delta": 0.0}, "acol_delta"),
        ({"acol_delta": 1.1}, "acol_delta"),
        ({"adl_gamma": -0.1}, "adl_gamma"),
        ({"adl_rate": 1.5}, "adl_rate"),
        ({"seenet_high": 2}, "seenet_high"),
        ({"seenet_background": -1}, "seenet_background"),
        ({"seenet_low": 0.9}, "seenet_low"),
    ],
)
def test_settings_out_of_range(changes, key):
    with pytest.raises(ValueError, match=rf"^model\.erase\.{key} is .*expected"):
        EraseConfig(**changes)


@pytest.mark.parametrize("variant", MORE)
def test_trunk_and_first_head_are_those_of_the_plain_classifier(variant):
    plain, model = build("cam").state_dict(), build(variant).state_dict()
    for name, value in plain.items():
        assert torch.equal(value, model[name]), name


@pytest.mark.parametrize(("variant", "heads"), HEADS)
def test_new_weights_follow_the_seed_alone_and_differ_between_heads(variant, heads):
    torch.manual_seed(1)
    first = build(variant)
    torch.rand(3)
    again, other = build(variant).state_dict(), build(variant, seed=6).state_dict()
    for name, value in first.state_dict().items():
        assert torch.equal(value, again[name]), name
    layers = [n for n, m in first.named_modules() if n.endswith("class_aware")]
    assert len(layers) == heads
    drawn = [first.state_dict()[f"{name}.weight"] for name in layers]
    for name, weight in zip(layers, drawn, strict=True):
        assert not torch.equal(weight, other[f"{name}.weight"])
        assert weight.abs().max() < 0.06
    assert len({tuple(weight.flatten().tolist()) for weight in drawn}) == heads
    convolutions = [m for n, m in first.named_modules() if isinstance(m, nn.Conv2d) and "head" in n]
    assert all(layer.bias.abs().max() == 0 for layer in convolutions)
    assert len(convolutions) == 4 * heads


@pytest.mark.parametrize("variant", NAMES)
def test_all_that_is_new_learns_at_the_rates_of_the_head(variant):
    model = build(variant)
    names = {id(p): n for n, p in model.named_parameters()}
    optimizer = build_optimizer(model, OptimConfig())
    listed = {g["name"]: {names[id(p)] for p in g["params"]} for g in optimizer.param_groups}
    new = {n for n in names.values() if not n.startswith("trunk.")}
    assert listed["head.weight"] | listed["head.bias"] == new
    assert {n for n in new if n.endswith(".bias")} == listed["head.bias"]


@pytest.mark.parametrize("variant", NAMES)
def test_copies_and_saved_weights_predict_the_same(variant):
    model = toy(variant=variant, layers=1)
    loaded = toy(variant=variant, layers=1, seed=9)
    loaded.load_state_dict(model.state_dict())
    images, known = torch.randn(2, 3, 6, 5), erasing([[1, 0, 1], [0, 1, 0]], [0.1, 0.9])
    expected = model(images, erasing=known)
    for other in (copy.deepcopy(model), loaded):
        torch.testing.assert_close(other(images, erasing=known), expected, rtol=0, atol=0)


def padded_and_alone(cells, stride, seed):
    """Images in one padded batch whose padding is no zero, their extents, each by itself,
    what is known of them, and cells to hide."""
    generator = torch.Generator().manual_seed(seed)
    images = [torch.randn(3, h * stride, w * stride, generator=generator) for h, w in cells]
    height, width = (max(c[axis] for c in cells) * stride for axis in (0, 1))
    padded_B3HW = torch.full((len(images), 3, height, width), 7.0)
    for padded, image in zip(padded_B3HW, images, strict=True):
        padded[:, : image.shape[1], : image.shape[2]] = image
    labels_BC = torch.randint(0, 2, (len(cells), 3), generator=generator)
    known = Erasing(labels_BC, torch.rand(len(cells), generator=generator))
    hidden_BHW = torch.rand(len(cells), height // stride, width // stride, generator=generator)
    extent_B2 = torch.tensor([image.shape[1:] for image in images])
    return padded_B3HW, extent_B2, images, known, hidden_BHW < 0.3


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", MORE)
@settings(max_examples=25, deadline=None)
@given(
    cells=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    stride=st.integers(1, 3),
    seed=st.integers(0, 99),
    hides=st.booleans(),
)
def test_an_image_knows_nothing_of_batch_mates_and_padding(
    variant, training, cells, stride, seed, hides
):
    """Cells see their own pixels only, so a padded batch must tell what the single images do."""
    model = toy(stride=stride, seed=seed, variant=variant, **DIFFERENT).train(training)
    padded_B3HW, extent_B2, images, known, hidden_BHW = padded_and_alone(cells, stride, seed)
    known = known if training else None
    hidden_BHW = hidden_BHW if hides else None
    with torch.no_grad():
        together = model(padded_B3HW, extent_B2, hidden_BHW, known)
        for b, (rows, columns) in enumerate(cells):
            own = None if known is None else Erasing(*(part[b : b + 1] for part in known[:2]))
            hidden = None if hidden_BHW is None else hidden_BHW[b : b + 1, :rows, :columns]
            alone = model(images[b][None], None, hidden, own)
            torch.testing.assert_close(together.logits_BC[b], alone.logits_BC[0])
            torch.testing.assert_close(together.cam_BCHW[b, :, :rows, :columns], alone.cam_BCHW[0])
            online_BCHW = together.accumulated_BCHW[b, :, :rows, :columns]
            torch.testing.assert_close(online_BCHW, alone.accumulated_BCHW[0])
            assert len(together.extra) == len(alone.extra) == EXTRA[variant] * training
            for one, two in zip(together.extra, alone.extra, strict=True):
                torch.testing.assert_close(one[0][b], two[0][0])
                assert torch.equal(one[1][b], two[1][0])


@pytest.mark.parametrize("variant", ["acol", "seenet"])
def test_joined_maps_are_shares_and_show_no_padding(variant):
    model = toy(variant=variant, layers=1)
    extent_B2 = torch.tensor([[4, 3], [6, 5]])
    for known in (None, erasing([[1, 0, 1], [0, 1, 0]])):
        cam_BCHW = model(torch.randn(2, 3, 6, 5), extent_B2, erasing=known).cam_BCHW
        assert cam_BCHW.min() == 0
        assert cam_BCHW.max() == 1
        assert cam_BCHW[0, :, 4:].abs().max() == cam_BCHW[0, :, :, 3:].abs().max() == 0


@pytest.mark.parametrize("variant", NAMES)
def test_nothing_is_left_to_torch_s_dice(variant):
    model, images = toy(variant=variant, layers=1, **DIFFERENT), torch.randn(3, 3, 6, 5)
    known = erasing([[1, 0, 1], [0, 1, 0], [0, 0, 0]], [0.1, 0.6, 0.9])
    for mode, given_ in ((True, known), (False, None), (False, known)):
        model.train(mode)
        outcomes = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            state = torch.get_rng_state()
            outcomes.append(model(images, erasing=given_))
            assert torch.equal(torch.get_rng_state(), state)
        torch.testing.assert_close(*outcomes, rtol=0, atol=0)
        assert len(outcomes[0].extra) == EXTRA[variant] * mode


@pytest.mark.parametrize("variant", NAMES)
def test_occluded_features_are_seen_by_no_head(variant):
    """With every cell occluded only biases are left, which are the same in all places."""
    model = toy(variant=variant)
    hidden_BHW = torch.ones(2, 6, 5, dtype=torch.bool)
    known = erasing([[1, 0, 1], [0, 1, 0]], [0.1, 0.9])
    first = model(torch.randn(2, 3, 6, 5), None, hidden_BHW, known)
    other = model(torch.randn(2, 3, 6, 5), None, hidden_BHW, known)
    torch.testing.assert_close(first, other, rtol=0, atol=0)
    assert (first.cam_BCHW == first.cam_BCHW[:, :, :1, :1]).all()


@pytest.mark.parametrize("variant", ERASING)
def test_every_parameter_learns(variant):
    model = toy(variant=variant, layers=1, seed=2)
    known = erasing([[1, 0, 1], [0, 1, 0]], [0.1, 0.9])
    predicted = model(torch.randn(2, 3, 6, 5), erasing=known)
    prediction_loss_B(predicted, known.labels_BC).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("variant", ["acol", "seenet"])
def test_further_heads_are_out_of_the_graph_of_scores_and_maps(variant):
    """A rank without images joins with scores alone; DDP must see that the rest is unused."""
    model = toy(variant=variant).eval()
    predicted = model(torch.zeros(1, 3, 4, 4))
    assert not predicted.cam_BCHW.requires_grad
    predicted.logits_BC.sum().backward()
    assert model.head.class_aware.weight.grad is not None
    assert model.erased_head.class_aware.weight.grad is None


@pytest.mark.parametrize("variant", MORE)
def test_compiles_without_a_graph_break(variant):
    model = toy(variant=variant, layers=1, **DIFFERENT)
    images_B3HW, extent_B2 = torch.randn(2, 3, 6, 8), torch.tensor([[6, 3], [2, 8]])
    known = erasing([[1, 0, 1], [0, 1, 0]], [0.1, 0.9])
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    arguments = (images_B3HW, extent_B2, torch.rand(2, 6, 8) < 0.2, known)
    torch.testing.assert_close(compiled(*arguments), model(*arguments))


@pytest.mark.parametrize("variant", MORE)
def test_low_precision_features_give_float32_scores(variant):
    model = toy(variant=variant, layers=1, **DIFFERENT)
    known = erasing([[1, 0, 1], [0, 1, 0]], [0.1, 0.9])
    images = torch.randn(2, 3, 6, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model(images, torch.tensor([[6, 3], [2, 6]]), erasing=known)
    scores = [predicted.logits_BC, *(logits for logits, _ in predicted.extra)]
    assert {score.dtype for score in scores} == {torch.float32}
    loss = prediction_loss_B(predicted, known.labels_BC).sum() + predicted.cam_BCHW.float().sum()
    loss.backward()
    assert all(p.grad.dtype == torch.float32 for p in model.parameters())


def test_erase_settings_are_part_of_the_model_s():
    tree = dataclasses.asdict(ModelConfig(variant="acol"))
    assert tree["erase"] == dataclasses.asdict(EraseConfig())
