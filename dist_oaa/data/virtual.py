"""A rank's images of one step in parts that are loaded, and so padded, each by itself."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from dist_oaa.data.loader import Batch, BatchLoader


@dataclass(frozen=True)
class VirtualBatches:
    """The virtual batches of a rank in one step, in the order of their numbers; some are empty.

    A stage that wants to know about the whole step finds what a batch tells of itself.
    """

    parts: list[Batch]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def ids(self) -> list[str]:
        """Image names."""
        return [name for part in self.parts for name in part.ids]

    @property
    def bad(self) -> list[str]:
        """One sentence for each image that could not be read."""
        return [sentence for part in self.parts for sentence in part.bad]

    @property
    def wrong(self) -> list[str]:
        """One sentence for each label that cannot be right, in batches that have labels of
        pixels."""
        return [sentence for part in self.parts for sentence in part.wrong]

    def split(self, _parts: int) -> list[Batch]:
        """The parts: they were made before."""
        return self.parts


def load_virtual(
    loader: BatchLoader, steps: Sequence[Sequence[np.ndarray]], epoch: int
) -> Iterator[VirtualBatches]:
    """Loads each step's parts.

    Args:
        steps: the image indices of each part of each step, as many parts in each.
        epoch: as in BatchLoader.load.
    """
    batches = loader.load([part for parts in steps for part in parts], epoch)
    for parts in steps:
        yield VirtualBatches([next(batches) for _ in parts])
