"""Trunks by name. Legend: B images, 3 colours, C channels, H x W pixels or cells."""

import pytest
import timm
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.backbones import build_trunk


def trunk_of(**settings):
    return build_trunk(ModelConfig(**settings)).eval()


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_efficientnet_lite0_at_each_stride(stride):
    trunk = trunk_of(backbone="tf_efficientnet_lite0", output_stride=stride)
    with torch.no_grad():
        features = trunk(torch.zeros(1, 3, 64, 96))
    assert features.shape == (1, 320, 64 // stride, 96 // stride)
    assert (trunk.channels, trunk.stride) == (320, stride)
    assert trunk.mean == (0.5, 0.5, 0.5)
    assert trunk.std == (0.5, 0.5, 0.5)


def test_vgg16_oaa_through_the_registry():
    trunk = trunk_of(backbone="vgg16_oaa", output_stride=8)
    assert (trunk.channels, trunk.stride) == (512, 8)
    assert trunk.mean == (0.485, 0.456, 0.406)
    assert trunk.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(
    ("backbone", "output_stride", "out_index", "channels", "stride"),
    [
        ("resnet18", 16, -1, 512, 16),
        ("resnet18", 16, 1, 64, 4),  # a shallower stage is finer
        ("tf_efficientnet_lite0", 16, -2, 112, 16),
        ("tf_efficientnet_lite0", 16, 0, 16, 2),
        ("mobilenetv3_small_050", 16, -2, 24, 16),
        ("vit_tiny_patch16_224", 16, -1, 192, 16),  # its stride is fixed, and fits
    ],
)
def test_every_parameter_of_a_trunk_gets_a_gradient(
    backbone, output_stride, out_index, channels, stride
):
    trunk = trunk_of(backbone=backbone, output_stride=output_stride, out_index=out_index)
    features = trunk(torch.rand(1, 3, 48, 80))
    assert features.shape == (1, channels, 48 // stride, 80 // stride)
    assert (trunk.channels, trunk.stride) == (channels, stride)
    features.sum().backward()
    assert [n for n, p in trunk.named_parameters() if p.grad is None] == []


def test_channels_last_features_come_out_channels_first():
    trunk = trunk_of(backbone="swin_tiny_patch4_window7_224", output_stride=4, out_index=0)
    with torch.no_grad():
        features = trunk(torch.zeros(1, 3, 224, 224))
    assert features.shape == (1, 96, 56, 56)
    with pytest.raises(UserError, match=r"data\.resize to square and data\.size to 224"):
        trunk(torch.zeros(1, 3, 64, 64))


def test_features_equal_those_of_the_complete_timm_model():
    full = timm.create_model("resnet18", pretrained=False).eval()
    trunk = trunk_of(backbone="resnet18", output_stride=32)
    trunk.body.load_state_dict(full.state_dict(), strict=False)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(trunk(images), full.forward_features(images))


def test_an_unknown_name_lists_the_nearest_ones():
    with pytest.raises(UserError, match=r"model\.backbone is 'resnt50'.*resnet50"):
        trunk_of(backbone="resnt50")
    with pytest.raises(UserError, match=r"nearest names are vgg16_oaa"):
        trunk_of(backbone="vgg16_oa")
    with pytest.raises(UserError, match=r"model\.backbone is ''.*expected a timm model name"):
        trunk_of(backbone="")


def test_an_unknown_weights_tag_lists_the_known_ones():
    with pytest.raises(UserError, match=r"no weights 'nope' for resnet18.*tv_in1k"):
        trunk_of(backbone="resnet18.nope")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"backbone": "resnet18", "output_stride": 4},
            r"model\.output_stride is 4, but stage -1 of resnet18 has stride 32",
        ),
        (
            {"backbone": "vit_tiny_patch16_224", "output_stride": 8},
            r"model\.output_stride is 8, but stage -1 .* stride 16",
        ),
        (
            {"backbone": "resnet18", "out_index": 7},
            r"model\.out_index is 7, but resnet18 has 5 stages: expected -5 to 4",
        ),
    ],
)
def test_what_a_model_cannot_do_is_said(settings, message):
    with pytest.raises(UserError, match=message):
        trunk_of(**settings)


def test_a_model_without_feature_extraction_is_refused(monkeypatch):
    create = timm.create_model

    def without_features(name, features_only=False, **options):
        if features_only:
            raise RuntimeError("features_only not implemented")
        return create(name, **options)

    monkeypatch.setattr(timm, "create_model", without_features)
    with pytest.raises(UserError, match=r"model\.backbone is resnet18, which has no feature"):
        trunk_of(backbone="resnet18")
