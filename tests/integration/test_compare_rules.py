"""Several rules on the attention of one training: as if each had trained alone."""

import json

import pytest

from dist_oaa.store.reader import StoreReader
from processes import alone, run, torchrun
from runs import maps_of, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

# Its last bias stays where it is, so that a network that has learnt nothing attends to something.
SETTINGS = {"optim.epochs": 3, "optim.multipliers": "[1, 2, 10, 0]"}

OWN_FUSION = """
import torch
from dist_oaa.attention.fusions import Fusion

def confirmed(step):
    return torch.maximum(step.previous, torch.minimum(step.attention, step.last))

CONFIRMED = Fusion("confirmed", confirmed)
"""


@pytest.fixture(scope="module")
def train(demo_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rules")
    (folder / "my_fusions.py").write_text(OWN_FUSION)

    def start(name: str, ranks: int = 1, code: int = 0, **changes) -> str:
        flags = settings(demo_data, folder / name, **SETTINGS | changes)
        command = torchrun(ranks, "-m", "dist_oaa", *flags) if ranks > 1 else alone(*flags)
        environment = {"PYTHONPATH": f"{folder}:."}
        ended, text = run(command, folder / f"{name}.log", **environment)
        assert ended == code, text
        return text

    start.folder = folder
    start(
        "all",
        ranks=2,
        accumulate__compare="[average, none+ema, contest+max, my_fusions:CONFIRMED]",
    )
    return start


def test_each_rule_gives_the_maps_of_a_run_of_its_own(train):
    train("average", ranks=2, accumulate__fusion="average")
    train("contest", ranks=2, accumulate__gate="contest")
    for store, own in (("store-average", "average"), ("store-contest_max", "contest")):
        compared = maps_of(train.folder / "all" / store)
        assert compared == maps_of(train.folder / own)
        assert compared != maps_of(train.folder / "all")


def test_each_rule_has_its_figures_and_its_row(train):
    lines = (train.folder / "all" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    kinds = {name.split("/")[0] for name in last if name.endswith("/recall")}
    assert kinds == {
        "cam",
        "cumulative",
        "cumulative_average",
        "cumulative_none_ema",
        "cumulative_contest_max",
        "cumulative_my_fusions_CONFIRMED",
    }
    text = (train.folder / "all.log").read_text()
    for rule in ("average", "none+ema", "contest+max"):
        assert f"compared: {rule} " in text


def test_a_fusion_of_ones_own_is_applied(train):
    own = StoreReader(train.folder / "all" / "store-my_fusions_CONFIRMED").records()
    largest = {(n, c): r for n, c, r in StoreReader(train.folder / "all").records()}
    lower = 0
    for name, c, record in own:
        assert (record.map_SS <= largest[name, c].map_SS).all()
        lower += (record.map_SS < largest[name, c].map_SS).any()
    assert lower > 0


def test_a_rule_that_cannot_be_is_refused_before_anything_is_written(train):
    text = train("refused", code=2, accumulate__fusion="my_fusions:NOTHING")
    assert "oaa: error: accumulate.fusion my_fusions:NOTHING: " in text
    text = train("refused", code=2, accumulate__compare="[mean]")
    assert "'mean', expected max, average, harmonic, ema, or module:NAME" in text
    assert not (train.folder / "refused").exists()
