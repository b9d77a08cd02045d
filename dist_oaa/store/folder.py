"""Where the parts of a store lie.

    STORE/manifest.json images.tsv     what the store is about (manifest.py)
    STORE/shard-0007/data.mdb          maps of the shard's pairs (shard.py)
    STORE/leases/shard-0007.lock       held by the shard's one writer (runtime/lease.py)

A store inside a run directory is published together with the weights, by the one rename of
checkpoints/latest.json; its `generation` there says which maps belong to that checkpoint.
"""

from pathlib import Path

from dist_oaa.store.manifest import Manifest
from dist_oaa.store.shard import Shard


def shard_name(index: int) -> str:
    """Folder name of a shard."""
    return f"shard-{index:04d}"


def lease_path(store: Path, name: str) -> Path:
    """Where the lease of a shard lies."""
    return store / "leases" / f"{name}.lock"


def open_shard(
    folder: Path, manifest: Manifest, index: int, generation: int, writable: bool
) -> Shard:
    """A shard of the store that `manifest` describes, as of a generation.

    Raises:
        UserError: see Shard.
    """
    return Shard(
        folder,
        index,
        manifest.store_id,
        int(manifest.rows_of_shard[index]),
        manifest.map_size,
        manifest.dtype,
        generation,
        writable,
    )
