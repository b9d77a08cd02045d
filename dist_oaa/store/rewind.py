"""`oaa store rewind`: puts an older checkpoint of a run in force, where the maps still allow it.

The store keeps of each map the last two commits, so that as a rule the checkpoint before the
published one still has its maps; once a commit after the published one has begun, it has not.
"""

from pathlib import Path

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.checkpoint import complete_checkpoints, read_checkpoint
from dist_oaa.runtime.files import named_disk_errors
from dist_oaa.runtime.latest import Latest
from dist_oaa.store.folder import shard_name
from dist_oaa.store.inspect import console, examine
from dist_oaa.store.manifest import MANIFEST
from dist_oaa.store.reader import StoreReader


def rewind(run: str, to: str = "") -> int:
    """Put an older checkpoint of a run in force; what came after it is trained anew.

    Args:
        run: Run directory; no run may be writing it.
        to: Folder name of the checkpoint, such as step-00000120-g000007; empty for the newest
            complete one before the published one.

    Returns:
        The exit code.

    Raises:
        UserError: when there is no such checkpoint, it is damaged, or its maps are gone.
    """
    run_dir = Path(run)
    folder = run_dir / "checkpoints"
    if to and to not in {path.name for path in folder.glob("step-*")}:
        raise UserError(f"{folder} has no checkpoint {to!r}, expected the name of a folder in it")
    chosen = to or next(complete_checkpoints(folder, _published(folder)), "")
    if not chosen:
        raise UserError(f"{folder} holds no other complete checkpoint to go back to")
    checkpoint = read_checkpoint(folder / chosen)
    stores = sorted(path.parent for path in run_dir.glob(f"store*/{MANIFEST}"))
    for store in stores:
        _check_maps(StoreReader(store), chosen, checkpoint.generation)
    with named_disk_errors(folder):
        Latest(chosen, checkpoint.generation).write(folder)
    console().print(
        f"{chosen} is in force again: --resume goes on after {checkpoint.state['step']:,} steps",
        soft_wrap=True,
    )
    return 0


def _published(folder: Path) -> str:
    """The name of the published checkpoint; empty where latest.json is damaged or missing."""
    try:
        return Latest.read(folder).name
    except (FileNotFoundError, UserError):
        return ""


def _check_maps(reader: StoreReader, name: str, generation: int) -> None:
    for index in range(reader.manifest.shards):
        report = examine(reader, index, generation)
        reach = report.reach
        if reach is not None and not reach[0] <= generation <= reach[1]:
            raise UserError(
                f"{reader.folder} holds the maps of generations {reach[0]} to {reach[1]}, but "
                f"{name} belongs to generation {generation}: of each map the last two commits are "
                f"kept; its network can still be used, as --checkpoint RUN/checkpoints/{name}"
            )
        if report.faults:
            raise UserError(
                f"{reader.folder / shard_name(index)} is damaged at generation {generation}: "
                f"{report.faults[0].text}; oaa store verify lists everything"
            )
