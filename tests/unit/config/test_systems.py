"""The overlays of configs/systems: one system of the papers each, on top of any preset."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from dist_oaa.config.classify import ClassifyConfig
from dist_oaa.config.load import dotted_keys, parse_config

CONFIGS = Path(__file__).parents[3] / "configs"
PRESET = CONFIGS / "voc12" / "oaa_vgg16_paper.yaml"


def flat(config) -> dict:
    values = {}
    for key in dotted_keys(ClassifyConfig):
        value = config
        for part in key.split("."):
            value = getattr(value, part)
        values[key] = value
    return values


def leaves(tree: dict, prefix: str = "") -> dict:
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= leaves(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


@pytest.mark.parametrize("path", sorted((CONFIGS / "systems").glob("*.yaml")), ids=lambda p: p.stem)
def test_an_overlay_changes_what_it_names_and_nothing_else(path):
    before = parse_config(ClassifyConfig, "oaa classify", ["--config", str(PRESET)])
    after = parse_config(
        ClassifyConfig, "oaa classify", ["--config", str(PRESET), "--config", str(path)]
    )
    named = leaves(yaml.safe_load(path.read_text()))
    assert flat(after) == flat(before) | named
    assert dataclasses.asdict(after) != dataclasses.asdict(before)
    assert f"--config configs/systems/{path.name}" in path.read_text()
