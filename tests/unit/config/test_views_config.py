"""Settings of the views of an image."""

import pytest

from dist_oaa.config.attend import AttendConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.load import parse_config
from dist_oaa.config.views import ViewsConfig


@pytest.mark.parametrize(
    ("views", "count", "phrase"),
    [
        (ViewsConfig(), 1, "scale 1"),
        (ViewsConfig(combine="max"), 1, "scale 1"),
        (ViewsConfig(flip=True), 2, "scale 1, flipped too, mean"),
        (ViewsConfig(scales=[0.5, 1, 1.25], flip=True, combine="max"), 6,
         "scales 0.5 1 1.25, flipped too, max"),
    ],
)  # fmt: skip
def test_number_and_name(views, count, phrase):
    assert (views.count, views.phrase()) == (count, phrase)


@pytest.mark.parametrize("scales", ["[]", "[0.0]", "[1.0,-1.0]", "[20.0]", "[.nan]"])
def test_scales_out_of_range(scales):
    with pytest.raises(UserError, match=r"views.scales is .*factor above 0"):
        parse_config(AttendConfig, "oaa attend", ["--views.scales", scales])


def test_a_flag_and_an_unknown_rule():
    config = parse_config(AttendConfig, "oaa attend", ["--views.flip", "--views.scales", "[0.5,2]"])
    assert config.views == ViewsConfig(scales=[0.5, 2.0], flip=True)
    with pytest.raises(UserError, match=r"views.combine is 'median'"):
        parse_config(AttendConfig, "oaa attend", ["--views.combine", "median"])


@pytest.mark.parametrize(("key", "value"), [("map_size", 0), ("batch_size", 17), ("batch_size", 0)])
def test_other_ranges(key, value):
    with pytest.raises(UserError, match=f"{key} is {value}"):
        parse_config(AttendConfig, "oaa attend", [f"--{key}", str(value)])
