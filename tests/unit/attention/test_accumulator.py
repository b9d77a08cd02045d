"""The resident maps with their store: any world writes the same store, and it comes back whole."""

from pathlib import Path

import numpy as np
import pytest
import torch

from cases import GEOMETRIES, assert_same_bits, copy_bank
from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.attention.batch import Observation, Rules
from dist_oaa.config.errors import UserError
from dist_oaa.data.augment import stateless_rng
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store

IMAGES, CLASSES, SHARDS, EPOCHS, BATCH = 23, 4, 7, 3, 6


def make_manifest(dtype: str = "uint8", fusion: str = "max") -> Manifest:
    rng = np.random.default_rng(0)
    labels = [sorted(rng.permutation(CLASSES)[: rng.integers(0, 4)].tolist()) for _ in range(23)]
    return Manifest(
        map_size=9,
        dtype=dtype,
        fusion=fusion,
        shards=SHARDS,
        class_names=("ant", "bee", "cow", "doe"),
        fingerprint="f",
        image_ids=tuple(
            f"part{i % 3}/{i:03d}" for i in sorted(range(23), key=lambda i: (i % 3, i))
        ),
        classes=tuple(map(tuple, labels)),
        store_id="s",
    )


def observe(accumulator: AttentionAccumulator, index_B: np.ndarray, epoch: int) -> Observation:
    """What a classifier would see: a function of image and epoch, padded to the batch's size."""
    manifest = accumulator.store.manifest
    rngs = [stateless_rng(0, epoch, manifest.image_ids[i], "cam") for i in index_B]
    cells = [(int(r.integers(2, 8)), int(r.integers(2, 8))) for r in rngs]
    height, width = (max((c[axis] for c in cells), default=1) for axis in (0, 1))
    cam_BCHW = torch.full((len(index_B), CLASSES, height, width), torch.nan)
    logits_BC = torch.zeros(len(index_B), CLASSES)
    labels_BC = torch.zeros(len(index_B), CLASSES, dtype=torch.uint8)
    geometry_B23 = torch.zeros(len(index_B), 2, 3)
    for b, (rng, (rows, columns)) in enumerate(zip(rngs, cells, strict=True)):
        cam_BCHW[b, :, :rows, :columns] = torch.from_numpy(rng.normal(size=(4, rows, columns)))
        logits_BC[b] = torch.from_numpy(rng.normal(size=CLASSES))
        labels_BC[b, list(manifest.classes[index_B[b]])] = 1
        geometry_B23[b] = torch.from_numpy(GEOMETRIES[rng.choice(sorted(GEOMETRIES))])
    return Observation(
        cam_BCHW,
        logits_BC,
        labels_BC,
        geometry_B23,
        torch.tensor(cells, dtype=torch.int64).reshape(-1, 2),
        accumulator.pairs(torch.from_numpy(index_B), labels_BC),
    )


def train(folder: Path, manifest: Manifest, worlds: list[int]) -> None:
    """One world for each epoch: accumulate on every rank, then commit a generation."""
    prepare_store(folder, manifest, resume=False)
    order = EpochOrder(manifest.shard_N, manifest.shards, seed=1)
    for epoch, world in enumerate(worlds):
        rules = Rules(fusion=manifest.fusion, fallback=epoch == len(worlds) - 1)
        for rank in range(world):
            accumulator = AttentionAccumulator(
                StoreWriter(folder, manifest, rank, world, generation=epoch)
            )
            for index_B in order.batches(epoch, BATCH, rank, world):
                accumulator.update(observe(accumulator, index_B, epoch), rules)
            accumulator.commit(epoch + 1)
            accumulator.close()


def contents(folder: Path) -> dict[tuple[str, int], tuple]:
    return {
        (name, class_): (r.map_SS.tobytes(), r.last_SS.tobytes(), r.accepted, r.fallback)
        for name, class_, r in StoreReader(folder).records()
    }


@pytest.mark.parametrize(("dtype", "fusion"), [("uint8", "max"), ("float32", "average")])
def test_any_world_writes_the_same_store(tmp_path, dtype, fusion):
    manifest = make_manifest(dtype, fusion)
    stores = {}
    # The last two change the world from one epoch to the next.
    for worlds in ([1] * 3, [2] * 3, [3] * 3, [5] * 3, [SHARDS] * 3, [4, 2, 3], [1, 5, 2]):
        folder = tmp_path / "-".join(map(str, worlds))
        train(folder, manifest, worlds)
        stores[tuple(worlds)] = contents(folder)
    alone = stores[1, 1, 1]
    assert len(alone) == manifest.pairs > 20  # accepted at some time, or a fallback at the end
    assert any(accepted > 1 for _, _, accepted, _ in alone.values())
    assert any(fallback for *_, fallback in alone.values())
    for worlds, store in stores.items():
        assert store == alone, worlds


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_commit_and_reopen_restores_the_bank(tmp_path, dtype):
    manifest = make_manifest(dtype)
    prepare_store(tmp_path, manifest, resume=False)
    order = EpochOrder(manifest.shard_N, manifest.shards, seed=1)
    accumulator = AttentionAccumulator(StoreWriter(tmp_path, manifest, 1, 2, 0))
    for index_B in order.batches(0, BATCH, 1, 2):
        accumulator.update(observe(accumulator, index_B, 0), Rules(fallback=True))
    assert accumulator.bank.dirty_R.any()
    assert 0 < accumulator.bank.fallback_R.sum() < accumulator.store.rows
    assert accumulator.commit(1) > 0
    committed = copy_bank(accumulator.bank)
    assert not committed.dirty_R.any()
    accumulator.update(observe(accumulator, order.batches(1, BATCH, 1, 2)[0], 1), Rules("none"))
    accumulator.close()

    reopened = AttentionAccumulator(StoreWriter(tmp_path, manifest, 1, 2, 1))
    assert committed.maps_RSS.any()
    assert_same_bits(reopened.bank, committed)
    assert reopened.commit(2) == 0  # nothing has changed since
    reopened.close()


def test_an_unpublished_generation_is_forgotten(tmp_path):
    manifest = make_manifest()
    prepare_store(tmp_path, manifest, resume=False)
    index_B = np.arange(IMAGES)
    accumulator = AttentionAccumulator(StoreWriter(tmp_path, manifest, 0, 1, 0))
    accumulator.update(observe(accumulator, index_B, 0), Rules("none"))
    accumulator.commit(1)
    published = copy_bank(accumulator.bank)
    accumulator.update(observe(accumulator, index_B, 1), Rules("none"))
    accumulator.commit(2)
    ahead = copy_bank(accumulator.bank)
    accumulator.close()
    reopened = AttentionAccumulator(StoreWriter(tmp_path, manifest, 0, 1, 1))
    assert_same_bits(reopened.bank, published)
    # The second attempt at the same epoch arrives at the same maps.
    reopened.update(observe(reopened, index_B, 1), Rules("none"))
    reopened.bank.dirty_R.zero_()
    assert_same_bits(reopened.bank, ahead)
    reopened.close()


def test_a_failed_commit_keeps_the_rows_dirty(tmp_path, monkeypatch):
    manifest = make_manifest()
    prepare_store(tmp_path, manifest, resume=False)
    accumulator = AttentionAccumulator(StoreWriter(tmp_path, manifest, 0, 1, 0))
    accumulator.update(observe(accumulator, np.arange(IMAGES), 0), Rules("none"))
    dirty = accumulator.bank.dirty_R.clone()

    def full(*_):
        raise UserError("the disk is full")

    monkeypatch.setattr(accumulator.store, "commit", full)
    with pytest.raises(UserError, match="full"):
        accumulator.commit(1)
    assert dirty.any()
    assert torch.equal(accumulator.bank.dirty_R, dirty)
    accumulator.close()


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
def test_a_snapshot_is_what_the_bank_was(tmp_path, dtype):
    """The bank goes on before the copy is written; what comes later belongs to the next one."""
    manifest = make_manifest(dtype)
    prepare_store(tmp_path, manifest, resume=False)
    accumulator = AttentionAccumulator(StoreWriter(tmp_path, manifest, 0, 1, 0))
    bank = accumulator.bank
    accumulator.update(observe(accumulator, np.arange(0, IMAGES, 2), 0), Rules("none"))
    then = copy_bank(bank)
    first = accumulator.snapshot()
    assert not bank.dirty_R.any()
    accumulator.update(observe(accumulator, np.arange(0, IMAGES, 3), 1), Rules("none"))
    changed_R = bank.dirty_R.clone()
    second = accumulator.snapshot()
    assert len(accumulator.snapshot()) == 0

    for rows, state, dirty_R in ((first, then, then.dirty_R), (second, bank, changed_R)):
        assert 0 < len(rows) < manifest.pairs
        assert rows.rows_K.tolist() == [r for r in range(manifest.pairs) if dirty_R[r]]
        assert rows.rows_K.dtype == np.int64
        for k, row in enumerate(rows.rows_K.tolist()):
            assert np.array_equal(rows.maps_K2SS[k, 0], state.maps_RSS[row].numpy())
            assert np.array_equal(rows.maps_K2SS[k, 1], state.last_RSS[row].numpy())
            assert rows.accepted_K[k] == state.accepted_R[row]
            assert rows.fallback_K[k] == state.fallback_R[row]
    both = set(first.rows_K.tolist()) & set(second.rows_K.tolist())
    assert any((then.maps_RSS[r] != bank.maps_RSS[r]).any() for r in both)

    accumulator.store.commit(1, first)
    accumulator.store.commit(2, second)
    accumulator.close()
    for generation, state in ((2, bank), (1, then)):
        reopened = AttentionAccumulator(StoreWriter(tmp_path, manifest, 0, 1, generation))
        state.dirty_R.zero_()
        assert_same_bits(reopened.bank, state)
        reopened.close()


def test_pairs_are_the_rows_of_the_store(tmp_path):
    manifest = make_manifest()
    prepare_store(tmp_path, manifest, resume=False)
    accumulator = AttentionAccumulator(StoreWriter(tmp_path, manifest, 0, 1, 0))
    seen = observe(accumulator, np.arange(IMAGES), 0)
    assert sorted(seen.pairs.row_P.tolist()) == list(range(manifest.pairs))
    accumulator.update(seen, Rules("none"))
    accumulator.commit(1)
    expected = {
        (manifest.image_ids[b], c): accumulator.bank.maps_RSS[row].numpy().tobytes()
        for b, c, row in zip(
            seen.pairs.image_P.tolist(),
            seen.pairs.class_P.tolist(),
            seen.pairs.row_P.tolist(),
            strict=True,
        )
        if accumulator.bank.accepted_R[row]
    }
    accumulator.close()
    assert {key: value[0] for key, value in contents(tmp_path).items()} == expected
