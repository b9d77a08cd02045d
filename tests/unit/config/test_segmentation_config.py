"""Settings of a segmentation network: what is refused, and how it is said."""

import pytest

from dist_oaa.config.segmentation import SegmentationConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"architecture": "unet"}, "network.architecture is 'unet'.*smp:NAME"),
        ({"output_stride": 12}, "network.output_stride is 12"),
        ({"head_channels": 0}, "network.head_channels is 0"),
        ({"dropout": 1.0}, r"network.dropout is 1.0"),
        ({"dropout": -0.1}, r"network.dropout is -0.1"),
        ({"rates": [6, 0]}, r"network.rates is \[6, 0\]"),
        ({"rates": [6, 12]}, r"network.rates is \[6, 12\].*one dilation for large_fov"),
        ({"multi_scale_inputs": [0.5, 0.75]}, "network.multi_scale_inputs.*1 among them"),
        ({"multi_scale_inputs": [0.0, 1.0]}, "network.multi_scale_inputs"),
        ({"multi_scale_inputs": [1.0, 3.0]}, "network.multi_scale_inputs"),
    ],
)
def test_mistakes_name_the_key(settings, words):
    with pytest.raises(ValueError, match=words):
        SegmentationConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rates": [6]},
        {"architecture": "deeplab_v2", "rates": [3, 6, 9]},
        {"architecture": "smp:Unet", "output_stride": 32},
        {"multi_scale_inputs": [0.5, 0.75, 1.0], "dropout": 0.0},
    ],
)
def test_sound_settings_are_taken(settings):
    config = SegmentationConfig(**settings)
    for key, value in settings.items():
        assert getattr(config, key) == value
