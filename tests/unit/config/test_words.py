"""Words and settings of a command line, told apart."""

from dataclasses import dataclass, field
from typing import Literal

import pytest

from dist_oaa.config.load import parse_config
from dist_oaa.config.words import split_words


@dataclass(kw_only=True)
class Inner:
    scales: list[float] = field(default_factory=list)
    flip: bool = False


@dataclass(kw_only=True)
class Outer:
    """Settings."""

    out: str = "here"
    crf: bool = False
    size: Literal["dynamic"] | list[int] = "dynamic"
    views: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("argv", "words", "settings"),
    [
        ([], [], []),
        (["a", "b"], ["a", "b"], []),
        (["a", "--out", "d", "b"], ["a", "b"], ["--out", "d"]),
        (["--out=d", "a"], ["a"], ["--out=d"]),
        # A flag alone takes no word with it, but takes its value.
        (["--crf", "a.jpg"], ["a.jpg"], ["--crf", "true"]),
        (["--crf", "False", "a"], ["a"], ["--crf", "False"]),
        (["--views.flip", "--out", "d"], [], ["--views.flip", "true", "--out", "d"]),
        (["a", "--crf"], ["a"], ["--crf"]),
        (["--size", "12", "34", "a"], ["a"], ["--size", "[12,34]"]),
        (["--size", "dynamic", "a"], ["a"], ["--size", "dynamic"]),
        (["--views.scales", "[.5,1]", "a"], ["a"], ["--views.scales", "[.5,1]"]),
        (["--views.scales", "0.5", "1", "--crf"], [], ["--views.scales", "[0.5,1]", "--crf"]),
        (["--help", "a"], ["a"], ["--help"]),
        (["--", "--crf", "-x"], ["--crf", "-x"], []),
        (["--unknown", "a", "b"], ["b"], ["--unknown", "a"]),
    ],
)
def test_split(argv, words, settings):
    assert split_words(Outer, argv) == (words, settings)


def test_the_settings_are_what_parse_config_takes():
    argv = ["net", "--crf", "x.jpg", "--size", "12", "34", "--views.scales", "0.5", "1", "y.jpg"]
    words, settings = split_words(Outer, argv)
    config = parse_config(Outer, "oaa test", settings)
    assert words == ["net", "x.jpg", "y.jpg"]
    assert (config.crf, config.size, config.views.scales) == (True, [12, 34], [0.5, 1.0])
