"""The visiting order over many topologies: pure functions, no process is started."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.data.sampler import EpochOrder
from dist_oaa.store.ownership import owned_shards


@st.composite
def orders(draw) -> EpochOrder:
    images, shards = draw(st.integers(1, 200)), draw(st.integers(1, 40))
    shard_N = np.empty(images, dtype=np.int64)
    dealt = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).permutation(images)
    shard_N[dealt] = np.arange(images) % shards
    return EpochOrder(shard_N, shards, seed=draw(st.integers(0, 5)))


worlds = st.integers(1, 9)
batch_sizes = st.integers(1, 70)


@given(orders(), st.integers(0, 3), batch_sizes, worlds)
def test_every_image_exactly_once_by_the_rank_that_owns_it(order, epoch, batch_size, world):
    visited = []
    for rank in range(world):
        parts = order.batches(epoch, batch_size, rank, world)
        assert len(parts) == order.steps(batch_size)
        for index in np.concatenate(parts):
            assert order.shard_N[index] % world == rank
            visited.append(int(index))
    assert sorted(visited) == list(range(len(order.shard_N)))


@given(orders(), st.integers(0, 3), batch_sizes, worlds)
def test_a_step_has_the_same_images_at_any_world_size(order, epoch, batch_size, world):
    stream = order.stream(epoch).tolist()
    parts = [order.batches(epoch, batch_size, rank, world) for rank in range(world)]
    for step in range(order.steps(batch_size)):
        union = {int(index) for part in parts for index in part[step]}
        assert union == set(stream[step * batch_size : (step + 1) * batch_size])


@given(orders(), st.integers(0, 3))
def test_positions_are_dealt_to_the_shards_in_turn(order, epoch):
    stream = order.stream(epoch)
    assert order.shard_N[stream].tolist() == [p % order.shards for p in range(len(stream))]


@given(orders(), batch_sizes, worlds, st.data())
def test_resuming_inside_an_epoch_gives_the_same_tail(order, batch_size, world, data):
    first_step = data.draw(st.integers(0, order.steps(batch_size)))
    rank = data.draw(st.integers(0, world - 1))
    whole = order.batches(2, batch_size, rank, world)
    tail = order.batches(2, batch_size, rank, world, first_step)
    assert [t.tolist() for t in tail] == [w.tolist() for w in whole[first_step:]]


def order_of(seed: int = 0, images: int = 60, shards: int = 4) -> EpochOrder:
    return EpochOrder(np.arange(images) % shards, shards, seed)


def test_the_order_is_a_function_of_seed_and_epoch():
    streams = {(s, e): tuple(order_of(s).stream(e)) for s in range(4) for e in range(4)}
    assert len(set(streams.values())) == 16
    assert streams[2, 3] == tuple(order_of(2).stream(3))


def test_shards_are_shuffled_apart_from_each_other():
    """Shards that hold alike numbers of images must not all use the same permutation."""
    stream = order_of(shards=4).stream(0)
    within = [(stream[s::4] // 4).tolist() for s in range(4)]
    assert len({tuple(w) for w in within}) == 4


def test_the_order_is_uniform():
    """Each of 6 images takes each of 6 positions of one shard about equally often."""
    order = order_of(images=6, shards=1)
    counts = np.zeros((6, 6))
    for epoch in range(1200):
        counts[np.arange(6), order.stream(epoch)] += 1
    # chi-squared with 25 degrees of freedom: 60 is beyond the 99.99th percentile
    assert ((counts - 200) ** 2 / 200).sum() < 60


def test_steps_count_the_short_last_one():
    order = order_of(images=10, shards=3)
    assert [order.steps(b) for b in (1, 3, 5, 10, 11)] == [10, 4, 2, 1, 1]


def test_a_rank_without_images_still_takes_every_step():
    order = order_of(images=10, shards=3)
    parts = order.batches(0, 2, rank=4, world=5)
    assert [len(p) for p in parts] == [0] * 5
    assert all(p.dtype == np.int64 for p in parts)


@pytest.mark.parametrize("shard_N", [[0, 0, 0, 1], [1, 1, 0], [0, 1, 2, 2]])
def test_unbalanced_shards_are_refused(shard_N):
    with pytest.raises(AssertionError, match="balanced"):
        EpochOrder(np.array(shard_N), 3 if 2 in shard_N else 2, 0)


groups = st.integers(1, 12)


@given(orders(), st.integers(0, 3), batch_sizes, worlds, groups)
def test_virtual_batches_are_the_same_at_any_world_size(order, epoch, batch_size, world, groups):
    order = EpochOrder(order.shard_N, order.shards, order.seed, groups)
    alone = order.virtual_batches(epoch, batch_size, 0, 1)
    dealt = [order.virtual_batches(epoch, batch_size, rank, world) for rank in range(world)]
    stream = order.stream(epoch).tolist()
    for step in range(order.steps(batch_size)):
        whole = [part.tolist() for part in alone[step]]
        assert len(whole) == groups
        shared: list = [None] * groups
        for rank in range(world):
            for part, number in zip(dealt[rank][step], range(rank, groups, world), strict=True):
                shared[number] = part.tolist()
        assert shared == whole
        # Together the step's images, each in the order of the stream.
        images = stream[step * batch_size : (step + 1) * batch_size]
        assert sorted(i for part in whole for i in part) == sorted(images)
        for part in whole:
            assert part == [i for i in images if i in set(part)]


@given(orders(), st.integers(0, 3), batch_sizes, worlds, groups)
def test_virtual_batches_follow_ownership(order, epoch, batch_size, world, groups):
    """A rank gets images of its own shards alone, whatever the numbers."""
    order = EpochOrder(order.shard_N, order.shards, order.seed, groups)
    for rank in range(world):
        owned = owned_shards(rank, world, order.shards, groups)
        assert set(order.shard_N[order.owner_N(world) == rank].tolist()) <= set(owned)
        for parts in order.virtual_batches(epoch, batch_size, rank, world):
            assert {int(order.shard_N[i]) for part in parts for i in part} <= set(owned)
        plain = order.batches(epoch, batch_size, rank, world)
        assert {int(order.shard_N[i]) for part in plain for i in part} <= set(owned)


@given(orders(), batch_sizes, worlds, groups, st.data())
def test_virtual_batches_of_a_tail(order, batch_size, world, groups, data):
    order = EpochOrder(order.shard_N, order.shards, order.seed, groups)
    first_step = data.draw(st.integers(0, order.steps(batch_size)))
    whole = order.virtual_batches(1, batch_size, 0, world)
    tail = order.virtual_batches(1, batch_size, 0, world, first_step)
    text = [[part.tolist() for part in step] for step in whole[first_step:]]
    assert [[part.tolist() for part in step] for step in tail] == text


@given(orders(), worlds, st.integers(0, 12), st.integers(1, 9), st.data())
def test_measured_images_come_once_each(order, world, groups, size, data):
    order = EpochOrder(order.shard_N, order.shards, order.seed, groups)
    chosen = data.draw(st.sets(st.integers(0, len(order.shard_N) - 1)))
    indices = np.array(sorted(chosen), dtype=np.int64)
    dealt = [order.measured(indices, size, rank, world) for rank in range(world)]
    assert sorted(int(i) for parts in dealt for part in parts for i in part) == sorted(chosen)
    assert all(1 <= len(part) <= size for parts in dealt for part in parts)
    owner_N = order.owner_N(world)
    assert all((owner_N[part] == rank).all() for rank in range(world) for part in dealt[rank])
    if groups:  # the same batches, whoever takes them
        alone = order.measured(indices, size, 0, 1)
        assert sorted(p.tolist() for parts in dealt for p in parts) == sorted(
            p.tolist() for p in alone
        )
