"""The drop layer within classify: the coin, the filling, the figures."""

import numpy as np
import pytest
import torch

from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Pairs
from dist_oaa.config.drop import DropConfig
from dist_oaa.config.model import ModelConfig
from dist_oaa.data.loader import Batch
from dist_oaa.models.classifier import build_classifier
from dist_oaa.stages.classifying.dropping import GREY, DropLayer


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(backbone="test_efficientnet", weights="none", head_channels=8)
    return build_classifier(config, 3, seed=0)[0].eval()


def scene() -> tuple[Batch, Pairs, MapBank]:
    """Two images; the first one's class was attended to in the left half of the image."""
    batch = Batch(
        ids=["a", "b"],
        index_B=torch.tensor([0, 1]),
        images_B3HW=torch.full((2, 3, 64, 64), 200, dtype=torch.uint8),
        labels_BC=torch.tensor([[1, 0, 0], [0, 1, 0]], dtype=torch.uint8),
        geometry_B23=torch.eye(2, 3).expand(2, 2, 3).contiguous(),
        extent_B2=torch.tensor([[64, 64], [32, 64]]),
        bad=[],
    )
    bank = MapBank.empty(2, 8, torch.uint8)
    bank.last_RSS[0, :, :4] = 255
    return batch, Pairs(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([0, 1])), bank


def applied(model, keeps_examples=False, **settings):
    batch, pairs, bank = scene()
    layer = DropLayer(DropConfig(**settings), 0, keeps_examples)
    images = model.normalisation.apply(batch.images_B3HW, batch.extent_B2)
    return layer, images, layer(batch, 0, images, batch.extent_B2, pairs, bank, model)


@pytest.mark.parametrize("fill", ["mean", "black", "white"])
def test_the_input_is_filled_where_it_was_attended(model, fill):
    _, images, dropped = applied(model, where="input", beta=1.0, fill=fill)
    norm = model.normalisation
    colour = {"mean": (0, 0, 0), "black": norm.colour(0.0), "white": norm.colour(1.0)}[fill]
    # Half attention lies between cells 3 and 4; .6 of it is passed before that, at pixel 31.
    expected = images.clone()
    expected[0, :, :, :31] = torch.tensor(colour)[:, None, None]
    torch.testing.assert_close(dropped.images_B3HW, expected)
    assert dropped.features_BHW is None
    assert dropped.counts == [1.0, pytest.approx(31 / 64)]


def test_features_are_occluded_in_cells(model):
    _, images, dropped = applied(model, where="feature", beta=1.0)
    assert dropped.images_B3HW is images
    stride = model.trunk.stride
    assert dropped.features_BHW.shape == (2, 64 // stride, 64 // stride)
    assert dropped.features_BHW[0, :, : 32 // stride].all()
    assert not dropped.features_BHW[0, :, 32 // stride :].any()
    assert not dropped.features_BHW[1].any()
    with torch.no_grad():
        features = model.trunk(images)
        kept = features * ~dropped.features_BHW[:, None]
        assert not torch.equal(kept, features)
        _, cam, *_ = model(images, None, dropped.features_BHW)
        torch.testing.assert_close(cam, model.head(kept))


@pytest.mark.parametrize("settings", [{"where": "none"}, {"where": "input", "beta": 0.0}])
def test_an_idle_layer_changes_nothing(model, settings):
    layer, images, dropped = applied(model, **settings)
    assert dropped.images_B3HW is images
    assert dropped.features_BHW is None
    assert dropped.counts == [0.0, 0.0]
    assert layer.figures({"images": 2.0, "occluded_images": 0.0, "occluded_share": 0.0}) == {}


def test_the_coin_is_a_function_of_seed_epoch_and_name():
    names = [f"{i:05d}" for i in range(2000)]
    layer = DropLayer(DropConfig(where="input", beta=0.3), 7, False)
    first = layer.chosen(names, epoch=2)
    assert abs(first.float().mean() - 0.3) < 0.04
    assert layer.chosen(names[::-1], epoch=2).flip(0).tolist() == first.tolist()
    again = torch.cat([layer.chosen([name], epoch=2) for name in names])
    assert again.tolist() == first.tolist()
    assert layer.chosen(names, epoch=3).tolist() != first.tolist()
    assert DropLayer(layer.config, 8, False).chosen(names, 2).tolist() != first.tolist()
    assert DropLayer(DropConfig(where="input", beta=1.0), 7, False).chosen(names, 2).all()


@pytest.mark.parametrize("where", ["input", "feature"])
def test_examples_show_what_was_hidden(model, where):
    layer, _, _ = applied(model, keeps_examples=True, where=where, beta=1.0)
    ((name, image_HW3),) = layer.examples
    assert name == "a"
    assert image_HW3.dtype == np.uint8
    assert (image_HW3[:, :31] == GREY).all()
    assert (image_HW3[:, 32:] == 200).all()


def test_figures_are_shares():
    layer = DropLayer(DropConfig(where="input"), 0, False)
    totals = {"images": 8.0, "occluded_images": 4.0, "occluded_share": 1.0}
    assert layer.figures(totals) == {"drop/images": 0.5, "drop/pixels": 0.125}


@pytest.mark.parametrize("name", ["delta", "beta"])
@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ValueError, match=f"drop.{name} is {value}, expected 0 to 1"):
        DropConfig(**{name: value})
