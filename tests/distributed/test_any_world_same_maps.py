"""Worlds of 1, 2 and 3 real processes visit in one order and leave the same maps."""

import json
from collections import Counter
from pathlib import Path

import pytest

from processes import run, torchrun
from runs import maps_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

WORKER = Path(__file__).with_name("accumulate_worker.py")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory) -> dict[int, Path]:
    folders = {}
    for ranks in (1, 2, 3):
        folder = tmp_path_factory.mktemp(f"world{ranks}")
        command = torchrun(ranks, str(WORKER), str(folder / "store"), str(folder / "visits.json"))
        code, text = run(command, folder / "log", seconds=100)
        assert code == 0, text
        folders[ranks] = folder
    return folders


def visits(folder: Path) -> list[list]:
    return json.loads((folder / "visits.json").read_text())


def test_every_image_once_an_epoch(worlds):
    for folder in worlds.values():
        times = Counter((epoch, name) for part in visits(folder) for epoch, _, name in part)
        assert set(times.values()) == {1}
        assert len(times) == 3 * 29


def test_same_global_order(worlds):
    steps = {
        ranks: sorted((e, s, name) for part in visits(folder) for e, s, name in part)
        for ranks, folder in worlds.items()
    }
    assert steps[1] == steps[2] == steps[3]
    assert all(len(part) > 0 for part in visits(worlds[3])), "some rank had nothing to do"


def test_byte_identical_maps(worlds):
    one, two, three = (maps_of(worlds[ranks] / "store") for ranks in (1, 2, 3))
    assert one == two == three
    assert len(one) > 29
    assert any(any(values[0]) for values in one.values()), "all maps are empty"
