"""Which shard an image lives in, and which rank owns a shard: pure functions of small values."""

import hashlib
from collections.abc import Sequence

import numpy as np


def assign_shards(image_ids: Sequence[str], shards: int) -> np.ndarray:
    """The shard of each image, int64 (N,): a function of the set of names, not of their order.

    Names are ranked by their hash and dealt round, so that shard sizes differ by one at most and
    similar names (frames of a video) spread over all shards.
    """
    digests = [hashlib.blake2b(name.encode(), digest_size=16).digest() for name in image_ids]
    shard_N = np.empty(len(image_ids), dtype=np.int64)
    ranking = sorted(range(len(image_ids)), key=lambda i: (digests[i], image_ids[i]))
    shard_N[ranking] = np.arange(len(image_ids)) % shards
    return shard_N


def owned_shards(rank: int, world: int, shards: int, groups: int = 0) -> list[int]:
    """Shards that a rank owns: those with shard % world == rank.

    Args:
        groups: where not 0, whole groups of shards are dealt to the ranks: those with
            shard % groups % world == rank. A group then has one owner at any world size.
    """
    return [s for s in range(shards) if s % (groups or shards) % world == rank]
