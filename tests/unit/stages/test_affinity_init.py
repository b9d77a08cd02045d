"""Which classifiers an affinity network can start from."""

from types import SimpleNamespace

import pytest
import torch

from dist_oaa.config.affinity import AffinityConfig, AffinityNetConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.models.classifier import build_classifier
from dist_oaa.stages import affinity


@pytest.fixture
def started(monkeypatch):
    """Builds a network of three levels that starts from a classifier with some settings."""

    def build(levels: list[int], **changes: object):
        plain = ModelConfig(backbone="test_efficientnet", weights="none", head_channels=4)
        there = ModelConfig(**(vars(plain) | changes))
        model, _ = build_classifier(there, 2, 5)
        trained = SimpleNamespace(model=model, config=there, step=9)
        monkeypatch.setattr(affinity, "load_classifier", lambda run_dir: trained)
        settings = AffinityNetConfig(levels=levels, channels=[4] * len(levels), init="somewhere")
        network, said = affinity.build_network(AffinityConfig(model=plain, affinity=settings))
        return network, said, model

    return build


@pytest.mark.parametrize("changes", [{}, {"output_stride": 8}, {"out_index": 3}])
def test_the_trunk_is_taken_whole(started, changes):
    network, said, model = started([1, 2, 3], **changes)
    assert said == "trunk of somewhere, step 9"
    given = model.trunk.state_dict()
    taken = network.trunk.state_dict()
    assert all(torch.equal(value, given[name]) for name, value in taken.items())
    assert len(taken) > 20


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"out_index": 2}, r"lacks \d+ of the \d+ tensors .*model\.out_index is 2, expected"),
        ({"normalise": "half"}, r"has model\.normalise half, and model\.normalise is auto here"),
        ({"backbone": "test_resnet"}, r"has model\.backbone test_resnet"),
    ],
)
def test_other_trunks_are_refused(started, changes, match):
    with pytest.raises(UserError, match=match):
        started([1, 2, 3], **changes)
