"""The resident maps of one rank together with the store that makes them durable.

Durability has two parts: `snapshot` copies the rows that changed, at the speed of memory, and
`store.commit` writes the copy, at the speed of the disk. The second may run in another thread
while the bank goes on to change; `commit` is both in one call.

Legend: K changed rows; 2 the cumulative map, then the last attention; S cells along each side;
Q the S * S cells, padded.
"""

import torch

from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Outcome, Pairs, Rules
from dist_oaa.attention.update import update
from dist_oaa.store.writer import ChangedRows, StoreWriter


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

    @torch.no_grad()
    def snapshot(self) -> ChangedRows:
        """A copy, in host memory, of the rows that changed since the last one.

        They count as saved from here on. At most 2 S^2 elements a row are held until the copy is
        let go; on a GPU its maps lie in pinned memory.
        """
        bank, cells = self.bank, self.bank.map_size**2
        rows_K = bank.dirty_R.nonzero()[:, 0]
        # Gathered where the bank lies: a single transfer then brings all maps.
        grid_K2Q = bank.grid_R2Q.index_select(0, rows_K)
        if grid_K2Q.is_cuda:
            pinned = torch.empty(grid_K2Q.shape, dtype=grid_K2Q.dtype, pin_memory=True)
            grid_K2Q = pinned.copy_(grid_K2Q)
        maps_K2SS = grid_K2Q[:, :, :cells].unflatten(2, (bank.map_size, bank.map_size))
        rows = ChangedRows(
            rows_K.cpu().numpy(),
            maps_K2SS.numpy(),
            bank.accepted_R[rows_K].cpu().numpy(),
            bank.fallback_R[rows_K].cpu().numpy(),
        )
        bank.dirty_R.zero_()
        return rows

    def commit(self, generation: int) -> int:
        """Makes the rows that changed since the last commit durable as `generation`.

        Returns:
            the number of bytes written.

        Raises:
            UserError: when the disk is full or fails; the rows are dirty again.
        """
        rows = self.snapshot()
        try:
            return self.store.commit(generation, rows)
        except BaseException:
            self.bank.dirty_R[torch.from_numpy(rows.rows_K).to(self.device)] = True
            raise

    def close(self) -> None:
        """Closes the store."""
        self.store.close()
