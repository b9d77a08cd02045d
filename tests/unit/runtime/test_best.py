"""The best checkpoint: kept beside the last ones, whatever is killed in between."""

import json
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.config.run import CheckpointConfig
from dist_oaa.runtime.checkpoint import BEST, Checkpoint, load_checkpoint, save_checkpoint
from dist_oaa.runtime.latest import LATEST, Latest
from fitting import loop_of

METRIC = "cumulative/recall"


def scored(value: float, score: float | None, metric: str = METRIC) -> Checkpoint:
    plain = {"param_groups": [], "state": {}}
    return Checkpoint({"w": torch.full((3,), value)}, plain, {}, int(value), metric, score)


def save(folder, number, score, keep=2, metric=METRIC):
    save_checkpoint(folder, f"step-{number:08d}", scored(number, score, metric), keep)


def folders(folder) -> list[int]:
    return sorted(int(p.name[5:]) for p in folder.glob("step-*"))


def best(folder) -> float:
    return load_checkpoint(folder, "best").model["w"][0].item()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([None, 0.1, 0.2, 0.5, 0.9]), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_last_n_and_best(tmp_path_factory, scores, keep):
    folder = tmp_path_factory.mktemp("c")
    for number, score in enumerate(scores, 1):
        save(folder, number, score, keep)
        seen = [(s, -n) for n, s in enumerate(scores[:number], 1) if s is not None]
        last = set(range(max(1, number - keep + 1), number + 1))
        if seen:
            value, first = max(seen)
            assert best(folder) == -first
            entry = json.loads((folder / BEST).read_text())
            assert entry == {"name": f"step-{-first:08d}", "metric": METRIC, "score": value}
            last.add(-first)
        assert folders(folder) == sorted(last)
        assert load_checkpoint(folder).model["w"][0].item() == number


def test_an_entry_that_a_crash_left_is_put_right(tmp_path, monkeypatch):
    """Killed between best.json and latest.json: the run goes on from the checkpoint before."""

    class Killed(BaseException):
        pass

    def kill(*_):
        raise Killed

    save(tmp_path, 1, 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(Latest, "write", kill)
        with pytest.raises(Killed):
            save(tmp_path, 3, 0.9)
    assert best(tmp_path) == 3  # complete, only not published
    assert load_checkpoint(tmp_path).model["w"][0].item() == 1
    save(tmp_path, 2, 0.1)
    assert best(tmp_path) == 1
    save(tmp_path, 3, 0.9)
    assert best(tmp_path) == 3


def test_other_metrics_do_not_compete(tmp_path):
    save(tmp_path, 1, 0.9, metric="segmentation/miou")
    save(tmp_path, 2, 0.1)
    assert best(tmp_path) == 2
    # A run that goes on without the setting spares what was recorded.
    for number in (3, 4, 5):
        save(tmp_path, number, None, metric="")
    assert folders(tmp_path) == [2, 4, 5]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "kept no best checkpoint, set checkpoint.keep_best"),
        ("{", "best.json is damaged"),
        ('{"name": "step-00000009"}', "it names 'step-00000009', which is not there"),
    ],
)
def test_no_best(tmp_path, text, sentence):
    save(tmp_path, 1, None)
    if text is not None:
        (tmp_path / BEST).write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_checkpoint(tmp_path, "best")
    save(tmp_path, 2, 0.5)
    assert best(tmp_path) == 2


def test_the_loop_hands_the_metric_over(tmp_path):
    figures = iter([0.2, 0.7, float("nan"), 0.7, 0.1])
    loop = loop_of(tmp_path, [[1.0]] * 3, epochs=5, every_steps=1)
    loop.checkpoints = CheckpointConfig(every_steps=1, keep=1, keep_best="figure")
    loop.stage.end_epoch = lambda position: {"figure": next(figures)}
    loop.run()
    folder = tmp_path / "checkpoints"
    assert json.loads((folder / BEST).read_text())["score"] == 0.7
    assert load_checkpoint(folder, "best").state["epoch"] == 2
    assert load_checkpoint(folder).state["epoch"] == 5
    assert len(list(folder.glob("step-*"))) == 2


def test_a_metric_that_is_not_measured_is_said_once(tmp_path, monkeypatch):
    loop = loop_of(tmp_path, [[1.0]], epochs=2)
    loop.checkpoints = CheckpointConfig(keep_best="cumulative/recal")
    said = []
    monkeypatch.setattr(loop.reporter, "say", said.append)
    loop.run()
    assert [text for text in said if "keep_best" in text] == [
        "checkpoint.keep_best cumulative/recal was not measured in this epoch, only figure"
    ]
    assert not (tmp_path / "checkpoints" / BEST).exists()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9))
def test_a_flipped_bit_in_any_file_is_named_or_without_effect(tmp_path_factory, seed):
    folder = tmp_path_factory.getbasetemp() / "flips"
    if not folder.exists():
        save(folder, 1, 0.5)
    rng = random.Random(seed)
    paths = [folder / LATEST, *sorted((folder / "step-00000001").iterdir())]
    path = rng.choice(paths)
    intact = path.read_bytes()
    broken = bytearray(intact)
    if rng.random() < 0.2:
        broken = broken[: rng.randrange(len(broken))]
    else:
        broken[rng.randrange(len(broken))] ^= 1 << rng.randrange(8)
    path.write_bytes(broken)
    try:
        found = load_checkpoint(folder)
    except UserError as error:
        place = LATEST if path.name == LATEST else "step-00000001"
        assert place in str(error)  # noqa: PT017
        if path.name not in (LATEST, "sha256.json"):
            assert f"{path.name} is damaged" in str(error)  # noqa: PT017
    else:
        assert path.name in (LATEST, "sha256.json")  # white space
        assert torch.equal(found.model["w"], torch.ones(3))
        assert found.generation == Latest.read(folder).generation == 1
    finally:
        path.write_bytes(intact)
