"""The public accumulator: its maps against hand work and the internal one, durability, mistakes."""

import numpy as np
import pytest
import torch

from dist_oaa import AttentionAccumulator, Geometry, UserError
from dist_oaa.attention.batch import Rules
from dist_oaa.plugin.layout import make_manifest, new_store
from dist_oaa.runtime.distributed import World
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter

IDS = ["b", "a/x", "c"]
LABELS = np.array([[1, 0, 1], [0, 1, 0], [0, 0, 0]])


def make(folder, **options) -> AttentionAccumulator:
    options = {"map_size": 2, "shards": 2, "gate": "none", "device": "cpu"} | options
    return AttentionAccumulator.create(folder, IDS, LABELS, **options)


def cam_of(*values) -> torch.Tensor:
    """2 x 2 maps for one image."""
    return torch.tensor(values, dtype=torch.float32).view(1, -1, 2, 2)


SCORES = torch.zeros(1, 3)


def test_by_hand(tmp_path):
    """Eq. 2 and 5: ReLU over the maximum, then the larger of each cell."""
    with make(tmp_path / "store", dtype="float32") as accumulator:
        first = cam_of([4.0, 2, -1, 0], [9.0, 9, 9, 9], [-1.0, -2, -3, -4])
        outcome = accumulator.update(first, SCORES, ["b"])
        assert outcome.accepted_P.tolist() == [True, True]
        maps = accumulator.maps("b")
        assert {c: m.flatten().tolist() for c, m in maps.items()} == {
            0: [1, 0.5, 0, 0],
            2: [0, 0, 0, 0],
        }
        second = cam_of([1.0, 2, 1, 0], [0.0, 0, 0, 0], [0.0, 8, 2, 0])
        accumulator.update(second, SCORES, ["b"])
        maps = accumulator.maps("b")
        assert maps[0].flatten().tolist() == [1, 1, 0.5, 0]
        assert maps[2].flatten().tolist() == [0, 1, 0.25, 0]
        assert accumulator.maps("a/x")[1].sum() == 0
        assert accumulator.maps("c") == {}


def test_the_gate_compares_with_classes_that_the_image_does_not_show(tmp_path):
    with make(tmp_path / "store", gate="strict") as accumulator:
        logits = torch.tensor([[1.0, 0.5, 0.2]])
        outcome = accumulator.update(torch.ones(1, 3, 2, 2), logits, ["b"])
        assert outcome.accepted_P.tolist() == [True, False]
        outcome = accumulator.update(torch.ones(1, 3, 2, 2), logits, ["b"], fallback=True)
        assert outcome.fallback_P.tolist() == [False, True]
        assert accumulator.maps("b")[2].min() == 1


def test_a_softmax_is_asked_for_its_probability(tmp_path):
    """Scores of 0 are 0.5 each of three sigmoids, and a third each of one softmax."""
    for softmax, accepted in ((False, True), (True, False)):
        folder = tmp_path / f"{softmax}"
        with make(folder, gate="prob", tau=0.4, softmax=softmax) as accumulator:
            outcome = accumulator.update(torch.ones(1, 3, 2, 2), SCORES, ["b"])
            assert outcome.accepted_P.tolist() == [accepted] * 2


def test_geometry_is_undone(tmp_path):
    cam = cam_of([4.0, 2, 1, 0], [0.0] * 4, [0.0] * 4)
    with make(tmp_path / "store", dtype="float32") as accumulator:
        view = Geometry(20, 30).hflip()
        accumulator.update(cam, SCORES, ["b"], view.matrix[None])
        assert accumulator.maps("b")[0].flatten().tolist() == [0.5, 1, 0, 0.25]
        # The right half alone: the left column of cells is left as it was.
        view = Geometry(20, 30).crop(0, 15, 20, 15)
        accumulator.update(
            cam_of([8.0] * 4, [0.0] * 4, [0.0] * 4), SCORES, ["b"], view.matrix[None]
        )
        assert accumulator.maps("b")[0].flatten().tolist() == [0.5, 1, 0, 1]


def test_maps_of_other_types_devices_and_graphs(tmp_path):
    with make(tmp_path / "store") as accumulator:
        cam = torch.rand(2, 3, 5, 7, requires_grad=True)
        logits = torch.zeros(2, 3, requires_grad=True)
        for each in (cam, cam.detach().half(), cam.detach().to(memory_format=torch.channels_last)):
            accumulator.update(each * 1, logits * 1, ("b", "c"), np.eye(2, 3)[None].repeat(2, 0))
        assert accumulator.maps("b")[0].max() > 0
        assert len(accumulator.update(cam[:0], logits[:0], []).accepted_P) == 0


def test_commits_are_durable_and_two_are_kept(tmp_path):
    folder = tmp_path / "store"
    seen = {}
    with make(folder) as accumulator:
        for value in (1.0, 2, 3):
            cam = cam_of([4, value, 0, 0], [0.0] * 4, [0.0] * 4)
            accumulator.update(cam, SCORES, ["b"])
            seen[accumulator.commit()] = accumulator.maps("b")[0].clone()
        accumulator.update(cam_of([9.0] * 4, [9.0] * 4, [9.0] * 4), SCORES, ["b"])  # lost
    assert list(seen) == [1, 2, 3]
    for asked, generation in ((None, 3), (2, 2), (None, 2)):  # opening 2 gave 3 back
        with AttentionAccumulator.open(folder, generation=asked, device="cpu") as accumulator:
            assert accumulator.generation == generation
            assert torch.equal(accumulator.maps("b")[0], seen[generation])
            assert accumulator.image_ids == sorted(IDS)
    with pytest.raises(UserError, match="holds generation 1 and 2, but generation 3 was asked for"):
        AttentionAccumulator.open(folder, generation=3, device="cpu")


def test_going_on_equals_never_having_stopped(tmp_path):
    """Average fusion counts its updates, so a lost or repeated one would show."""
    rng = torch.Generator().manual_seed(0)
    steps = [torch.rand(1, 3, 4, 4, generator=rng) for _ in range(4)]
    with make(tmp_path / "whole", fusion="average") as whole:
        for cam in steps:
            whole.update(cam, SCORES, ["b"])
        expected = whole.maps("b")
    with make(tmp_path / "parts", fusion="average") as part:
        for cam in steps[:2]:
            part.update(cam, SCORES, ["b"])
        part.commit()
    with AttentionAccumulator.open(tmp_path / "parts", gate="none", device="cpu") as part:
        for cam in steps[2:]:
            part.update(cam, SCORES, ["b"])
        assert all(torch.equal(part.maps("b")[c], m) for c, m in expected.items())


def test_nothing_new_is_not_written(tmp_path):
    with make(tmp_path / "store") as accumulator:
        assert accumulator.commit() == 1  # an empty store can be opened too
        assert accumulator.commit() == 1
        accumulator.update(torch.ones(1, 3, 2, 2), SCORES, ["b"])
        assert accumulator.commit() == 2


def test_a_commit_that_fails_is_tried_again(tmp_path, monkeypatch):
    folder = tmp_path / "store"
    with make(folder) as accumulator:
        accumulator.update(torch.ones(1, 3, 2, 2), SCORES, ["b"])
        store = accumulator._resident.store
        whole = store.commit
        monkeypatch.setattr(store, "commit", lambda *a: (_ for _ in ()).throw(UserError("full")))
        with pytest.raises(UserError, match="full"):
            accumulator.commit()
        assert accumulator.generation == 0
        monkeypatch.setattr(store, "commit", whole)
        assert accumulator.commit() == 1
    with AttentionAccumulator.open(folder, device="cpu") as accumulator:
        assert accumulator.maps("b")[0].min() == 1


def test_the_store_is_that_of_the_stages(tmp_path):
    with make(tmp_path / "store", class_names=["cat", "dog", "owl"]) as accumulator:
        accumulator.update(torch.ones(1, 3, 2, 2), SCORES, ["b"])
        accumulator.commit()
        assert accumulator.class_names == ("cat", "dog", "owl")
    reader = StoreReader(tmp_path / "store")
    assert reader.manifest.class_names == ("cat", "dog", "owl")
    assert [(name, c) for name, c, _ in reader.records()] == [("b", 0), ("b", 2)]


@pytest.mark.parametrize(
    "labels", [[2, 1, 0], np.array([2, 1, 0], np.uint8), torch.tensor([2, 1, 0])]
)
def test_single_labels(tmp_path, labels):
    with AttentionAccumulator.create(tmp_path / "s", IDS, labels, 2, device="cpu") as accumulator:
        assert accumulator.class_names == ("0", "1", "2")
        assert [list(accumulator.maps(name)) for name in IDS] == [[2], [1], [0]]


def test_an_existing_store_is_never_overwritten(tmp_path):
    folder = tmp_path / "store"
    with make(folder):
        pass
    with pytest.raises(UserError, match="holds no committed maps"):
        AttentionAccumulator.open(folder, device="cpu")
    with make(folder) as accumulator:  # nothing was ever committed
        accumulator.commit()
        with pytest.raises(UserError, match="is being written"):
            AttentionAccumulator.open(folder, device="cpu")
    with pytest.raises(UserError, match="holds accumulated maps already; go on with Attention"):
        make(folder)
    with pytest.raises(UserError, match="is no store"):
        AttentionAccumulator.open(tmp_path, device="cpu")


BATCHES = {
    "cam has shape (1, 4, 2, 2), expected (1, 3, H, W)": ((1, 4, 2, 2), (1, 3), ["b"], None),
    "cam has shape (3, 2, 2), expected": ((3, 2, 2), (1, 3), ["b"], None),
    "logits have shape (1, 2), expected (1, 3)": ((1, 3, 2, 2), (1, 2), ["b"], None),
    "geometry has shape (2, 3), expected (1, 2, 3)": ((1, 3, 2, 2), (1, 3), ["b"], (2, 3)),
    "the image 'd' is not in the store": ((1, 3, 2, 2), (1, 3), ["d"], None),
    "the image 'b' is twice in one batch": ((2, 3, 2, 2), (2, 3), ["b", "b"], None),
}


@pytest.mark.parametrize("sentence", BATCHES)
def test_batches_that_do_not_fit(tmp_path, sentence):
    cam, logits, ids, geometry = BATCHES[sentence]
    geometry = None if geometry is None else torch.zeros(geometry)
    with make(tmp_path / "store") as accumulator:
        with pytest.raises(UserError) as caught:
            accumulator.update(torch.ones(cam), torch.ones(logits), ids, geometry)
        assert sentence in str(caught.value)
        assert accumulator.maps("b")[0].sum() == 0


MISTAKES = {
    "labels have shape (2, 3)": {"labels": LABELS[:2]},
    "labels have shape (0,) and type object": {"labels": [[1], [0, 1], []]},
    "the labels of image 'a/x' are [0, 2, 0], expected 0 or 1": {"labels": LABELS * [1, 2, 1]},
    "the labels of image 'b' are -1, expected a class index": {"labels": [-1, 0, 1]},
    "'b' more than once": {"image_ids": ["b", "b", "c"]},
    "image_ids is empty": {"image_ids": [], "labels": np.zeros((0, 3))},
    "image_ids has 7, a int, expected names": {"image_ids": ["b", 7, "c"]},
    "image name '../x' cannot be kept": {"image_ids": ["b", "../x", "c"]},
    "class_names has 2 names": {"class_names": ["cat", "dog"]},
    "gate is 'loose', expected strict": {"gate": "loose"},
    "dtype is 'int8', expected auto": {"dtype": "int8"},
    "tau is 2": {"gate": "prob", "tau": 2},
    "map_size is 0": {"map_size": 0},
    "shards is 0": {"shards": 0},
    "fusion is 'median'": {"fusion": "median"},
}


@pytest.mark.parametrize("sentence", MISTAKES)
def test_settings_that_are_wrong(tmp_path, sentence):
    options = {"image_ids": IDS, "labels": LABELS, "device": "cpu"} | MISTAKES[sentence]
    with pytest.raises(UserError) as caught:
        AttentionAccumulator.create(tmp_path / "store", **options)
    assert sentence in str(caught.value)
    assert not (tmp_path / "store").exists()


def test_an_image_of_another_rank(tmp_path):
    """Without processes: the half of a store that rank 0 of two keeps."""
    manifest = new_store(tmp_path / "s", make_manifest(IDS, LABELS, None, 2, "max", "auto", 2))
    store = StoreWriter(tmp_path / "s", manifest, 0, 2, 0)
    world = World(0, 2, 0, torch.device("cpu"))
    with AttentionAccumulator(world, store, 0, Rules(), False) as accumulator:
        mine = accumulator.image_ids
        other = next(name for name in IDS if name not in mine)
        accumulator.update(torch.ones(1, 3, 2, 2), SCORES, mine[:1])
        for use in (
            accumulator.maps,
            lambda n: accumulator.update(torch.ones(1, 3, 2, 2), SCORES, [n]),
        ):
            with pytest.raises(
                UserError, match=f"{other!r} belongs to rank 1, but is used by rank 0"
            ):
                use(other)
