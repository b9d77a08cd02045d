"""The run directory: everything that a run writes, and all that the next stage needs of it."""

from collections.abc import Sequence
from pathlib import Path

import yaml

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import disk_words, write_atomic
from dist_oaa.runtime.latest import LATEST, UNPUBLISHED

CONFIG = "config.yaml"
CLASSES = "classes.txt"


def check_run_dir(run_dir: Path, resume: bool) -> None:
    """Refuses a folder that the run must not begin in; changes nothing.

    A run that was cut off before its first checkpoint may begin again in its folder.

    Raises:
        UserError: when another run's results would be overwritten, or there is nothing to resume.
    """
    published = (run_dir / "checkpoints" / LATEST).exists()
    if resume and not published:
        raise UserError(
            f"{run_dir} holds no complete checkpoint to resume from; start it without --resume"
        )
    if published and not resume:
        raise UserError(
            f"{run_dir} holds an earlier run; continue it with --resume or choose another run_dir"
        )


def was_cut_off(run_dir: Path) -> bool:
    """Whether a run has begun here that never published a checkpoint: what it wrote is void.

    Its store may hold maps all the same, those of the checkpoint that was on its way. Where the
    checkpoints of a run were deleted this is not so, and its maps are kept.
    """
    folder = run_dir / "checkpoints"
    return (folder / UNPUBLISHED).exists() and not (folder / LATEST).exists()


def save_settings(run_dir: Path, config_yaml: str, class_names: Sequence[str]) -> list[str]:
    """Makes the run directory and saves the resolved settings, once nothing can refuse them.

    Beside config.yaml, the class names in the order of their indices, one a line: what a later
    stage needs to know of a checkpoint.

    Returns:
        one line for each setting that differs from those saved there before.

    Raises:
        UserError: when the folder cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        changes = _changes(run_dir / CONFIG, config_yaml)
        write_atomic(run_dir / CONFIG, config_yaml.encode())
        write_atomic(run_dir / CLASSES, "".join(f"{name}\n" for name in class_names).encode())
    except OSError as error:
        raise _unwritable(run_dir, error) from error
    return changes


def begin_training(run_dir: Path, config_yaml: str, class_names: Sequence[str]) -> list[str]:
    """`save_settings` of a run that will publish checkpoints; notes that it has none yet.

    Raises:
        UserError: when the folder cannot be written.
    """
    changes = save_settings(run_dir, config_yaml, class_names)
    folder = run_dir / "checkpoints"
    try:
        if not (folder / LATEST).exists():
            folder.mkdir(exist_ok=True)
            (folder / UNPUBLISHED).touch()
    except OSError as error:
        raise _unwritable(run_dir, error) from error
    return changes


def _unwritable(run_dir: Path, error: OSError) -> UserError:
    return UserError(f"run_dir {run_dir} cannot be written: {disk_words(error, run_dir)}")


def _changes(path: Path, config_yaml: str) -> list[str]:
    if not path.exists():
        return []
    before, now = (_flatten(yaml.safe_load(t)) for t in (path.read_text("utf-8"), config_yaml))
    return [
        f"{key}: {before.get(key)} -> {now.get(key)}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and key not in ("resume", "run_dir")
    ]


def _flatten(tree: dict, prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
