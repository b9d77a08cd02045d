"""--exact-elastic on the command line, and the settings that it does not go with."""

import pytest

from dist_oaa.config.affinity import AffinityConfig
from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.evaluate import EvaluationConfig
from dist_oaa.config.integral import IntegralConfig
from dist_oaa.config.load import parse_config, spelt_out
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.segment import SegmentConfig

TRAINING = [ClassifyConfig, IntegralConfig, SegmentConfig, AffinityConfig]


def parse(kind: type, *argv: str) -> object:
    return parse_config(kind, "oaa it", list(argv))


@pytest.mark.parametrize("kind", TRAINING)
def test_every_training_command_has_it(kind):
    assert parse(kind).optim.exact_elastic is False
    assert parse(kind, "--exact-elastic").optim.exact_elastic is True
    assert parse(kind, "--exact-elastic", "--seed", "3").optim.exact_elastic is True
    assert parse(kind, "--exact-elastic=false").optim.exact_elastic is False
    assert parse(kind, "--optim.exact_elastic").optim.exact_elastic is True


@pytest.mark.parametrize("kind", TRAINING)
def test_help_shows_it(kind, capsys):
    with pytest.raises(SystemExit):
        parse(kind, "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "--exact-elastic" in text
    assert "--optim.virtual_batches" in text


def test_a_command_that_trains_nothing_does_not_know_it():
    with pytest.raises(UserError, match="unknown key exact-elastic"):
        parse(EvaluationConfig, "--exact-elastic")


def test_only_whole_keys_are_spelt_out():
    argv = ["--exact-elastic", "--exact-elastics", "exact-elastic", "--a=--exact-elastic"]
    expected = ["--optim.exact_elastic", *argv[1:]]
    assert spelt_out(argv, ["optim.exact_elastic"]) == expected
    assert spelt_out(argv, ["optim.lr"]) == argv


@pytest.mark.parametrize(
    ("setting", "value"),
    [("precision", "fp16"), ("compile", "true"), ("accumulate", "2"), ("virtual_batches", "0")],
)
def test_what_cannot_be_exact_is_refused_in_one_sentence(setting, value):
    with pytest.raises(UserError, match=rf"^optim\.{setting} is {value}, expected") as caught:
        parse(ClassifyConfig, "--exact-elastic", f"--optim.{setting}", value)
    assert "\n" not in str(caught.value)
    if setting != "virtual_batches":
        assert "optim.exact_elastic" in str(caught.value)
        parse(ClassifyConfig, f"--optim.{setting}", value)


def test_groups_follow_the_switch():
    assert OptimConfig(virtual_batches=5).groups == 0
    assert OptimConfig(virtual_batches=5, exact_elastic=True).groups == 5
