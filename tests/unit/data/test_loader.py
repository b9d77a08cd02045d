"""Batches: padding, extents, unreadable images, micro-batches, and workers that change nothing."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from data_trees import write_image
from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.augment import prepare, stateless_rng
from dist_oaa.data.images import read_image
from dist_oaa.data.loader import MEASURE, Batch, BatchLoader, check_bad_images
from dist_oaa.data.sample import ImageSet, Sample

SHAPES = [(40, 60), (60, 40), (50, 50), (33, 80), (64, 64)]
TENSORS = ("index_B", "images_B3HW", "labels_BC", "geometry_B23", "extent_B2")


def make_set(root: Path, damaged: bool = False) -> ImageSet:
    samples = []
    for n, (height, width) in enumerate(SHAPES):
        path = write_image(root / f"{n}.png", height, width, seed=n)
        samples.append(Sample(f"{n}", path, (n % 3,) if n % 2 else (0, 2), None))
    if damaged:
        (root / "1.png").write_bytes((root / "1.png").read_bytes()[:200])
        (root / "3.png").write_bytes(b"")
        (root / "4.png").unlink()
    return ImageSet(root, ("a", "b", "c"), tuple(samples), "labels.csv")


def config(workers: int = 0) -> DataConfig:
    return DataConfig(size=32, workers=workers, augment=AugmentConfig(scale=[0.8, 1.4]))


def load(image_set: ImageSet, plan: list[list[int]], epoch=0, multiple=8) -> list[Batch]:
    loader = BatchLoader(image_set, config(), multiple, seed=5)
    return list(loader.load([np.array(p, dtype=np.int64) for p in plan], epoch))


def assert_same(a: Batch, b: Batch) -> None:
    assert a.ids == b.ids
    assert a.bad == b.bad
    for name in TENSORS:
        assert torch.equal(getattr(a, name), getattr(b, name)), name


@pytest.mark.parametrize("epoch", [MEASURE, 0, 3])
def test_images_are_padded_at_the_right_and_bottom(tmp_path, epoch):
    image_set = make_set(tmp_path)
    (batch,) = load(image_set, [[3, 0, 2]], epoch)
    assert batch.ids == ["3", "0", "2"]
    assert batch.index_B.tolist() == [3, 0, 2]
    assert batch.labels_BC.tolist() == [[1, 0, 0], [1, 0, 1], [1, 0, 1]]
    assert batch.images_B3HW.dtype == torch.uint8
    height, width = batch.images_B3HW.shape[2:]
    assert (height, width) == tuple(batch.extent_B2.amax(dim=0).tolist())
    for slot, index in enumerate([3, 0, 2]):
        source = read_image(tmp_path / f"{index}.png", 80)
        rng = None if epoch == MEASURE else stateless_rng(5, epoch, str(index), "augment")
        image_HW3, geometry_23 = prepare(source, config(), 8, rng)
        rows, columns = batch.extent_B2[slot].tolist()
        assert (rows, columns) == image_HW3.shape[:2]
        padded = batch.images_B3HW[slot].permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(padded[:rows, :columns], image_HW3)
        assert not padded[rows:].any()
        assert not padded[:, columns:].any()
        np.testing.assert_array_equal(batch.geometry_B23[slot].numpy(), geometry_23)


def test_an_image_is_the_same_in_any_batch(tmp_path):
    image_set = make_set(tmp_path)
    (together,) = load(image_set, [[0, 1, 2, 3, 4]])
    for index, alone in enumerate(load(image_set, [[4], [3], [2], [1], [0]])[::-1]):
        rows, columns = alone.extent_B2[0].tolist()
        assert alone.images_B3HW.shape[2:] == (rows, columns)
        assert together.extent_B2[index].tolist() == [rows, columns]
        assert torch.equal(together.images_B3HW[index, :, :rows, :columns], alone.images_B3HW[0])
        assert torch.equal(together.geometry_B23[index], alone.geometry_B23[0])


def test_an_empty_batch_keeps_its_place(tmp_path):
    first, empty, last = load(make_set(tmp_path), [[1], [], [2]])
    assert (first.ids, empty.ids, last.ids) == (["1"], [], ["2"])
    assert len(empty) == 0
    assert empty.images_B3HW.shape[:2] == (0, 3)
    assert empty.labels_BC.shape == (0, 3)
    assert empty.geometry_B23.shape == (0, 2, 3)
    assert empty.extent_B2.shape == (0, 2)
    assert empty.index_B.dtype == empty.extent_B2.dtype == torch.int64
    (part,) = empty.split(4)
    assert len(part) == 0


def test_bad_images_are_left_out_and_reported(tmp_path):
    image_set = make_set(tmp_path, damaged=True)
    mixed, all_bad = load(image_set, [[0, 1, 2, 3, 4], [4, 3]])
    assert mixed.ids == ["0", "2"]
    assert mixed.labels_BC.tolist() == [[1, 0, 1], [1, 0, 1]]
    assert mixed.images_B3HW.shape[0] == mixed.geometry_B23.shape[0] == 2
    for name, sentence in zip(("1.png", "3.png", "4.png"), mixed.bad, strict=True):
        assert str(tmp_path / name) in sentence
        assert "\n" not in sentence
    assert "the file is empty" in mixed.bad[1]
    assert len(all_bad) == 0
    assert len(all_bad.bad) == 2


def test_the_policy_stops_or_goes_on(tmp_path):
    (batch,) = load(make_set(tmp_path, damaged=True), [[0, 3]])
    with pytest.raises(UserError, match=r"3\.png cannot be read.*data\.on_bad_image") as stop:
        check_bad_images(batch.bad, "stop")
    assert "\n" not in str(stop.value)
    check_bad_images(batch.bad, "skip")
    check_bad_images([], "stop")


@pytest.mark.parametrize("parts", [1, 2, 3, 5, 9])
def test_micro_batches_cover_everything_once_and_in_order(tmp_path, parts):
    image_set = make_set(tmp_path)
    (batch,) = load(image_set, [[2, 0, 4, 1, 3]])
    batch.bad = ["one image"]
    pieces = batch.split(parts)
    assert 1 <= len(pieces) <= parts
    assert all(len(piece) for piece in pieces)
    assert [i for piece in pieces for i in piece.ids] == batch.ids
    for name in TENSORS:
        joined = torch.cat([getattr(piece, name) for piece in pieces])
        assert torch.equal(joined, getattr(batch, name)), name
    assert [s for piece in pieces for s in piece.bad] == ["one image"]
    assert batch.bad == ["one image"]


def test_an_image_over_the_pixel_limit_is_bad(tmp_path):
    image_set = make_set(tmp_path)
    small = DataConfig(size=32, workers=0, pixel_limit=0.0025)
    (batch,) = BatchLoader(image_set, small, 8, 5).load([np.arange(5)], MEASURE)
    assert batch.ids == ["0", "1", "2"]
    assert all("data.pixel_limit" in sentence for sentence in batch.bad)


def test_loading_again_and_stopping_half_way(tmp_path):
    """The same workers serve training and measuring; a run may end inside an epoch."""
    image_set = make_set(tmp_path)
    loader = BatchLoader(image_set, config(), 8, seed=5)
    plan = [np.array([i]) for i in range(5)]
    once = list(loader.load(plan, 1))
    next(iter(loader.load(plan, 2)))
    measured = list(loader.load(plan[:2], MEASURE))
    again = list(loader.load(plan, 1))
    assert len(measured) == 2
    for a, b in zip(once, again, strict=True):
        assert_same(a, b)


@pytest.mark.slow
def test_workers_change_nothing(tmp_path):
    image_set = make_set(tmp_path)
    (tmp_path / "3.png").write_bytes(b"no image")
    plan = [np.array([3, 0]), np.array([], dtype=np.int64), np.array([4, 1]), np.array([2])]
    alone = BatchLoader(image_set, config(0), 8, seed=5)
    helped = BatchLoader(image_set, config(1), 8, seed=5)
    for epoch in (0, 1, MEASURE):
        expected, got = list(alone.load(plan, epoch)), list(helped.load(plan, epoch))
        assert len(got) == len(plan)
        for a, b in zip(expected, got, strict=True):
            assert_same(a, b)
        next(iter(helped.load(plan, 9)))  # what is left unread must not turn up later
    helped.close()


LEFT_OPEN = """
import sys
from pathlib import Path
import numpy as np
from dist_oaa.config.data import DataConfig
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet, Sample

path = Path(sys.argv[1])
images = ImageSet(path.parent, ("a",), (Sample("0", path, (0,), None),), "labels.csv")
loader = BatchLoader(images, DataConfig(size=32, workers=1), 8, seed=0)
unfinished = loader.load([np.array([0])] * 9, 0)
print(next(unfinished).ids, flush=True)
"""


@pytest.mark.slow
def test_a_program_that_leaves_the_loader_open_still_ends(tmp_path):
    """The workers ignore SIGTERM, which is how Python ends its children at exit."""
    path = write_image(tmp_path / "0.png", 40, 40)
    command = [sys.executable, "-c", LEFT_OPEN, str(path)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "['0']\n"
