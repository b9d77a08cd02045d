"""What can be restored of a damaged shard: its records, wherever they are found, and the proof.

Records whose sum is the one that the shard has said of itself are those of the checkpoint.
"""

import contextlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.store.codec import HEADER, crc32
from dist_oaa.store.pages import DamagedFileError
from dist_oaa.store.salvage import Found, salvage
from dist_oaa.store.stamp import Stamp
from dist_oaa.store.survey import Survey


@dataclass
class Restored:
    """What a repaired shard will hold."""

    records: dict[int, bytes]
    """By row."""
    exact: bool
    """They are the checkpoint's, bit for bit."""
    older: dict[int, int] = field(default_factory=dict)
    """By row, the generation of what is known to be older than the checkpoint's."""
    lost: list[int] = field(default_factory=list)
    """Rows whose map is known to be gone."""
    unsure: bool = False
    """Other rows, too, may be older or gone: the file does not say which."""


def collect(path: Path, rows: int, record_bytes: int) -> Found:
    """All sound records of a file: by its tree, or, where that is damaged, wherever they lie.

    Raises:
        UserError: when the file cannot be opened.
    """
    try:
        survey = Survey(path, rows, record_bytes)
    except DamagedFileError:
        return salvage(path, rows, record_bytes)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    with contextlib.closing(survey):
        by_tree = Found()
        for row, slot in np.argwhere(survey.slots_R2 >= 0).tolist():
            generation = int(survey.slots_R2[row, slot])
            try:
                by_tree.add(row, generation, survey.raw(row, slot))
            except DamagedFileError:
                by_tree.broken[row] = generation
        for fault in survey.faults:
            if fault.row >= 0:
                by_tree.broken.setdefault(fault.row, -1)
        if survey.stamp is not None:
            by_tree.stamps.append(survey.stamp)
            survey.check(survey.stamp.generation)
        whole = survey.stamp is not None and all(fault.row >= 0 for fault in survey.faults)
    if whole:
        return by_tree
    found = salvage(path, rows, record_bytes)
    found.broken = by_tree.broken | found.broken
    return found


def sound(found: Found, store_id: str, index: int, path: Path) -> Found:
    """Refuses records of another shard.

    Raises:
        UserError: when the file says that it is another one's.
    """
    for stamp in found.stamps:
        if (stamp.store_id, stamp.shard) != (store_id, index):
            raise UserError(
                f"{path} is shard {stamp.shard} of store {stamp.store_id}, expected shard {index} "
                f"of {store_id}"
            )
    return found


def choose(sources: list[Found], rows: int, generation: int) -> Restored:
    """The best state as of a generation that the sources allow.

    Args:
        sources: the damaged shard first.
    """
    sums = {_sum_said(found.stamps, generation) for found in sources} - {None}
    states = [_newest([found], generation) for found in sources]
    states.insert(1, _newest(sources, generation))
    for state in states:
        if sum_of(state, rows) in sums:
            return Restored(state, exact=True)
    state = _newest(sources, generation)
    broken = sources[0].broken if sources else {}
    older, lost = {}, []
    for row in sorted(row for row, said in broken.items() if said <= generation):
        if row not in state:
            lost.append(row)
        elif _generation(state[row]) < broken[row] or broken[row] < 0:
            older[row] = _generation(state[row])
    unsure = not sources or sources[0].searched or not sources[0].stamps
    unsure |= bool(sources) and all(s.generation < generation for s in sources[0].stamps)
    return Restored(state, False, older, lost, unsure)


def _sum_said(stamps: list[Stamp], generation: int) -> int | None:
    """What a file says that its records sum up to as of a generation, None where it does not."""
    fit = [stamp for stamp in stamps if stamp.oldest <= generation <= stamp.generation]
    last = max(fit, key=lambda stamp: stamp.transaction, default=None)
    return None if last is None else last.sum_at(generation)


def _newest(sources: list[Found], generation: int) -> dict[int, bytes]:
    """Of each row the newest record up to a generation; among equals that of the first source."""
    state: dict[int, bytes] = {}
    for found in sources:
        for row, records in found.records.items():
            best = max((g for g in records if g <= generation), default=-1)
            if best > (_generation(state[row]) if row in state else -1):
                state[row] = records[best]
    return state


def _generation(record: bytes) -> int:
    return HEADER.unpack_from(record)[0]


def sum_of(state: dict[int, bytes], rows: int) -> int:
    """What `stamp.table_sum` gives for these records."""
    heads = (
        state[row][HEADER.size - 4 : HEADER.size] if row in state else bytes(4)
        for row in range(rows)
    )
    return crc32(b"".join(heads))
