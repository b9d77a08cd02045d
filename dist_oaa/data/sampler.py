"""The order in which images are visited, and which rank visits which.

The global order of an epoch is a function of (seed, epoch) alone: stream position p belongs to
shard p % S, and step k takes the positions k B .. (k + 1) B - 1 for a global batch of B images.
A rank takes the positions of the shards that it owns, so an image is always visited by the rank
that owns its maps, each image exactly once an epoch, without padding, at any world size.

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
    """

    shard_N: np.ndarray
    shards: int
    seed: int

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

    def batches(
        self, epoch: int, batch_size: int, rank: int, world: int, first_step: int = 0
    ) -> list[np.ndarray]:
        """Image indices of one rank for each step of an epoch from `first_step` on.

        A rank's part may be empty in a step; it still takes part in the step's all-reduce.
        """
        stream_N = self.stream(epoch)
        parts = []
        for step in range(first_step, self.steps(batch_size)):
            positions = np.arange(
                step * batch_size, min((step + 1) * batch_size, len(stream_N)), dtype=np.int64
            )
            parts.append(stream_N[positions[positions % self.shards % world == rank]])
        return parts
