"""A step of `oaa classify` that is left out leaves weights and maps as they were."""

import json
import math

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import RunError
from dist_oaa.stages.classifying.stage import ClassifyStage
from runs import assert_same_run, maps_of, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

SKIPPING = {"optim.on_non_finite": "skip_batch", "optim.skip_limit": 0.5}


class PowerCut(Exception):
    pass


@pytest.fixture
def faulty(demo_data, monkeypatch):
    """The loss of the last image is a NaN in each epoch; `cut_at` is a step that never ends."""
    names = (demo_data / "ImageSets/Segmentation/trainval.txt").read_text().split()
    victim, sound, cut = names[-1], ClassifyStage.forward, {"epoch": -1, "batch": -1}
    seen = []

    def forward(stage, batch, epoch):
        seen.append((epoch, tuple(batch.ids)))
        loss, counts = sound(stage, batch, epoch)
        if cut["epoch"] == epoch and len({ids for at, ids in seen if at == epoch}) == cut["batch"]:
            raise PowerCut
        return loss * math.nan if victim in batch.ids else loss, counts

    monkeypatch.setattr(ClassifyStage, "forward", forward)
    return victim, cut, seen


def closing(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


def test_the_maps_of_a_step_left_out_stay_as_they_were(demo_data, tmp_path, faulty):
    victim, _, seen = faulty
    run_dir = tmp_path / "run"
    # Two micro-batches: when the NaN is found, the maps of the first are already changed.
    oaa(settings(demo_data, run_dir, optim__epochs=1, optim__accumulate=2, **SKIPPING))
    (entry,) = json.loads((run_dir / "non_finite.json").read_text())
    lost = set(entry["ranks"][0]["images"])
    assert victim in lost
    assert len(lost) == 6
    assert len(seen) == 8
    maps = maps_of(run_dir)
    assert any(any(map_bytes) for map_bytes, *_ in maps.values()), "all maps are empty"
    for (name, _), (map_bytes, _, accepted, _) in maps.items():
        assert accepted == (0 if name in lost else 1), name
        assert name not in lost or not any(map_bytes), name
    assert [line["train/skipped_steps"] for line in closing(run_dir)] == [1]


def test_a_resumed_run_leaves_the_same_steps_out(demo_data, tmp_path, faulty):
    _, cut, seen = faulty
    changes = SKIPPING | {"checkpoint.every_steps": 1, "drop.where": "input", "drop.delta": 0.3}
    oaa(settings(demo_data, tmp_path / "whole", **changes))
    seen.clear()
    cut.update(epoch=1, batch=4)
    with pytest.raises(PowerCut):
        oaa(settings(demo_data, tmp_path / "cut", **changes))
    cut.update(epoch=-1)
    oaa(settings(demo_data, tmp_path / "cut", resume="true", **changes))
    assert_same_run(tmp_path / "whole", tmp_path / "cut")
    records = [(tmp_path / n / "non_finite.json").read_text() for n in ("whole", "cut")]
    assert records[0] == records[1]
    assert len(json.loads(records[0])) == 2
    assert closing(tmp_path / "whole") == closing(tmp_path / "cut")


def test_by_default_the_run_stops(demo_data, tmp_path, faulty):
    victim, _, _ = faulty
    with pytest.raises(RunError, match=r"the loss is not finite in epoch 1, .*all images of the"):
        oaa(settings(demo_data, tmp_path / "run"))
    (entry,) = json.loads((tmp_path / "run" / "non_finite.json").read_text())
    assert entry["action"] == "stopped"
    assert victim in entry["ranks"][0]["images"]
