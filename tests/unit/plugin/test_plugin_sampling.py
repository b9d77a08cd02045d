"""Ownership samplers: every image once, on the rank that keeps its maps, in one global order."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from dist_oaa import OwnershipBatchSampler, OwnershipSampler, UserError
from dist_oaa.plugin.sampling import SHARDS
from dist_oaa.store.ownership import assign_shards, owned_shards


class Named(Dataset):
    def __init__(self, count: int, step: int = 1) -> None:
        # Not in name order: step is prime to the count.
        self.image_ids = [f"photo-{i * step % count:04d}" for i in range(count)]

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, n: int) -> str:
        return self.image_ids[n]


def owners(data: Named, world: int, shards: int) -> np.ndarray:
    """By the definition of ownership, image by image."""
    shard_of = dict(
        zip(sorted(data.image_ids), assign_shards(sorted(data.image_ids), shards), strict=True)
    )
    rank_of = {s: r for r in range(world) for s in owned_shards(r, world, shards)}
    return np.array([rank_of[shard_of[name]] for name in data.image_ids])


@given(
    st.integers(8, 60), st.integers(1, 5), st.integers(5, 24), st.integers(1, 6), st.integers(0, 3)
)
@settings(max_examples=60, deadline=None)
def test_batches_of_any_world(count, world, shards, batch_size, epoch):
    data = Named(count)
    owner = owners(data, world, shards)
    if len(set(owner)) < world:
        return
    ranks = [
        OwnershipBatchSampler(data, batch_size, world, rank, seed=7, shards=shards)
        for rank in range(world)
    ]
    for sampler in ranks:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in ranks]
    assert len({len(part) for part in batches}) == 1, "DDP would wait for ever"
    assert all(len(part) == len(s) for part, s in zip(batches, ranks, strict=True))
    assert all(batch for part in batches for batch in part)
    for rank, part in enumerate(batches):
        assert {int(owner[n]) for batch in part for n in batch} == {rank}
    assert sorted(n for part in batches for batch in part for n in batch) == list(range(count))


def test_full_batches_where_the_world_divides_the_shards():
    data = Named(50)
    sizes = [[len(batch) for batch in OwnershipBatchSampler(data, 4, 2, rank)] for rank in range(2)]
    assert sizes == [[4, 4, 4, 4, 4, 5], [4, 4, 4, 4, 4, 5]] or sizes == [[4] * 6 + [1]] * 2


def test_the_same_steps_at_any_world_size():
    """Rank parts together are the batch that a world of one would take."""
    data = Named(47, step=5)
    alone = [sorted(batch) for batch in OwnershipBatchSampler(data, 8, 1, 0, seed=1)]
    pair = [OwnershipBatchSampler(data, 4, 2, rank, seed=1) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*pair, strict=True)] == alone


def test_the_order_depends_on_names_seed_and_epoch_alone():
    def visited(data: Named, seed: int, epoch: int) -> list[str]:
        sampler = OwnershipSampler(data, 1, 0, seed=seed)
        sampler.set_epoch(epoch)
        return [data[n] for n in sampler]

    first = visited(Named(31), 0, 0)
    assert visited(Named(31, step=7), 0, 0) == first
    assert visited(Named(31), 0, 1) != first != visited(Named(31), 1, 0)


def test_the_drop_in_takes_the_place_of_distributed_sampler():
    data = Named(50, step=7)
    owner = owners(data, 3, SHARDS)
    samplers = [OwnershipSampler(data, 3, rank) for rank in range(3)]
    assert all(isinstance(s, DistributedSampler) for s in samplers)
    parts = [list(DataLoader(data, batch_size=None, sampler=s)) for s in samplers]
    assert sorted(name for part in parts for name in part) == sorted(data.image_ids)
    assert [len(part) for part in parts] == [len(s) for s in samplers]
    for rank, part in enumerate(parts):
        assert sorted(part) == sorted(np.array(data.image_ids)[owner == rank])


def test_without_shuffling_in_the_order_of_the_data_set():
    data = Named(20, step=3)
    owner = owners(data, 2, SHARDS)
    for rank in range(2):
        sampler = OwnershipSampler(data, 2, rank, shuffle=False)
        assert list(sampler) == np.flatnonzero(owner == rank).tolist()


def test_drop_last_makes_ranks_even():
    data = Named(101)
    samplers = [OwnershipSampler(data, 2, rank, drop_last=True) for rank in range(2)]
    assert [len(list(s)) for s in samplers] == [len(s) for s in samplers] == [50, 50]
    left = set()
    for epoch in range(8):
        for sampler in samplers:
            sampler.set_epoch(epoch)
        left |= set(range(101)) - {n for s in samplers for n in s}
    assert len(left) > 1, "the same image is left out in every epoch"


def test_mistakes():
    data = Named(6)
    with pytest.raises(UserError, match="has no image_ids"):
        OwnershipSampler(torch.zeros(6))
    with pytest.raises(UserError, match="5 names for a data set of 6 images"):
        OwnershipSampler(data, image_ids=list("abcde"))
    with pytest.raises(UserError, match="'a' more than once"):
        OwnershipSampler(data, image_ids=list("abcdea"))
    with pytest.raises(UserError, match="leave rank 6 of 8 without any"):
        OwnershipSampler(data, 8, 0)
    with pytest.raises(UserError, match="rank is 2 in a world of 2"):
        OwnershipSampler(data, 2, 2)
    with pytest.raises(UserError, match="batch_size is 0"):
        OwnershipBatchSampler(data, 0)


def test_a_world_that_was_not_joined(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match=r"WORLD_SIZE is 2, but torch\.distributed is not initial"):
        OwnershipSampler(Named(6))
