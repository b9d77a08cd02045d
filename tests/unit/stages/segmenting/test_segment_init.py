"""Which classifiers a segmentation network can start from."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.config.segment import SegmentConfig, SegmentLossConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.data.sample import ImageSet
from dist_oaa.models.classifier import build_classifier
from dist_oaa.stages import segment, trained_trunk

IMAGES = ImageSet(Path(), ("a", "b"), (), "labels.csv")
INIT = SegmentLossConfig(init="somewhere")


@pytest.fixture
def classifier(monkeypatch):
    """A classifier that stands for the run "somewhere"."""

    def build(**changes: object):
        plain = {"backbone": "test_efficientnet", "weights": "none", "head_channels": 4}
        config = ModelConfig(**(plain | changes))
        model, _ = build_classifier(config, 2, 5)
        trained = SimpleNamespace(model=model, config=config, step=9)
        monkeypatch.setattr(trained_trunk, "load_classifier", lambda run_dir: trained)
        return model

    return build


def built(resume: bool = False, **network: object):
    plain = {"backbone": "test_efficientnet", "weights": "none", "head_channels": 4}
    settings = SegmentationConfig(**(plain | {"output_stride": 16} | network))
    config = SegmentConfig(network=settings, segment=INIT, resume=resume)
    return segment.build_network(config, IMAGES)


def test_the_trunk_is_that_of_the_classifier(classifier):
    given = classifier().trunk.state_dict()
    network, said = built()
    taken = network.trunk.state_dict()
    assert said == "trunk of somewhere, step 9"
    assert taken.keys() == given.keys()
    assert all(torch.equal(value, given[name]) for name, value in taken.items())


def test_a_resumed_run_does_not_need_it_any_more():
    assert built(resume=True)[1] == "began with the trunk of somewhere"


def test_other_trunks_are_refused(classifier):
    classifier(backbone="test_resnet", output_stride=16)
    with pytest.raises(UserError, match=r"segment.init somewhere has model.backbone test_resnet"):
        built()
    with pytest.raises(UserError, match=r"encoder is no trunk of a classifier"):
        built(architecture="smp:Unet")
