"""`oaa store diff`: where two stores agree. Images and classes are compared by name."""

import heapq
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.table import Table

from dist_oaa.store.codec import Record
from dist_oaa.store.inspect import console
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.reader import StoreReader

WORST = 10
Pair = tuple[str, str]  # image name, class name


@dataclass
class MapDifference:
    """Of the maps, or of the attentions, that both stores have; in units of full scale."""

    pairs: int = 0
    """Pairs that are not bit-equal as attention."""
    largest: float = 0.0
    total: float = 0.0
    """Sum of absolute differences over all cells."""
    cells: int = 0

    def add(self, one_SS: np.ndarray, other_SS: np.ndarray) -> float:
        """Counts one pair; returns its largest difference."""
        distance_SS = np.abs(_attention(one_SS) - _attention(other_SS))
        largest = float(distance_SS.max())
        self.pairs += largest > 0
        self.largest = max(self.largest, largest)
        self.total += float(distance_SS.sum())
        self.cells += distance_SS.size
        return largest

    @property
    def mean(self) -> float:
        """Mean absolute difference of a cell, over all pairs compared."""
        return self.total / max(1, self.cells)


@dataclass
class Comparison:
    """All that differs between two stores."""

    settings: list[str] = field(default_factory=list)
    """Differing settings, one sentence each."""
    notes: list[str] = field(default_factory=list)
    """Differences of layout, which do not count."""
    only: tuple[int, int] = (0, 0)
    """Pairs that only the first, only the second store is for."""
    unmatched: int = 0
    """Pairs of both that have a map in one of them only."""
    compared: int = 0
    """Pairs with a map in both."""
    maps: MapDifference = field(default_factory=MapDifference)
    attention: MapDifference = field(default_factory=MapDifference)
    accepted: int = 0
    """Pairs with another number of accepted updates."""
    fallback: int = 0
    """Pairs that are a fallback in one of them only."""
    worst: list[tuple[float, Pair]] = field(default_factory=list)
    """The largest differences of map or attention, largest first."""

    @property
    def identical(self) -> bool:
        """Whether the stores agree in all but layout."""
        counts = (*self.only, self.unmatched, self.accepted, self.fallback)
        return not (self.settings or any(counts) or self.maps.pairs or self.attention.pairs)


def _attention(map_SS: np.ndarray) -> np.ndarray:
    scale = 255 if map_SS.dtype == np.uint8 else 1
    return map_SS.astype(np.float64) / scale


def diff(a: str, b: str) -> int:
    """Compare the settings, pairs and maps of two stores, by name.

    The number of shards and the order of images and classes may differ. The exit code is 0 when
    all else is identical and 1 when it is not.

    Args:
        a: Folder of a store, or a run directory that holds one.
        b: The other one.

    Returns:
        The exit code.
    """
    found = compare(StoreReader(Path(a)), StoreReader(Path(b)))
    out = console()
    for sentence in found.settings + found.notes:
        out.print(sentence)
    if any(found.only):
        out.print(
            f"pairs only in {a}: {found.only[0]:,}; only in {b}: {found.only[1]:,}", soft_wrap=True
        )
    if found.unmatched:
        out.print(f"{found.unmatched:,} pairs have a map in one of them only")
    if found.maps.pairs or found.attention.pairs:
        out.print(_differences(found))
        out.print(_worst(found))
    if found.accepted or found.fallback:
        out.print(
            f"{found.accepted:,} pairs with another count of accepted updates, "
            f"{found.fallback:,} a fallback in one of them only"
        )
    out.print(f"{found.compared:,} pairs compared: {'' if found.identical else 'not '}identical")
    return 0 if found.identical else 1


def _differences(found: Comparison) -> Table:
    table = Table("", "pairs that differ", "largest", "mean over all", title_justify="left")
    table.title = "differences, full scale = 1"
    for name, part in (("map", found.maps), ("last attention", found.attention)):
        table.add_row(name, f"{part.pairs:,}", f"{part.largest:.4g}", f"{part.mean:.4g}")
    return table


def _worst(found: Comparison) -> Table:
    table = Table("image", "class", "largest", title="worst pairs", title_justify="left")
    for column in table.columns:
        column.overflow = "fold"
    for largest, pair in found.worst:
        table.add_row(*pair, f"{largest:.4g}")
    return table


def compare(a: StoreReader, b: StoreReader) -> Comparison:
    """Compares two stores.

    Raises:
        UserError: when a shard or record is missing or damaged.
    """
    found = Comparison()
    _compare_manifests(a.manifest, b.manifest, found)
    pairs_a, pairs_b = _pairs(a.manifest), _pairs(b.manifest)
    found.only = len(pairs_a - pairs_b), len(pairs_b - pairs_a)
    common = pairs_a & pairs_b
    for records_a, records_b in _matching_parts(a, b):
        both = records_a.keys() & records_b.keys()
        found.unmatched += len((records_a.keys() ^ records_b.keys()) & common)
        found.compared += len(both)
        for pair in sorted(both):
            _compare_pair(pair, records_a[pair], records_b[pair], found)
    found.worst = sorted(found.worst, key=lambda item: (-item[0], item[1]))
    return found


def _compare_manifests(a: Manifest, b: Manifest, found: Comparison) -> None:
    for name in ("map_size", "dtype", "fusion", "shards"):
        one, other = getattr(a, name), getattr(b, name)
        if one != other:
            into = found.notes if name == "shards" else found.settings
            into.append(f"{name}: {one} and {other}")
    names_a, names_b = set(a.class_names), set(b.class_names)
    if names_a != names_b:
        found.settings.append(
            f"classes: {len(names_a)} and {len(names_b)}; only in one of them: "
            + ", ".join(sorted(names_a ^ names_b)[:10])
        )
    elif a.class_names != b.class_names:
        found.notes.append("classes: the same names in another order")


def _pairs(manifest: Manifest) -> set[Pair]:
    names = manifest.class_names
    images = zip(manifest.image_ids, manifest.classes, strict=True)
    return {(image_id, names[c]) for image_id, classes in images for c in classes}


def _matching_parts(
    a: StoreReader, b: StoreReader
) -> Iterator[tuple[dict[Pair, Record], dict[Pair, Record]]]:
    """Records of both by pair: shard by shard where images lie alike, else all at once."""
    alike = a.manifest.shards == b.manifest.shards and a.manifest.image_ids == b.manifest.image_ids
    for shards in [[s] for s in range(a.manifest.shards)] if alike else [None]:
        yield tuple(
            {
                (image_id, reader.manifest.class_names[c]): record
                for image_id, c, record in reader.records(shards)
            }
            for reader in (a, b)
        )


def _compare_pair(pair: Pair, one: Record, other: Record, found: Comparison) -> None:
    found.accepted += one.accepted != other.accepted
    found.fallback += one.fallback != other.fallback
    if one.map_SS.shape != other.map_SS.shape:
        return  # map_size is among the settings that differ
    largest = max(
        found.maps.add(one.map_SS, other.map_SS), found.attention.add(one.last_SS, other.last_SS)
    )
    if largest > 0:
        found.worst = heapq.nlargest(WORST, [*found.worst, (largest, pair)])
