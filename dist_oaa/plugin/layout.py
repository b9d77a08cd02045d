"""What a plug-in's store is about, from the user's names and labels; and what is left in one.

Legend: N images, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_oaa.attention.fusions import find_fusion, stored_dtype
from dist_oaa.config.accumulate import AccumulateConfig, StoreConfig
from dist_oaa.config.errors import UserError
from dist_oaa.runtime.fingerprint import labels_fingerprint
from dist_oaa.store.manifest import MANIFEST, Manifest
from dist_oaa.store.reader import StoreReader, is_complete
from dist_oaa.store.survey import EmptyShardError
from dist_oaa.store.writer import prepare_store

DTYPES = ("auto", "uint8", "float16", "float32")


def make_manifest(
    image_ids: Sequence[str],
    labels: Any,
    class_names: Sequence[str] | None,
    map_size: int,
    fusion: str,
    dtype: str,
    shards: int,
) -> Manifest:
    """The manifest of a new store; the arguments are those of AttentionAccumulator.create.

    Raises:
        UserError: naming the argument, and the image where it is one image's fault.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype is {dtype!r}, expected {', '.join(DTYPES)}")
    try:
        AccumulateConfig(map_size=map_size)
        StoreConfig(shards=shards)
    except ValueError as error:
        raise UserError(str(error)) from error
    names = _checked_names(image_ids)
    classes, count = _classes_of(labels, names, class_names)
    titles = tuple(class_names) if class_names is not None else tuple(map(str, range(count)))
    by_name = sorted(zip(names, classes, strict=True))
    return Manifest(
        map_size=map_size,
        dtype=stored_dtype(dtype, find_fusion(fusion)),
        fusion=fusion,
        shards=shards,
        class_names=titles,
        fingerprint=labels_fingerprint(titles, by_name),
        image_ids=tuple(name for name, _ in by_name),
        classes=tuple(targets for _, targets in by_name),
    )


def _checked_names(image_ids: Sequence[str]) -> list[str]:
    names = list(image_ids)
    if not names:
        raise UserError("image_ids is empty, expected a name for each image")
    wrong = next((name for name in names if not isinstance(name, str)), None)
    if wrong is not None:
        raise UserError(
            f"image_ids has {wrong!r}, a {type(wrong).__name__}, expected names: a map belongs to "
            "a name, never to a position"
        )
    if len(set(names)) < len(names):
        seen: set[str] = set()
        twice = next(name for name in names if name in seen or seen.add(name))
        raise UserError(f"image_ids has {twice!r} more than once, expected each name once")
    return names


def _classes_of(
    labels: Any, names: list[str], class_names: Sequence[str] | None
) -> tuple[list[tuple[int, ...]], int]:
    """Target classes of each image, sorted, and the number of classes."""
    if isinstance(labels, torch.Tensor):
        labels = labels.detach().cpu().numpy()
    try:
        table = np.asarray(labels)
    except ValueError:
        table = np.asarray([], dtype=object)  # rows of different lengths
    kinds = {1: "iu", 2: "biuf"}
    if table.dtype.kind not in kinds.get(table.ndim, "") or len(table) != len(names):
        raise UserError(
            f"labels have shape {table.shape} and type {table.dtype}, expected "
            f"({len(names)}, C) of 0 and 1, or ({len(names)},) class indices"
        )
    if table.ndim == 1:
        count = len(class_names) if class_names is not None else int(table.max()) + 1
        wrong = (table < 0) | (table >= count)
        expected = f"a class index from 0 to {count - 1}"
        classes = [(int(c),) for c in table]
    else:
        count = table.shape[1]
        wrong = ((table != 0) & (table != 1)).any(axis=1)
        expected = "0 or 1 for each class"
        classes = [tuple(np.flatnonzero(row).tolist()) for row in table]
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        raise UserError(
            f"the labels of image {names[first]!r} are {table[first].tolist()}, expected {expected}"
        )
    if class_names is not None and (len(class_names) != count or len(set(class_names)) != count):
        raise UserError(
            f"class_names has {len(class_names)} names ({len(set(class_names))} different ones), "
            f"expected one for each of the {count} classes of the labels"
        )
    return classes, count


def committed_generations(folder: Path) -> tuple[Manifest, list[int]]:
    """The manifest of a store, and the generations that can be opened, ascending.

    A program that ends while its ranks commit leaves some shards ahead of others; what the last
    ones have reached counts. Each map is kept as of the last two commits.

    Raises:
        UserError: when there is no store, nothing was ever committed, a shard is missing or
            damaged, or another process is writing it.
    """
    Manifest.read(folder)  # a folder above the store would do for reading, but not for writing
    reader = StoreReader(folder)
    reached = []
    for index in range(reader.manifest.shards):
        try:
            reached.append(reader.span(index)[1])
        except EmptyShardError:
            reached.append(0)
    low, high = min(reached), max(reached)
    if low == 0:
        raise UserError(
            f"{folder} holds no committed maps; make it anew with AttentionAccumulator.create"
        )
    if high > low + 1:
        raise UserError(
            f"the shards of {folder} are of generations {low} to {high}, expected the same or the "
            "next: some are older copies"
        )
    return reader.manifest, list(range(max(1, high - 1), low + 1))


def new_store(folder: Path, manifest: Manifest) -> Manifest:
    """Writes the manifest of a new store; one that nothing was ever committed to is taken over.

    Raises:
        UserError: when the folder holds maps, or cannot be written.
    """
    if (folder / MANIFEST).exists() and is_complete(folder):
        raise UserError(
            f"{folder} holds accumulated maps already; go on with AttentionAccumulator.open, or "
            "choose another folder"
        )
    return prepare_store(folder, manifest, resume=False)


def old_store(folder: Path, generation: int | None) -> tuple[Manifest, int]:
    """The manifest of a store, and the generation to go on from: the last for None.

    Raises:
        UserError: when there is none such; see committed_generations.
    """
    manifest, kept = committed_generations(folder)
    if generation is not None and generation not in kept:
        raise UserError(
            f"{folder} holds generation {' and '.join(map(str, kept))}, but generation "
            f"{generation} was asked for; of each map the last two commits are kept"
        )
    return manifest, kept[-1] if generation is None else generation
