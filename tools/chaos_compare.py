"""What an attacked run has left behind, against what the uninterrupted one has."""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from dist_oaa.runtime.checkpoint import Checkpoint, load_checkpoint
from dist_oaa.runtime.lease import held_leases
from dist_oaa.store.manifest import MANIFEST
from dist_oaa.store.reader import StoreReader

# Written anew in each process, or compared by what they mean.
APART = ("config.yaml", "metrics.jsonl", "heartbeat.json", "launchers.json")
APART_FOLDERS = ("tensorboard", "checkpoints", "leases")
# The number of a checkpoint counts those that a signal has added.
COUNTED = "generation"
# Every start writes the layout of the charts.
LAYOUT = "custom_scalars__config__"
# Occluded images are shown of those that the last start has itself seen in the epoch.
SEEN = ("occluded", "pictures/occluded.png")


@dataclass
class Comparison:
    """How a run differs from its reference."""

    bits: int = 0
    """Differing bits of maps, counters, weights, optimiser, position and files."""
    notes: list[str] = field(default_factory=list)
    """One sentence for each thing that differs or was left behind."""

    def same(self, name: str, one: bytes | None, other: bytes | None) -> None:
        """Compares two contents; None stands for a thing that is not there."""
        if one == other:
            return
        self.bits += differing_bits(one or b"", other or b"")
        lost = " (missing)" if other is None else " (not in the reference)" if one is None else ""
        self.notes.append(f"{name} differs{lost}")

    def same_items(self, name: str, one: dict, other: dict) -> None:
        """Compares the contents of two dictionaries of bytes, key by key."""
        if not one:
            self.notes.append(f"{name}: the reference has none")
        for key in sorted(one.keys() | other.keys(), key=str):
            self.same(f"{name} {key}", one.get(key), other.get(key))


def differing_bits(one: bytes, other: bytes) -> int:
    """Bits in which two contents differ; all that only one of them has count."""
    length = min(len(one), len(other))
    a, b = (np.frombuffer(x, dtype=np.uint8, count=length) for x in (one, other))
    return int(np.bitwise_count(a ^ b).sum()) + 8 * (max(len(one), len(other)) - length)


def compare(reference: Path, run_dir: Path) -> Comparison:
    """Compares a finished run with the uninterrupted one of the same settings."""
    found = Comparison()
    for store in sorted(path.parent for path in reference.glob(f"*/{MANIFEST}")):
        maps = [maps_of(folder / store.name) for folder in (reference, run_dir)]
        found.same_items(f"{store.name}: map of", *maps)
    states = [state_of(folder) for folder in (reference, run_dir)]
    found.same_items("checkpoint:", *states)
    for name, read in (("metrics.jsonl", lines_of), ("TensorBoard", events_of)):
        one, other = (read(folder) for folder in (reference, run_dir))
        if one != other:
            found.notes.append(f"{name} differs: {first_difference(one, other)}")
    found.same_items("file", *(other_files(folder) for folder in (reference, run_dir)))
    found.notes += left_behind(run_dir)
    return found


def maps_of(store: Path) -> dict[str, bytes]:
    """Both maps and the counters of each pair."""
    return {
        f"{name}/{class_}": record.map_SS.tobytes()
        + record.last_SS.tobytes()
        + np.array([record.accepted, record.fallback], dtype=np.int64).tobytes()
        for name, class_, record in StoreReader(store).records()
    }


def state_of(run_dir: Path) -> dict[str, bytes]:
    """Weights, optimiser and position of the published checkpoint."""
    checkpoint = load_checkpoint(run_dir / "checkpoints")
    state = {key: value for key, value in checkpoint.state.items() if key != COUNTED}
    found = {f"model {key}": bytes_of(value) for key, value in checkpoint.model.items()}
    found |= {f"optimizer {key}": value for key, value in optimizer_of(checkpoint).items()}
    return found | {"position": json.dumps(state, sort_keys=True).encode()}


def optimizer_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """The optimiser's tensors and numbers."""
    groups = json.dumps(checkpoint.optimizer["param_groups"], sort_keys=True).encode()
    return {"groups": groups} | {
        f"{index}.{key}": bytes_of(value)
        for index, entries in checkpoint.optimizer["state"].items()
        for key, value in entries.items()
    }


def bytes_of(value: object) -> bytes:
    """A tensor's or a number's content."""
    if isinstance(value, torch.Tensor):
        return value.contiguous().numpy().tobytes()
    return json.dumps(value).encode()


def lines_of(run_dir: Path) -> list[str]:
    """metrics.jsonl line by line; a time that somebody logs is no measurement."""
    return (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()


def events_of(run_dir: Path) -> list[str]:
    """Every point that TensorBoard shows, by tag and step, as it reads a run that began again."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it tells of every point it drops
    events = EventAccumulator(str(run_dir / "tensorboard"), {"tensors": 0})
    events.Reload()
    return sorted(
        f"{tag} {event.step} {hash_of(event.tensor_proto.SerializeToString())}"
        for tag in events.Tags()["tensors"]
        for event in events.Tensors(tag)
        if tag not in (LAYOUT, *SEEN)
    )


def hash_of(content: bytes) -> str:
    """A short name of a content."""
    return hashlib.sha256(content).hexdigest()[:16]


def first_difference(one: list[str], other: list[str]) -> str:
    """The first place at which two lists of lines part, for a sentence."""
    for number, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return f"line {number + 1} of {len(one)} is {b[:160]!r}, expected {a[:160]!r}"
    return f"{len(other)} lines, expected {len(one)}"


def other_files(run_dir: Path) -> dict[str, bytes]:
    """All other files that are the same in every run of the same settings."""
    stores = {path.parent.name for path in run_dir.glob(f"*/{MANIFEST}")}
    found = {}
    for path in sorted(run_dir.rglob("*")):
        place = path.relative_to(run_dir)
        apart = place.parts[0] in (*APART, *APART_FOLDERS, *stores) or place.as_posix() in SEEN
        if path.is_file() and not apart:
            found[place.as_posix()] = path.read_bytes()
    return found


def left_behind(run_dir: Path) -> list[str]:
    """What a finished run must not leave: temporary files, leases that are held."""
    stray = [p for p in run_dir.rglob("*") if p.name.endswith((".tmp", ".new"))]
    held = held_leases(run_dir)
    notes = [f"{path.relative_to(run_dir)} was left behind" for path in sorted(stray)]
    return notes + [f"{path.relative_to(run_dir)} is still held" for path in held]
