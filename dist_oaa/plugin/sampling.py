"""Samplers for a user's own DataLoader: an image is visited by the rank that keeps its maps.

Each image exactly once an epoch, without padding duplicates, in an order that is a function of
(seed, epoch) alone: neither the world size nor the order of the data set changes it.

Legend: N images of the data set, by their position in it.
"""

from collections.abc import Iterator, Sequence, Sized
from typing import Any, cast

import numpy as np
from torch.utils.data import Dataset, Sampler
from torch.utils.data.distributed import DistributedSampler

from dist_oaa.config.accumulate import StoreConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.plugin.world import find_place
from dist_oaa.store.ownership import assign_shards

SHARDS = StoreConfig().shards


class OwnershipSampler(DistributedSampler):
    """Positions of this rank's images: takes the place of torch's DistributedSampler.

    Ranks may differ by a few images. A loop that averages gradients after every batch then hangs
    where one rank has a batch more than another: use OwnershipBatchSampler, `drop_last=True`, or
    torch's Join.

    Args:
        dataset: the data set; its `image_ids` are used where they are not given.
        num_replicas, rank: the world; by default that of torch.distributed, or a world of one.
        shuffle: another order each epoch; else that of the data set.
        seed: seed of the order, the same on all ranks.
        drop_last: leave out, in each epoch, the images that make ranks differ.
        image_ids: name of each image, as given to AttentionAccumulator.create.
        shards: as given to AttentionAccumulator.create.

    Raises:
        UserError: when names are missing, occur twice or do not fit the data set, or a rank would
            have no image.
    """

    def __init__(
        self,
        dataset: Sized,
        num_replicas: int | None = None,
        rank: int | None = None,
        shuffle: bool = True,
        seed: int = 0,
        drop_last: bool = False,
        *,
        image_ids: Sequence[str] | None = None,
        shards: int = SHARDS,
    ) -> None:
        rank, num_replicas = find_place(rank, num_replicas)
        # torch asks for a Dataset, and takes its length alone.
        whole = cast("Dataset[Any]", dataset)
        super().__init__(whole, num_replicas, rank, shuffle, seed, drop_last)
        names = _names(dataset, image_ids)
        # Positions in name order, so that the stream does not depend on that of the data set.
        self._by_name_N = np.array(sorted(range(len(names)), key=names.__getitem__))
        shard_N = assign_shards(sorted(names), shards)
        self.order = EpochOrder(shard_N, shards, seed)
        self._owner_N = np.empty(len(names), dtype=np.int64)
        self._owner_N[self._by_name_N] = shard_N % num_replicas
        counts = np.bincount(self._owner_N, minlength=num_replicas)
        if counts.min() == 0:
            raise UserError(
                f"{len(names)} images in {shards} shards leave rank {int(counts.argmin())} of "
                f"{num_replicas} without any, expected at least as many images and shards as ranks"
            )
        self.num_samples = int(counts.min() if drop_last else counts[rank])
        self.total_size = int(counts.min()) * num_replicas if drop_last else len(names)

    def __iter__(self) -> Iterator[int]:
        order_N = self.stream() if self.shuffle else np.arange(len(self._owner_N))
        mine = order_N[self._owner_N[order_N] == self.rank]
        return iter(mine[: self.num_samples].tolist())

    def stream(self) -> np.ndarray:
        """Positions in the data set in the order of this epoch, of all ranks, int64 (N,)."""
        return self._by_name_N[self.order.stream(self.epoch)]

    def owner_of_place(self, place: np.ndarray) -> np.ndarray:
        """The rank that visits each place of the stream."""
        return place % self.order.shards % self.num_replicas


class OwnershipBatchSampler(Sampler[list[int]]):
    """Batches of this rank's images: `DataLoader(dataset, batch_sampler=...)`.

    All ranks have the same number of batches and none is empty, so that DDP never waits in vain.
    Together they take the images of a step from one global stream. A batch may have an image more
    or fewer where the world does not divide the shards, and in the last step, where DDP weighs
    ranks alike.

    Args:
        batch_size: images of a rank in a step; the others as for OwnershipSampler.

    Raises:
        UserError: as for OwnershipSampler, or when the batch size is not positive.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        *,
        image_ids: Sequence[str] | None = None,
        shards: int = SHARDS,
    ) -> None:
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}, expected 1 or more")
        # Under this name other libraries look for set_epoch.
        self.sampler = OwnershipSampler(
            dataset, num_replicas, rank, True, seed, image_ids=image_ids, shards=shards
        )
        self.batch_size = batch_size
        self._steps = self._cut(batch_size * self.sampler.num_replicas)

    def _cut(self, at_once: int) -> list[np.ndarray]:
        """Places of the stream by step: at_once of them, or more where a rank would have none."""
        sampler, steps, waiting = self.sampler, [], []
        places_N = np.arange(sampler.total_size)
        for part in np.split(places_N, range(at_once, len(places_N), at_once)):
            waiting.append(part)
            step = np.concatenate(waiting)
            if len(set(sampler.owner_of_place(step).tolist())) == sampler.num_replicas:
                steps.append(step)
                waiting = []
        if waiting:
            steps[-1] = np.concatenate([steps[-1], *waiting])
        return steps

    def set_epoch(self, epoch: int) -> None:
        """Chooses the order; call it before each epoch, or all epochs have that of epoch 0."""
        self.sampler.set_epoch(epoch)

    def __iter__(self) -> Iterator[list[int]]:
        sampler, stream_N = self.sampler, self.sampler.stream()
        for step in self._steps:
            yield stream_N[step[sampler.owner_of_place(step) == sampler.rank]].tolist()

    def __len__(self) -> int:
        return len(self._steps)


def _names(dataset: Sized, image_ids: Sequence[str] | None) -> list[str]:
    names = getattr(dataset, "image_ids", None) if image_ids is None else image_ids
    if names is None:
        raise UserError(
            f"the data set, a {type(dataset).__name__}, has no image_ids; give image_ids=, the "
            "name of each image in the order of the data set"
        )
    names = list(names)
    if len(names) != len(dataset):
        raise UserError(
            f"image_ids has {len(names)} names for a data set of {len(dataset)} images, expected "
            "one for each"
        )
    if len(set(names)) < len(names):
        twice = next(n for n in names if names.count(n) > 1)
        raise UserError(f"image_ids has {twice!r} more than once, expected each name once")
    return names
