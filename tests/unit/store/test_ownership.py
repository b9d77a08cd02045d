"""Placement of images in shards and of shards on ranks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.store.ownership import assign_shards, owned_shards

names = st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=40)


@given(names, st.integers(1, 12))
def test_shards_are_balanced_to_one(ids, shards):
    shard_N = assign_shards(ids, shards)
    assert shard_N.shape == (len(ids),)
    counts = np.bincount(shard_N, minlength=shards)
    assert len(counts) == shards
    assert counts.max() - counts.min() <= 1


@given(names, st.integers(1, 12), st.randoms())
def test_placement_does_not_depend_on_the_order(ids, shards, random):
    place = dict(zip(ids, assign_shards(ids, shards).tolist(), strict=True))
    shuffled = random.sample(ids, len(ids))
    assert dict(zip(shuffled, assign_shards(shuffled, shards).tolist(), strict=True)) == place


def test_placement_is_stable():
    # Written down: a store made by one version must open with the next.
    ids = [f"2007_{n:06d}" for n in range(10)]
    assert assign_shards(ids, 4).tolist() == [1, 3, 2, 1, 2, 0, 0, 0, 3, 1]


@pytest.mark.parametrize("world", range(1, 9))
@pytest.mark.parametrize("shards", [8, 24, 25])
def test_every_shard_has_exactly_one_owner(world, shards):
    owned = [owned_shards(rank, world, shards) for rank in range(world)]
    assert sorted(s for part in owned for s in part) == list(range(shards))
    assert max(map(len, owned)) - min(map(len, owned)) <= 1
    assert all(s % world == rank for rank, part in enumerate(owned) for s in part)


@pytest.mark.parametrize("world", range(1, 9))
@pytest.mark.parametrize(("shards", "groups"), [(24, 8), (25, 8), (6, 8), (7, 3)])
def test_a_group_of_shards_has_one_owner(world, shards, groups):
    owned = [owned_shards(rank, world, shards, groups) for rank in range(world)]
    assert sorted(s for part in owned for s in part) == list(range(shards))
    owner = {s: rank for rank, part in enumerate(owned) for s in part}
    assert all(owner[s] == s % groups % world for s in range(shards))
    assert all(owner[s] == owner[s % groups] for s in range(shards)), "a group is torn apart"
