"""Checkpoints that are complete or not there.

    checkpoints/step-00000120-g000007/model.safetensors optimizer.safetensors state.json sha256.json
    checkpoints/latest.json      the published one (latest.py)
    checkpoints/best.json        the best one so far, where checkpoint.keep_best names a metric

A checkpoint is written to a temporary folder, synced, renamed, and then published by the rename
of latest.json: the one instant at which the weights and the maps of the same generation take
effect together. The maps' generation is committed before; a crash in between leaves the old
checkpoint in force, and the newer records of the store are ignored.

Writing may take its time beside training (see saver.py), since what is written is a `host_copy`.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.faults import fault_point
from dist_oaa.runtime.files import disk_words, sync_folder, write_atomic
from dist_oaa.runtime.latest import UNPUBLISHED, Latest

BEST = "best.json"
FILES = frozenset({"model.safetensors", "optimizer.safetensors", "state.json"})
# What reading a file raises that is not what this program wrote: JSON of another shape or nested
# thousands of levels deep, tensors that are none (safetensors runs nothing, unlike pickle).
DAMAGE = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RecursionError,
    safetensors.SafetensorError,
)


@dataclass
class Checkpoint:
    """The state of a run at one step, apart from the maps."""

    model: dict[str, torch.Tensor]
    """State dict of the network."""
    optimizer: dict[str, Any]
    """State dict of the optimiser: tensors and plain numbers."""
    state: dict[str, Any]
    """Position and counters: anything that JSON keeps exactly."""
    generation: int = 0
    """Generation of the store that belongs to it, 0 where a stage has no store."""
    metric: str = ""
    """Name of the metric by which the best checkpoint is kept; empty keeps none."""
    score: float | None = None
    """That metric where it was measured at this instant; higher is better."""


def host_copy(value: Any) -> Any:
    """A state dict as it is now: its tensors copied to the CPU, contiguous, whatever the nesting.

    Training may go on to change the original. The copy of a model and its momentum takes as much
    host memory as the two themselves.
    """
    if isinstance(value, torch.Tensor):
        # safetensors keeps values, not strides: channels-last weights are undone here, so that
        # the thread that writes the copy has no arithmetic left to do.
        return value.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
    if isinstance(value, dict):
        return {key: host_copy(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(host_copy(item) for item in value)
    return value


def save_checkpoint(folder: Path, name: str, checkpoint: Checkpoint, keep: int) -> None:
    """Writes and publishes a checkpoint; called by one rank.

    Args:
        folder: the run's `checkpoints` folder.
        name: a name that no published checkpoint has; an unpublished leftover is replaced.
        keep: complete checkpoints to leave on disk.

    Raises:
        UserError: when the disk is full or fails; the last checkpoint stays in force.
    """
    temporary = folder / f".{name}.tmp"
    try:
        fault_point("checkpoint.publish")
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        _write_files(checkpoint, temporary)
        if (folder / name).exists():
            shutil.rmtree(folder / name)
        fault_point("checkpoint.folder.before")
        temporary.rename(folder / name)
        fault_point("checkpoint.folder.after")
        sync_folder(folder)
        if checkpoint.metric:
            _record_best(folder, name, checkpoint.metric)
        fault_point("checkpoint.latest.before")
        Latest(name, checkpoint.generation).write(folder)
        fault_point("checkpoint.latest.after")
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"the checkpoint {folder / name} could not be written, the one before it stays in "
            f"force: {disk_words(error, folder, _bytes_of(checkpoint))}"
        ) from error
    _prune(folder, name, keep)


def _write_files(checkpoint: Checkpoint, folder: Path) -> None:
    tensors, plain = flatten_optimizer(checkpoint.optimizer)
    _save_tensors(checkpoint.model, folder / "model.safetensors")
    _save_tensors(tensors, folder / "optimizer.safetensors")
    body = {"state": checkpoint.state, "optimizer": plain, "generation": checkpoint.generation}
    if checkpoint.score is not None:
        body |= {"metric": checkpoint.metric, "score": checkpoint.score}
    write_atomic(folder / "state.json", json.dumps(body, indent=1).encode())
    sums = {file.name: _sha256(file) for file in sorted(folder.iterdir())}
    write_atomic(folder / "sha256.json", json.dumps(sums, indent=1).encode())


def _bytes_of(checkpoint: Checkpoint) -> int:
    """Bytes of the tensors, which are nearly all of a checkpoint."""
    tensors, _ = flatten_optimizer(checkpoint.optimizer)
    return sum(t.nbytes for t in (*checkpoint.model.values(), *tensors.values()))


def load_checkpoint(folder: Path, name: str = "") -> Checkpoint:
    """Reads a checkpoint, after checking every file against its checksum.

    Args:
        folder: the run's `checkpoints` folder.
        name: a checkpoint's folder, `best` for the one of checkpoint.keep_best, or empty for the
            published one.

    Raises:
        UserError: when there is none or it is damaged; where an older one is complete, the
            sentence says so.
    """
    try:
        chosen = _best_name(folder) if name == "best" else name or Latest.read(folder).name
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no complete checkpoint to resume from") from error
    except UserError as error:
        raise UserError(f"{error}{_way_back(folder, '')}") from error
    try:
        return read_checkpoint(folder / chosen)
    except UserError as error:
        raise UserError(f"{error}{'' if name else _way_back(folder, chosen)}") from error


def _way_back(folder: Path, damaged: str) -> str:
    older = next(complete_checkpoints(folder, damaged), None)
    if older is None:
        return "; no older checkpoint is complete"
    return (
        f"; the older checkpoint {older} is complete: oaa store rewind {folder.parent} goes back "
        "to it where the maps still can, and --resume then goes on from there"
    )


def complete_checkpoints(folder: Path, before: str = "") -> Iterator[str]:
    """Names of the complete checkpoints, newest first; those older than one if it is given."""
    names = sorted((p.name for p in folder.glob("step-*") if p.is_dir()), reverse=True)
    for name in names:
        if not before or name < before:
            with contextlib.suppress(UserError):
                read_checkpoint(folder / name)
                yield name


def read_checkpoint(place: Path) -> Checkpoint:
    """Reads the checkpoint in a folder.

    Raises:
        UserError: when it is damaged, naming the file.
    """
    try:
        sums = json.loads((place / "sha256.json").read_bytes())
        for file in sums.keys() | FILES:
            if _sha256(place / file) != sums[file]:
                raise UserError(f"{place / file} is damaged: its checksum does not match")
        body = json.loads((place / "state.json").read_bytes())
        model = load_file(place / "model.safetensors")
        tensors = load_file(place / "optimizer.safetensors")
        optimizer = unflatten_optimizer(tensors, body["optimizer"])
        scored = body.get("metric", ""), body.get("score")
        return Checkpoint(model, optimizer, body["state"], body["generation"], *scored)
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"checkpoint {place} is damaged: {reason}") from error


def _best_name(folder: Path) -> str:
    try:
        name = str(json.loads((folder / BEST).read_bytes())["name"])
    except FileNotFoundError as error:
        raise UserError(
            f"{folder} has no {BEST}: the run kept no best checkpoint, set checkpoint.keep_best"
        ) from error
    except DAMAGE as error:
        raise UserError(f"{folder / BEST} is damaged: {error!r}") from error
    if not (folder / name).is_dir():
        raise UserError(f"{folder / BEST} is damaged: it names {name!r}, which is not there")
    return name


def _record_best(folder: Path, newest: str, metric: str) -> None:
    """Writes which checkpoint has the highest score; of equals the first.

    The scores are read from the checkpoints on disk, so that a crash at any instant, and a run
    that goes on from an earlier one, leave no wrong entry behind for longer than a checkpoint.
    """
    best: tuple[float, str] | None = None
    for name in sorted(p.name for p in folder.glob("step-*") if p.name <= newest):
        with contextlib.suppress(*DAMAGE):
            body = json.loads((folder / name / "state.json").read_bytes())
            score = body.get("score") if body.get("metric") == metric else None
            if score is not None and (best is None or score > best[0]):
                best = score, name
    if best is not None:
        entry = {"name": best[1], "metric": metric, "score": best[0]}
        write_atomic(folder / BEST, json.dumps(entry).encode())


def flatten_optimizer(state_dict: dict[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Splits an optimiser's state dict into named tensors and a JSON-able rest."""
    tensors: dict[str, torch.Tensor] = {}
    plain: dict[str, Any] = {"param_groups": state_dict["param_groups"], "state": {}}
    for index, entries in state_dict["state"].items():
        rest = {}
        for key, value in entries.items():
            if isinstance(value, torch.Tensor):
                tensors[f"{index}.{key}"] = value
            else:
                rest[key] = value
        plain["state"][str(index)] = rest
    return tensors, plain


def unflatten_optimizer(tensors: dict[str, torch.Tensor], plain: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten_optimizer`."""
    state: dict[int, dict[str, Any]] = {int(i): dict(rest) for i, rest in plain["state"].items()}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        state[int(index)][key] = value
    return {"param_groups": plain["param_groups"], "state": state}


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    # Nothing to do for a `host_copy`.
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, path)
    with open(path, "rb+") as file:
        fault_point("checkpoint.fsync")
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(folder: Path, newest: str, keep: int) -> None:
    names = sorted(p.name for p in folder.glob("step-*") if p.is_dir() and p.name <= newest)
    spared = ""
    with contextlib.suppress(UserError):
        spared = _best_name(folder)
    for name in names[:-keep]:
        if name != spared:
            shutil.rmtree(folder / name, ignore_errors=True)
    (folder / UNPUBLISHED).unlink(missing_ok=True)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
