"""The resident maps of one rank together with the store that makes them durable."""

import numpy as np
import torch

from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Outcome, Pairs, Rules
from dist_oaa.attention.update import update
from dist_oaa.store.codec import ChangedRows
from dist_oaa.store.facade import StoreWriter


class AttentionAccumulator:
    """Accumulates in device memory and commits the changed rows.

    Args:
        store: the shards that this rank owns, open for writing; their live records are loaded.
        device: where the maps stay resident.

    Raises:
        UserError: when the store is damaged.
    """

    def __init__(self, store: StoreWriter, device: torch.device | str = "cpu") -> None:
        self.store = store
        manifest = store.manifest
        self.device = torch.device(device)
        bank = MapBank.empty(store.rows, manifest.map_size, DTYPES[manifest.dtype])
        for row, record in store.read():
            bank.maps_RSS[row] = torch.from_numpy(record.map_SS.copy())
            bank.last_RSS[row] = torch.from_numpy(record.last_SS.copy())
            bank.accepted_R[row] = record.accepted
            bank.fallback_R[row] = record.fallback
        self.bank = bank.to(self.device)

    def pairs(self, index_B: torch.Tensor, labels_BC: torch.Tensor) -> Pairs:
        """The pairs of a batch (host tensors), with their rows in the bank.

        Args:
            index_B: positions of the images in the store's table; they must be this rank's.
            labels_BC: 1 for the target classes.
        """
        first_row_B = torch.from_numpy(self.store.first_row(index_B.numpy()))
        return Pairs.from_labels(labels_BC, first_row_B)

    def update(self, seen: Observation, rules: Rules) -> Outcome:
        """Accumulates one batch in device memory; see attention/update.py."""
        return update(self.bank, seen, rules)

    def commit(self, generation: int) -> int:
        """Makes the rows that changed since the last commit durable as `generation`.

        Returns:
            the number of bytes written.

        Raises:
            UserError: when the disk is full or fails; the rows stay dirty.
        """
        bank = self.bank
        rows_K = bank.dirty_R.nonzero()[:, 0]
        maps_2KSS = (bank.maps_RSS[rows_K], bank.last_RSS[rows_K])
        rows = ChangedRows(
            rows_K.cpu().numpy(),
            torch.stack(maps_2KSS, 1).cpu().numpy(),
            bank.accepted_R[rows_K].cpu().numpy(),
            bank.fallback_R[rows_K].cpu().numpy(),
        )
        size = self.store.commit(generation, rows)
        bank.dirty_R.zero_()
        return size

    def close(self) -> None:
        """Closes the store."""
        self.store.close()
