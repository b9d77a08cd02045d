"""`oaa store gather`: one store out of the folders in which several nodes have kept its shards.

Where nodes share no storage each of them writes the shards of its own ranks to its own disk, and
only the first rank's node has the manifest and the checkpoints. Their folders are brought
together by any means (rsync, a USB disk), each under a name of its own, and gathered here.
"""

import contextlib
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import new_folder, sync_folder
from dist_oaa.runtime.latest import Latest
from dist_oaa.runtime.lease import is_held
from dist_oaa.store.folder import lease_path, shard_name
from dist_oaa.store.inspect import console, examine_all, fault_lines
from dist_oaa.store.manifest import MANIFEST, Manifest
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.survey import DATA
from dist_oaa.store.writer import StoreWriter

NAMED = 8
"""Shards that a sentence names."""


def gather(nodes: Sequence[str], out: str) -> int:
    """Assembles the shards of several folders into one store, whole or not at all.

    Every map is read from the assembled copy and held against its checksum before `out` appears.

    Args:
        nodes: a store, or a run directory that holds one, of each node.
        out: the new store.

    Returns:
        the exit code.

    Raises:
        UserError: when the folders are of different stores, a shard is missing, damaged, behind
            the others or in two folders, a run writes one of them, or `out` exists.
    """
    folders = [find_store(Path(node)) for node in nodes]
    for number, folder in enumerate(folders):
        if folder.resolve() in [other.resolve() for other in folders[:number]]:
            raise UserError(f"{folder} is given twice")
    manifest = common_manifest(folders)
    places = find_shards(folders, manifest)
    generation = published(folders)
    with new_folder(Path(out)) as assembled:
        manifest.write(assembled)
        for index, place in enumerate(places):
            target = assembled / shard_name(index)
            target.mkdir()
            shutil.copyfile(place / DATA, target / DATA)
        generation = check(assembled, places, generation)
        # Forgets what a run that was cut off has written since its last checkpoint, and makes
        # the copies durable.
        with contextlib.closing(StoreWriter(assembled, manifest, 0, 1, generation)):
            pass
        for index in range(manifest.shards):
            sync_file(assembled / shard_name(index) / DATA)
            sync_folder(assembled / shard_name(index))
        sync_folder(assembled)
    console().print(
        f"{manifest.shards} shards of {len(folders)} folders, {manifest.pairs:,} pairs, "
        f"generation {generation}: {out}",
        soft_wrap=True,
    )
    return 0


def find_store(folder: Path) -> Path:
    """The store in a folder, which need not have a manifest.

    Raises:
        UserError: when there is neither a manifest nor a shard.
    """
    for place in (folder, folder / "store"):
        if (place / MANIFEST).exists() or any(place.glob(f"shard-*/{DATA}")):
            return place
    raise UserError(f"{folder} holds no store: neither {MANIFEST} nor a shard is there")


def common_manifest(folders: Sequence[Path]) -> Manifest:
    """The manifest of those folders that have one.

    Raises:
        UserError: when none has, or they are of different stores.
    """
    found = {folder: Manifest.read(folder) for folder in folders if (folder / MANIFEST).exists()}
    if not found:
        raise UserError(
            f"none of the {len(folders)} folders has a {MANIFEST}: give the folder of the node "
            "of rank 0 too"
        )
    (first, manifest), *others = found.items()
    for folder, other in others:
        if other != manifest:
            raise UserError(
                f"{first} and {folder} are different stores ({manifest.store_id} and "
                f"{other.store_id}), expected parts of one"
            )
    return manifest


def find_shards(folders: Sequence[Path], manifest: Manifest) -> list[Path]:
    """The folder of each shard, by its number.

    Raises:
        UserError: when a shard is missing, there more than once, or being written.
    """
    names = [shard_name(index) for index in range(manifest.shards)]
    holders = {name: [f for f in folders if (f / name / DATA).exists()] for name in names}
    gaps = [name for name in names if not holders[name]]
    if gaps:
        raise UserError(
            f"{len(gaps)} of the {manifest.shards} shards are in none of the "
            f"{len(folders)} folders: {_some(gaps)}"
        )
    twice = [f"{n} ({' and '.join(map(str, found))})" for n, found in holders.items() if found[1:]]
    if twice:
        raise UserError(
            f"{len(twice)} of the {manifest.shards} shards are there more than once, expected "
            f"each in one folder; remove the copy that is out of date: {_some(twice)}"
        )
    for name in names:
        lock = lease_path(holders[name][0], name)
        if is_held(lock):
            raise UserError(f"{lock.parent.parent} is being written by a run; gather it afterwards")
    return [holders[name][0] / name for name in names]


def published(folders: Sequence[Path]) -> int | None:
    """The generation that the run's latest checkpoint names; None where no folder has one.

    The newest counts: only rank 0 publishes, and what lies beside the parts of other nodes is a
    copy from which they once resumed.

    Raises:
        UserError: when a latest.json is damaged.
    """
    found = []
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            found.append(Latest.read(folder.parent / "checkpoints").generation)
    return max(found, default=None)


def check(assembled: Path, places: Sequence[Path], generation: int | None) -> int:
    """Reads every map of the assembled store; returns its generation.

    Raises:
        UserError: when anything is damaged or behind; every fault is printed before, under the
            name of the folder that it came from.
    """
    reader = StoreReader(assembled)
    if generation is not None:
        # What counts is the checkpoint beside the parts, whatever lies beside the new folder.
        reader.published = generation
    generation, reports = examine_all(reader)
    faulty = [index for index, report in enumerate(reports) if report.faults]
    for index in faulty:
        for line in fault_lines(reader.manifest, index, reports[index].faults):
            said = line.replace(str(assembled / shard_name(index)), str(places[index]))
            console().print(f"{places[index].parent}: {said}", soft_wrap=True)
    if faulty:
        raise UserError(
            f"{len(faulty)} of the {len(places)} shards cannot be gathered as of generation "
            f"{generation}: {_some([str(places[index]) for index in faulty])}"
        )
    return generation


def sync_file(path: Path) -> None:
    """Makes a file's content durable.

    Raises:
        OSError: when the disk fails.
    """
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
