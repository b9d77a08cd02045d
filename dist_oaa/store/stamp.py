"""What a shard says of itself, in one small record that every transaction replaces.

    crc u32 as 8 hexadecimal digits | JSON

Beside the identity it holds the sum over all live records, of the newest generation and of the
oldest one that can still be opened: a row that a damaged tree hides, or an older record in its
place, changes the sum. It also names the transaction that wrote it: LMDB, which after damage may
take up the state of an earlier transaction, is found out by that.

Legend: R rows of the shard; 2 slots.
"""

import dataclasses
import json
from dataclasses import dataclass

import numpy as np

from dist_oaa.store.codec import DamagedRecordError, crc32

STAMP = b"meta"
DIGITS = 8


@dataclass(frozen=True)
class Stamp:
    """Identity and reach of a shard."""

    store_id: str
    shard: int
    transaction: int
    """LMDB's number of the transaction that wrote the stamp."""
    generation: int
    """The newest generation that a commit has reached, published or not."""
    sum: int
    """`table_sum` at it."""
    oldest: int
    """The oldest generation whose records are all kept."""
    oldest_sum: int
    """`table_sum` at it, and at those between it and `generation`."""

    def sum_at(self, generation: int) -> int:
        """What the records must sum up to as of a generation from `oldest` on."""
        return self.sum if generation >= self.generation else self.oldest_sum

    def after(self, transaction: int, generation: int, total: int) -> "Stamp":
        """The stamp of the next commit, whose records sum up to `total`."""
        new = {"transaction": transaction, "generation": generation, "sum": total}
        if generation > self.generation:  # else the same commit is repeated
            new |= {"oldest": self.generation, "oldest_sum": self.sum}
        return dataclasses.replace(self, **new)

    def back_to(self, transaction: int, generation: int, total: int) -> "Stamp":
        """The stamp after everything newer than a generation has been deleted."""
        return dataclasses.replace(
            self,
            transaction=transaction,
            generation=generation,
            sum=total,
            oldest=generation,
            oldest_sum=total,
        )

    def encode(self) -> bytes:
        """The bytes of the record."""
        text = json.dumps(dataclasses.asdict(self)).encode()
        return b"%08x" % crc32(text) + text

    @classmethod
    def decode(cls, data: bytes) -> "Stamp":
        """The inverse of `encode`.

        Raises:
            DamagedRecordError: when it is damaged.
        """
        data = bytes(data)
        text = data[DIGITS:]
        if data[:DIGITS] != b"%08x" % crc32(text):
            raise DamagedRecordError("checksum of what the shard says of itself does not match")
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise DamagedRecordError(
                f"what the shard says of itself is unknown: {error}"
            ) from error

    @classmethod
    def first(cls, store_id: str, shard: int, rows: int) -> "Stamp":
        """What stands for a shard that nothing was ever committed to."""
        empty = table_sum(np.full((rows, 2), -1), np.zeros((rows, 2), np.uint32), 0)
        return cls(store_id, shard, 0, 0, empty, 0, empty)


def newest(slots_R2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Generation, -1 where there is none, and slot of each row's newest record."""
    first_R, second_R = slots_R2.T
    return np.maximum(first_R, second_R), (second_R > first_R).astype(np.int64)


def as_of(slots_R2: np.ndarray, generation: int) -> np.ndarray:
    """The slots as they count at a generation: those that hold something newer are empty."""
    return np.where(slots_R2 <= generation, slots_R2, -1)


def table_sum(slots_R2: np.ndarray, heads_R2: np.ndarray, generation: int) -> int:
    """CRC-32 over the live records of all rows, in their order, as of a generation.

    Args:
        slots_R2: generation of each slot, -1 where it is empty.
        heads_R2: checksum of each slot's header, which covers that of its maps.
    """
    newest_R, slot_R = newest(as_of(slots_R2, generation))
    head_R = np.take_along_axis(heads_R2, slot_R[:, None], axis=1)[:, 0]
    live_R = np.where(newest_R >= 0, head_R, 0).astype("<u4")
    return crc32(live_R.tobytes())
