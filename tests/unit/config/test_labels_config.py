"""Settings of the pseudo labels: what is refused, and by which name."""

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import (
    BackgroundConfig,
    CrfConfig,
    LabelsConfig,
    PamrConfig,
    RandomWalkConfig,
    RecipeConfig,
)
from dist_oaa.config.load import dump_config, parse_config

REFUSED = [
    *[(RecipeConfig, name, -0.1, f"labels.recipe.{name}") for name in vars(RecipeConfig())],
    *[(RecipeConfig, name, 1.1, f"labels.recipe.{name}") for name in vars(RecipeConfig())],
    (RecipeConfig, "conflict", float("nan"), "labels.recipe.conflict"),
    (BackgroundConfig, "threshold", 1.5, "labels.background.threshold"),
    (BackgroundConfig, "margin", -1, "labels.background.margin"),
    (BackgroundConfig, "thresholds", 1, "labels.background.thresholds"),
    (CrfConfig, "iterations", -1, "crf.iterations"),
    (CrfConfig, "bilateral_rgb", 0, "crf.bilateral_rgb"),
    (CrfConfig, "gaussian_compat", -2, "crf.gaussian_compat"),
    (CrfConfig, "softness", 2, "crf.softness"),
    (PamrConfig, "iterations", -1, "labels.pamr.iterations"),
    (PamrConfig, "dilations", [], "labels.pamr.dilations"),
    (PamrConfig, "dilations", [1, 0], "labels.pamr.dilations"),
    (PamrConfig, "sigma", 0, "labels.pamr.sigma"),
    (RandomWalkConfig, "grid", 2, "labels.random_walk.grid"),
    (RandomWalkConfig, "radius", 0, "labels.random_walk.radius"),
    (RandomWalkConfig, "beta", 0, "labels.random_walk.beta"),
    (RandomWalkConfig, "steps", -1, "labels.random_walk.steps"),
    (RandomWalkConfig, "affinity", "learned", "labels.random_walk.checkpoint"),
    (LabelsConfig, "refine", ["blur"], "labels.refine"),
    (LabelsConfig, "refine", ["crf", "crf"], "labels.refine"),
    (LabelsConfig, "saliency", "dir", "labels.saliency_dir"),
    (LabelsConfig, "saliency_dir", "maps", "labels.saliency_dir"),
]


@pytest.mark.parametrize(("kind", "name", "value", "key"), REFUSED)
def test_values_out_of_range_name_their_key(kind, name, value, key):
    with pytest.raises(ValueError, match=rf"{key} is .*expected"):
        kind(**{name: value})


def test_defaults_come_back_from_their_own_dump(tmp_path):
    (tmp_path / "labels.yaml").write_text(dump_config(LabelsConfig()))
    got = parse_config(LabelsConfig, "oaa", ["--config", str(tmp_path / "labels.yaml")])
    assert got == LabelsConfig()


def test_lists_and_nested_values_from_the_command_line():
    argv = ["--refine", "[random_walk, crf]", "--random_walk.beta", "4", "--crf.iterations", "5"]
    got = parse_config(LabelsConfig, "oaa", argv)
    assert (got.refine, got.random_walk.beta) == (["random_walk", "crf"], 4)
    assert got.crf.iterations == 5
    with pytest.raises(UserError, match=r"background.method .*fixed"):
        parse_config(LabelsConfig, "oaa", ["--background.method", "guess"])
