"""A run that ends beside its last checkpoint has, once resumed, all that it would have had."""

import sys
from pathlib import Path

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from stage_runs import STAGES, prepare, training

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from chaos_compare import events_of, lines_of  # noqa: E402

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

# One at the end of the epoch; these two save their weights before they measure, too.
CHECKPOINTS = {"classify": 1, "affinity": 1, "integral": 2, "segment": 2}


@pytest.fixture(scope="module")
def prepared(demo_data, tmp_path_factory) -> Path:
    return prepare(demo_data, tmp_path_factory.mktemp("prepared"))


@pytest.mark.parametrize("stage", STAGES)
def test_nothing_is_missing_and_nothing_twice(stage, demo_data, prepared, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    oaa(training(stage, demo_data, prepared, whole))
    assert any(line.startswith("_hparams_/session_start_info") for line in events_of(whole))
    for point in ("before", "after"):
        run_dir = tmp_path / point
        flags = training(stage, demo_data, prepared, run_dir)
        fault = f"checkpoint.latest.{point}=eio,hit={CHECKPOINTS[stage]}"
        monkeypatch.setenv("OAA_FAULT", fault)
        with pytest.raises(UserError, match="could not be written"):
            oaa(flags)
        monkeypatch.delenv("OAA_FAULT")
        published = (run_dir / "checkpoints" / "latest.json").exists()
        oaa([*flags, "--resume"] if published else flags)
        assert events_of(run_dir) == events_of(whole)
        assert lines_of(run_dir) == lines_of(whole)
