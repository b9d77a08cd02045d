"""A run that is cut off when all its maps are on the disk and no checkpoint is published yet: it
can neither be resumed nor may it stand in its own way."""

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.store.reader import is_complete
from runs import assert_same_run, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.mark.parametrize("point", ["checkpoint.publish", "checkpoint.latest.before"])
def test_begins_again_in_its_folder(point, demo_data, tmp_path, monkeypatch):
    def start(name: str, *extra: str) -> None:
        oaa([*settings(demo_data, tmp_path / name, **{"optim.epochs": 1}), *extra])

    monkeypatch.setenv("OAA_FAULT", f"{point}=eio")
    with pytest.raises(UserError, match=r"checkpoint .* could not be written"):
        start("cut")
    monkeypatch.delenv("OAA_FAULT")
    assert is_complete(tmp_path / "cut" / "store")
    assert not (tmp_path / "cut" / "checkpoints" / "latest.json").exists()
    with pytest.raises(UserError, match="start it without --resume"):
        start("cut", "--resume")
    start("cut")
    start("whole")
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    # From here on its maps count, also where the checkpoints were deleted by hand.
    (tmp_path / "cut" / "checkpoints" / "latest.json").unlink()
    with pytest.raises(UserError, match="holds the maps of an earlier run"):
        start("cut")
