"""Worlds that grow and shrink: no image lost or seen twice, and, exactly elastic, the same bits.

All runs are made by one start of three processes (elastic_worker.py).
"""

import json
import socket
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from processes import run, torchrun
from runs import (
    assert_same_run,
    assert_same_weights,
    files_of,
    integral_settings,
    labels_from_masks,
    maps_of,
    segment_settings,
    settings,
    weights_of,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

WORKER = Path(__file__).with_name("elastic_worker.py")
IMAGES, STEPS, EPOCHS = 24, 4, 2  # steps of 7 images: the last of an epoch has three
COMMON = {
    "optim.batch_size": 7,
    "optim.epochs": EPOCHS,
    # Images of many sizes, so that a batch's padding depends on who is in it.
    "data.augment.scale": "[0.7,1.3]",
    "runtime.timeout_s": 300,
}
EXACT = COMMON | {"optim.exact_elastic": "true", "optim.virtual_batches": 4}


@dataclass
class Runs:
    """The runs to make, and where they leave what they made."""

    folder: Path
    data: Path
    legs: list[dict] = field(default_factory=list)

    def add(self, name: str, argv: list[str], worlds: dict[int, int], alone: bool = False) -> Path:
        """A run that is made by one world after another.

        Args:
            worlds: optimiser step at whose end it is stopped (0 for none) -> number of processes.
        """
        first = True
        for stop_at, ranks in worlds.items():
            leg = {"ranks": ranks, "stop_at": stop_at, "port": free_port(), "one_by_one": alone}
            resume = [] if first else ["--resume"]
            log = str(self.folder / f"{name}.visits")
            self.legs.append(leg | {"argv": [*argv, *resume], "log": log})
            first = False
        return self.folder / name

    def classify(self, name: str, worlds: dict[int, int], alone=False, **changes) -> Path:
        argv = settings(self.data, self.folder / name, **changes)
        return self.add(name, argv, worlds, alone)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def made(demo_data, tmp_path_factory) -> Path:
    """All runs, finished."""
    runs = Runs(tmp_path_factory.mktemp("elastic"), demo_data)
    # A network that stands still, and maps that remember: each image's last attention is dropped.
    still = COMMON | {"optim.multipliers": "[0,0,0,0]", "accumulate.fusion": "average"}
    still |= {"drop.where": "input", "drop.beta": 0.8, "checkpoint.every_steps": 3}
    still |= {"data.augment.scale": "[1,1]"}  # no padding, which a CAM sees at its edges
    runs.classify("still", {0: 1}, alone=True, **still)
    runs.classify("still_1231", {2: 1, 5: 2, 7: 3, 0: 1}, alone=True, **still)
    learning = EXACT | {"drop.where": "input", "drop.beta": 0.8, "checkpoint.every_steps": 3}
    for ranks in (1, 2, 3):
        runs.classify(f"exact{ranks}", {0: ranks}, **learning)
    runs.classify("exact_231", {3: 2, 6: 3, 0: 1}, **learning)
    for ranks in (1, 2):
        runs.classify(f"plain{ranks}", {0: ranks}, **COMMON)
    maps = runs.folder / "exact1"
    for name, worlds in (("integral1", {0: 1}), ("integral_32", {3: 3, 0: 2})):
        argv = integral_settings(demo_data, maps, runs.folder / name, **EXACT)
        runs.add(name, argv, worlds)
    labels = labels_from_masks(demo_data, runs.folder / "labels")
    for name, worlds in (("segment1", {0: 1}), ("segment_23", {2: 2, 0: 3})):
        argv = segment_settings(demo_data, labels, runs.folder / name, **EXACT)
        runs.add(name, argv, worlds)
    plan = runs.folder / "runs.json"
    plan.write_text(json.dumps(runs.legs))
    code, text = run(torchrun(3, str(WORKER), str(plan)), runs.folder / "log", seconds=450)
    assert code == 0, text
    return runs.folder


def visits(folder: Path, name: str) -> dict[tuple[int, int], list[str]]:
    """The images of each (epoch, step), over all ranks and all worlds that made the run."""
    found: dict[tuple[int, int], list[str]] = {}
    for path in sorted(folder.glob(f"{name}.visits.*")):
        for line in path.read_text().splitlines():
            _, epoch, step, names = json.loads(line)
            found.setdefault((epoch, step), []).extend(names)
    return {key: sorted(names) for key, names in sorted(found.items())}


def metrics(run_dir: Path) -> str:
    return (run_dir / "metrics.jsonl").read_text()


@pytest.mark.parametrize("name", ["still_1231", "exact_231", "integral_32"])
def test_no_image_is_lost_or_seen_twice(made, name):
    seen = visits(made, name)
    assert list(seen) == [(epoch, step) for epoch in range(EPOCHS) for step in range(STEPS)]
    for epoch in range(EPOCHS):
        times = Counter(n for (e, _), names in seen.items() if e == epoch for n in names)
        assert len(times) == IMAGES
        assert set(times.values()) == {1}


@pytest.mark.parametrize(
    ("whole", "changed"),
    [("still", "still_1231"), ("exact1", "exact_231"), ("exact1", "plain2")],
)
def test_the_same_images_in_each_step(made, whole, changed):
    assert visits(made, whole) == visits(made, changed)
    ranks = {path.suffix for path in made.glob(f"{changed}.visits.*")}
    assert len(ranks) > 1, "one rank did it all"


def test_equal_cams_give_equal_maps_through_1_2_3_1(made):
    """The default, DDP: a network that stands still and looks at each image by itself."""
    maps, others = maps_of(made / "still"), maps_of(made / "still_1231")
    assert maps == others
    assert {accepted for _, _, accepted, _ in maps.values()} == {EPOCHS}
    assert any(any(map_) for map_, *_ in maps.values())


@pytest.mark.parametrize("name", ["exact2", "exact3", "exact_231"])
def test_exactly_elastic_runs_agree_to_the_last_bit(made, name):
    assert_same_run(made / "exact1", made / name)
    assert metrics(made / "exact1") == metrics(made / name)


def test_the_default_does_not(made):
    """Or the test above could not fail: the order of sums shows in weights."""
    one, two = weights_of(made / "plain1"), weights_of(made / "plain2")
    different = [key for key in one if one[key].tobytes() != two[key].tobytes()]
    assert len(different) > len(one) / 4
    assert metrics(made / "plain1") != metrics(made / "plain2")


def test_exact_and_plain_learn_the_same(made):
    """The exact step is the plain one but for its last digits; these two differ by drop alone."""
    losses = [
        [json.loads(x)["train/loss"] for x in metrics(made / n).splitlines() if "train/loss" in x]
        for n in ("exact1", "plain1")
    ]
    assert losses[0] == pytest.approx(losses[1], abs=0.05)
    assert losses[0][-1] < losses[0][0]


def test_integral_runs_agree_to_the_last_bit(made):
    assert_same_weights(made / "integral1", made / "integral_32")
    assert metrics(made / "integral1") == metrics(made / "integral_32")
    maps = files_of(made / "integral1" / "attention")
    assert maps == files_of(made / "integral_32" / "attention")
    assert sum(name.endswith(".png") for name in maps) > IMAGES


def test_segmentation_runs_agree_to_the_last_bit(made):
    assert_same_weights(made / "segment1", made / "segment_23")
    assert metrics(made / "segment1") == metrics(made / "segment_23")
    assert '"segmentation/miou"' in metrics(made / "segment1")
