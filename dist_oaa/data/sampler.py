"""The order in which images are visited, and which rank visits which.

The global order of an epoch is a function of (seed, epoch) alone: stream position p belongs to
shard p % S, and step k takes the positions k B .. (k + 1) B - 1 for a global batch of B images.
A rank takes the positions of the shards that it owns, so an image is always visited by the rank
that owns its maps, each image exactly once an epoch, without padding, at any world size.

Where a step must be the same to the last bit at any world size (`optim.exact_elastic`), shards are
dealt to the ranks in V groups, shard s in group s % V, and each group's part of a step is a batch
of its own: what is in it, and in which order, does not depend on who takes it.

Everything here is a pure function of small values: many topologies are tested without a process.
"""

import hashlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class EpochOrder:
    """The global visiting order.

    Args:
        shard_N: the shard of each image; shard sizes differ by one at most, larger ones first.
        shards: number of shards S.
        seed: seed of the order.
        groups: V, or 0 where each shard is dealt by itself.
    """

    shard_N: np.ndarray
    shards: int
    seed: int
    groups: int = 0

    def __post_init__(self) -> None:
        sizes = np.bincount(self.shard_N, minlength=self.shards)
        expected = [len(range(s, len(self.shard_N), self.shards)) for s in range(self.shards)]
        assert sizes.tolist() == expected, "shards must be balanced to one, larger ones first"

    def stream(self, epoch: int) -> np.ndarray:
        """Image indices in visiting order, shape (N,)."""
        order_N = np.empty(len(self.shard_N), dtype=np.int64)
        for shard in range(self.shards):
            members = np.flatnonzero(self.shard_N == shard)
            order_N[shard :: self.shards] = self._rng(epoch, shard).permutation(members)
        return order_N

    def _rng(self, epoch: int, shard: int) -> np.random.Generator:
        digest = hashlib.blake2b(
            f"order\x1f{self.seed}\x1f{epoch}\x1f{shard}".encode(), digest_size=16
        )
        return np.random.Generator(np.random.Philox(key=int.from_bytes(digest.digest(), "little")))

    def steps(self, batch_size: int) -> int:
        """Number of steps of an epoch, the last one possibly smaller."""
        return -(-len(self.shard_N) // batch_size)

    def owner_N(self, world: int) -> np.ndarray:
        """The rank that visits each image, int64 (N,)."""
        return self._group(self.shard_N) % world

    def _group(self, shard: np.ndarray) -> np.ndarray:
        return shard % (self.groups or self.shards)

    def batches(
        self, epoch: int, batch_size: int, rank: int, world: int, first_step: int = 0
    ) -> list[np.ndarray]:
        """Image indices of one rank for each step of an epoch from `first_step` on.

        A rank's part may be empty in a step; it still takes part in the step's all-reduce.
        """
        stream_N, owner_N = self.stream(epoch), self.owner_N(world)
        parts = self._steps(stream_N, batch_size, first_step)
        return [part[owner_N[part] == rank] for part in parts]

    def virtual_batches(
        self, epoch: int, batch_size: int, rank: int, world: int, first_step: int = 0
    ) -> list[list[np.ndarray]]:
        """Image indices of each group that a rank takes, for each step from `first_step` on.

        The groups of a rank are rank, rank + world, ... below V; a group may be empty in a step.
        """
        assert self.groups, "shards are not dealt in groups"
        stream_N, group_N = self.stream(epoch), self._group(self.shard_N)
        mine = range(rank, self.groups, world)
        parts = self._steps(stream_N, batch_size, first_step)
        return [[part[group_N[part] == group] for group in mine] for part in parts]

    def measured(self, indices: np.ndarray, size: int, rank: int, world: int) -> list[np.ndarray]:
        """Batches, of `size` images at most, of those that a rank owns among some images.

        With groups, no batch joins images of two: its make-up does not depend on the world size.
        """
        mine = indices[self.owner_N(world)[indices] == rank]
        group_N = self._group(self.shard_N)[mine] if self.groups else np.zeros(len(mine), np.int64)
        together = [mine[group_N == group] for group in range(self.groups or 1)]
        return [part[i : i + size] for part in together for i in range(0, len(part), size)]

    def _steps(self, stream_N: np.ndarray, batch_size: int, first_step: int) -> list[np.ndarray]:
        steps = range(first_step, self.steps(batch_size))
        return [stream_N[k * batch_size : (k + 1) * batch_size] for k in steps]
