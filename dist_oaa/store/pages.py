"""LMDB's file as it lies on the disk, read and checked without LMDB.

LMDB trusts its file: a flipped bit in its tree can end the process, hide a row, or show the state
of an earlier transaction. Hence a shard's tree is walked here before LMDB opens it, with every
number held against its bounds. The format is that of LMDB 0.9 (`MDB_DATA_VERSION` 1):

    page       number u64 | pad u16 | flags u16 | lower u16, upper u16 (or pages u32) | ...
    pages 0, 1 magic u32 | version u32 | address u64 | map size u64 | 2 trees | last page u64 |
               transaction u64; the one of the later transaction counts
    tree       pad u32 | flags u16 | depth u16 | branch, leaf, overflow pages, entries, root u64
    branch     node: number of the child (6 bytes) | key size u16 | key
    leaf       node: value size u32 | flags u16 | key size u16 | key | value, or its page's number

The first tree keeps the numbers of the free pages, by transaction; the second one the records
(tree.py).
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

MAGIC, VERSION = 0xBEEFC0DE, 1
PAGE_HEADER = struct.Struct("<QHHHH")
META_PAGE = struct.Struct("<IIQQ")
TREE = struct.Struct("<IHHQQQQQ")
NODE = 8  # bytes of a node before its key
NO_PAGE = 2**64 - 1
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
OWN_PAGES = 1  # flag of a node whose value lies in pages of its own
INTEGER_KEYS = 8  # flag of the tree of free pages
LARGEST_PAGE = 1 << 16


class DamagedFileError(ValueError):
    """A file that LMDB must not be given; the text says what is wrong and where."""


@dataclass
class Roots:
    """The newer of the two pages that say where the trees begin."""

    page_size: int
    last_page: int
    transaction: int
    free: tuple[int, ...]
    """The tree of free pages: pad, flags, depth, branch, leaf and overflow pages, entries, root."""
    main: tuple[int, ...]
    """The tree of the records, likewise."""


class PageFile:
    """An LMDB file, open for reading; nothing is mapped, so that no fault ends the process.

    Raises:
        DamagedFileError: when its first pages are damaged.
        OSError: when it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = open(path, "rb")  # noqa: SIM115
        try:
            self.length = os.fstat(self._file.fileno()).st_size
            self.roots = self._read_roots()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def missing(self) -> int:
        """Bytes between the end of the file and that of its last page; negative when it is longer.

        LMDB itself leaves out pages at the end that one transaction both took and freed.
        """
        return (self.roots.last_page + 1) * self.roots.page_size - self.length

    def read(self, at: int, size: int) -> bytes:
        """Bytes of the file.

        Raises:
            DamagedFileError: when they lie behind its end, or the disk cannot read them.
        """
        try:
            data = os.pread(self._file.fileno(), size, at)
        except OSError as error:
            raise DamagedFileError(f"bytes {at:,} on cannot be read: {error.strerror}") from error
        if len(data) != size:
            raise DamagedFileError(f"it is truncated: bytes {at:,} to {at + size:,} are missing")
        return data

    def _read_roots(self) -> Roots:
        first = self._read_meta(0, 0)
        second = self._read_meta(1, first.page_size)
        newer = max((second, first), key=lambda roots: roots.transaction)
        # Each transaction overwrites the older page: even ones are in page 0, odd ones in page 1.
        for number, roots in enumerate((first, second)):
            if roots.transaction and roots.transaction % 2 != number:
                raise DamagedFileError(f"page {number} has transaction {roots.transaction}")
        return newer

    def _read_meta(self, number: int, at: int) -> Roots:
        _, _, flags, _, _ = PAGE_HEADER.unpack(self.read(at, PAGE_HEADER.size))
        at += PAGE_HEADER.size
        magic, version, _, _ = META_PAGE.unpack(self.read(at, META_PAGE.size))
        if not flags & META or magic != MAGIC or version != VERSION:
            raise DamagedFileError(f"page {number} does not begin an LMDB file of version 0.9")
        at += META_PAGE.size
        free, main = (
            TREE.unpack(self.read(at, TREE.size)),
            TREE.unpack(self.read(at + TREE.size, TREE.size)),
        )
        last, transaction = struct.unpack("<QQ", self.read(at + 2 * TREE.size, 16))
        size = free[0]  # the tree's `pad`
        if size.bit_count() != 1 or not 256 <= size <= LARGEST_PAGE:
            raise DamagedFileError(f"page {number} speaks of pages of {size} bytes")
        if free[1] != INTEGER_KEYS or main[:2] != (0, 0):
            raise DamagedFileError(f"page {number} describes trees of another kind")
        return Roots(size, last, transaction, free, main)
