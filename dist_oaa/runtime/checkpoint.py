"""Checkpoints that are complete or not there.

    checkpoints/step-00000120-g000007/model.safetensors optimizer.safetensors state.json sha256.json
    checkpoints/latest.json      {"name": "step-00000120-g000007", "generation": 7}

A checkpoint is written to a temporary folder, synced, renamed, and then published by the rename
of latest.json: the one instant at which the weights and the maps of the same generation take
effect together. The maps' generation is committed before; a crash in between leaves the old
checkpoint in force, and the newer records of the store are ignored.

Writing may take its time beside training (see saver.py), since what is written is a `host_copy`.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.files import sync_folder, write_atomic

LATEST = "latest.json"
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
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        tensors, plain = flatten_optimizer(checkpoint.optimizer)
        _save_tensors(checkpoint.model, temporary / "model.safetensors")
        _save_tensors(tensors, temporary / "optimizer.safetensors")
        body = {"state": checkpoint.state, "optimizer": plain, "generation": checkpoint.generation}
        write_atomic(temporary / "state.json", json.dumps(body, indent=1).encode())
        sums = {file.name: _sha256(file) for file in sorted(temporary.iterdir())}
        write_atomic(temporary / "sha256.json", json.dumps(sums, indent=1).encode())
        if (folder / name).exists():
            shutil.rmtree(folder / name)
        temporary.rename(folder / name)
        sync_folder(folder)
        latest = {"name": name, "generation": checkpoint.generation}
        write_atomic(folder / LATEST, json.dumps(latest).encode())
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"the checkpoint {folder / name} could not be written, "
            f"the one before it stays in force: {error}"
        ) from error
    _prune(folder, name, keep)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Reads the published checkpoint, after checking every file against its checksum.

    Raises:
        UserError: when there is none or it is damaged.
    """
    try:
        place = folder / json.loads((folder / LATEST).read_bytes())["name"]
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no complete checkpoint to resume from") from error
    except DAMAGE as error:
        raise UserError(f"{folder / LATEST} is damaged: {error}") from error
    try:
        sums = json.loads((place / "sha256.json").read_bytes())
        for file in sums.keys() | FILES:
            if _sha256(place / file) != sums[file]:
                raise UserError(f"{place / file} is damaged: its checksum does not match")
        body = json.loads((place / "state.json").read_bytes())
        model = load_file(place / "model.safetensors")
        tensors = load_file(place / "optimizer.safetensors")
        optimizer = unflatten_optimizer(tensors, body["optimizer"])
        return Checkpoint(model, optimizer, body["state"], body["generation"])
    except DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"checkpoint {place} is damaged: {reason}") from error


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
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(folder: Path, newest: str, keep: int) -> None:
    names = sorted(p.name for p in folder.glob("step-*") if p.is_dir() and p.name <= newest)
    for name in names[:-keep]:
        shutil.rmtree(folder / name, ignore_errors=True)
    for leftover in folder.glob(".*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
