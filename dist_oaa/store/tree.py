"""The two trees of an LMDB file, walked without LMDB and with every number held to its bounds.

Legend: N nodes of a page, or entries of a tree.
"""

import itertools
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from dist_oaa.store.pages import (
    BRANCH,
    LEAF,
    NO_PAGE,
    NODE,
    OVERFLOW,
    OWN_PAGES,
    PAGE_HEADER,
    DamagedFileError,
    PageFile,
)


@dataclass
class Entries:
    """What the leaves of a tree hold, in the order of the keys."""

    keys_N: list[bytes] = field(default_factory=list)
    at_N: list[int] = field(default_factory=list)
    """Where each value begins in the file, in bytes."""
    size_N: list[int] = field(default_factory=list)
    """Bytes of each value."""


class TreeReader:
    """Walks both trees of a file and notes what is wrong instead of stumbling over it."""

    def __init__(self, file: PageFile) -> None:
        self.file, self.roots = file, file.roots
        self.problems: list[str] = []
        """Every fault of the structure, in a phrase each."""
        self.pages: dict[int, str] = {}
        """Who owns each page, once `entries` has been called."""
        self._counted = [0, 0, 0]

    def entries(self) -> Entries:
        """All keys with the places of their values; what damage hides is left out and noted."""
        entries = self._walk(self.roots.main, "its tree", False)
        free = self.free_entries()
        if not self.problems:
            self._check_free(free)
        return entries

    def free_entries(self) -> Entries:
        """The lists of free pages, by transaction."""
        return self._walk(self.roots.free, "its list of free pages", True)

    def _walk(self, tree: tuple[int, ...], name: str, integers: bool) -> Entries:
        _, _, depth, *counts, entries_said, root = tree
        found, self._counted = Entries(), [0, 0, 0]
        before = len(self.problems)
        if root == NO_PAGE:
            if depth or entries_said:
                self.problems.append(f"{name} has no root but {entries_said:,} entries")
            return found
        for leaf in self._leaves(root, depth, name, integers, None, None):
            for key, at, size in leaf:
                found.keys_N.append(key)
                found.at_N.append(at)
                found.size_N.append(size)
        said = (*counts, entries_said)
        have = (*self._counted, len(found.keys_N))
        if len(self.problems) == before and have != said:
            self.problems.append(f"{name} has {have} pages and entries, it says {said}")
        return found

    def _leaves(
        self,
        number: int,
        depth: int,
        name: str,
        integers: bool,
        low: object,
        high: object,
    ) -> Iterator[list[tuple[bytes, int, int]]]:
        """The leaves below a page whose keys must lie in [low, high)."""
        try:
            kind = LEAF if depth == 1 else BRANCH
            page = self._page(number, kind, name)
            nodes = self._nodes(page, number, kind)
            order = [_order(key, integers) for key, _, _ in nodes]
            if kind == BRANCH:
                order[0] = low  # the first key of a branch stands for everything below the second
            self._check_order(order, number, low, high)
            if kind == LEAF:
                yield [self._value(node, number, name) for node in nodes]
                return
        except DamagedFileError as error:
            self.problems.append(str(error))
            return
        for (_, child, _), start, end in zip(nodes, order, [*order[1:], high], strict=True):
            yield from self._leaves(child, depth - 1, name, integers, start, end)

    def _page(self, number: int, kind: int, name: str) -> bytes:
        size = self.roots.page_size
        self._take(number, 1, name)
        page = self.file.read(number * size, size)
        said, _, flags, lower, upper = PAGE_HEADER.unpack_from(page)
        least = PAGE_HEADER.size + (4 if kind == BRANCH else 2)
        if (said, flags) != (number, kind) or not least <= lower <= upper <= size or lower % 2:
            raise DamagedFileError(f"page {number} of {name} has a wrong header")
        self._counted[0 if kind == BRANCH else 1] += 1
        return page

    def _take(self, number: int, count: int, name: str) -> None:
        if number < 2 or count < 1 or number + count - 1 > self.roots.last_page:
            raise DamagedFileError(f"{name} points to page {number}, which does not exist")
        for page in range(number, number + count):
            if page in self.pages:
                raise DamagedFileError(f"page {page} belongs to {self.pages[page]} and to {name}")
            self.pages[page] = name

    def _nodes(self, page: bytes, number: int, kind: int) -> list[tuple[bytes, int, int]]:
        """(key, child's number, 0) of a branch; (key, place in the page, size) of a leaf.

        The size of a value in pages of its own is given as negative.
        """
        _, _, _, lower, upper = PAGE_HEADER.unpack_from(page)
        starts_N = np.frombuffer(page, "<u2", (lower - PAGE_HEADER.size) // 2, PAGE_HEADER.size)
        if (starts_N < upper).any() or (starts_N > len(page) - NODE).any() or (starts_N % 2).any():
            raise DamagedFileError(f"page {number} has a node outside its bounds")
        words_N4 = np.frombuffer(page, "<u2")[starts_N[:, None] // 2 + np.arange(4)].astype(int)
        low_N, high_N, flags_N, key_N = words_N4.T
        size_N = low_N | high_N << 16
        own_N = flags_N == OWN_PAGES
        if kind == LEAF and (flags_N & ~OWN_PAGES).any():
            raise DamagedFileError(f"page {number} has a node of another kind")
        held_N = 0 if kind == BRANCH else np.where(own_N, 8, size_N)
        # Nodes fill the page from `upper` to its end, without a gap.
        ends_N = starts_N + (NODE + key_N + held_N + 1) // 2 * 2
        order_N = np.argsort(starts_N)
        if [upper, *ends_N[order_N]] != [*starts_N[order_N], len(page)]:
            raise DamagedFileError(f"page {number} has nodes that do not fit one another")
        nodes = []
        for start, size, own, flags, key in zip(
            starts_N.tolist(), size_N.tolist(), own_N, flags_N.tolist(), key_N.tolist(), strict=True
        ):
            value = start + NODE + key
            if kind == BRANCH:
                nodes.append((page[start + NODE : value], size | flags << 32, 0))
            elif own:
                (child,) = struct.unpack_from("<Q", page, value)
                nodes.append((page[start + NODE : value], child, -size))
            else:
                nodes.append((page[start + NODE : value], value, size))
        return nodes

    def _value(
        self, node: tuple[bytes, int, int], number: int, name: str
    ) -> tuple[bytes, int, int]:
        """Key, place in the file and size of a leaf's value."""
        key, place, size = node
        page_size = self.roots.page_size
        if size >= 0:
            return key, number * page_size + place, size
        header = self.file.read(place * page_size, PAGE_HEADER.size)
        said, _, flags, low, high = PAGE_HEADER.unpack(header)
        needed, count = (PAGE_HEADER.size - 1 - size) // page_size + 1, low | high << 16
        # LMDB does not give pages back when a value becomes smaller.
        if (said, flags) != (place, OVERFLOW) or count < needed:
            raise DamagedFileError(f"page {place} of {name} has a wrong header")
        self._take(place, count, name)
        self._counted[2] += count
        return key, place * page_size + PAGE_HEADER.size, -size

    def _check_order(self, order: list, number: int, low: object, high: object) -> None:
        keys = order if order[0] is not None else order[1:]
        ascends = all(one < other for one, other in itertools.pairwise(keys))
        if (
            not ascends
            or (low is not None and keys[0] < low)
            or (high is not None and keys[-1] >= high)
        ):
            raise DamagedFileError(f"page {number} has keys that are out of order")

    def _check_free(self, free: Entries) -> None:
        """A free page that is in use would be overwritten by the next commit."""
        for key, at, size in zip(free.keys_N, free.at_N, free.size_N, strict=True):
            try:
                transaction = _order(key, True)
                count, *pages = np.frombuffer(self.file.read(at, size), "<u8").tolist()
                if count > len(pages) or transaction > self.roots.transaction:
                    raise DamagedFileError("its list of free pages is damaged")
                pages = pages[:count]
                if any(one <= other for one, other in itertools.pairwise(pages)):
                    raise DamagedFileError("its list of free pages is out of order")
                for page in pages:
                    self._take(page, 1, "the free pages")
            except (DamagedFileError, ValueError) as error:
                self.problems.append(str(error))


def _order(key: bytes, integers: bool) -> object:
    """What LMDB compares of a key.

    Raises:
        DamagedFileError: when it is no number where one is expected.
    """
    if not integers:
        return key
    if len(key) != 8:
        raise DamagedFileError(f"its list of free pages has a key of {len(key)} bytes")
    return int.from_bytes(key, "little")
