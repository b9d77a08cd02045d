"""Small classify runs for tests, and what they leave behind."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from dist_oaa.runtime.checkpoint import load_checkpoint
from dist_oaa.store.reader import StoreReader


def settings(data: Path, run_dir: Path, **changes: object) -> list[str]:
    """`classify` with a network small enough for a fraction of a second a step."""
    values = {
        "run_dir": run_dir,
        "data.root": data,
        "data.split": "trainval",
        "data.resize": "square",
        "data.size": 64,
        "data.workers": 0,
        "model.backbone": "test_efficientnet",
        "model.weights": "none",
        "model.head_channels": 16,
        "optim.batch_size": 6,
        "optim.epochs": 2,
        "optim.lr": 0.05,
        "accumulate.map_size": 16,
        "accumulate.gate": "none",
        "accumulate.start_epoch": 0,
        "store.shards": 6,
        "evaluate.images": 6,
        "evaluate.gallery": 2,
        "runtime.device": "cpu",
        "runtime.timeout_s": 60,
        "runtime.log_every": 1,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return ["classify", *(str(x) for k, v in values.items() for x in (f"--{k}", v))]


def integral_settings(data: Path, maps: Path, run_dir: Path, **changes: object) -> list[str]:
    """`integral` with the same small network, learning from `maps`.

    With AdamW a few steps give maps that differ from cell to cell.
    """
    learning = {"optim.optimizer": "adamw", "optim.lr": 0.003}
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    flags = settings(data, run_dir, **learning | changes)[1:]
    pairs = [
        pair
        for pair in zip(flags[::2], flags[1::2], strict=True)
        if not pair[0].startswith(("--accumulate.", "--store."))
    ]
    kept = [text for pair in pairs for text in pair]
    return ["integral", "--maps", str(maps), "--integral.shards", "6", *kept]


def segment_settings(data: Path, labels: Path, run_dir: Path, **changes: object) -> list[str]:
    """`segment` with the same small trunk, measured on the list val."""
    values = {
        "labels": labels,
        "run_dir": run_dir,
        "data.root": data,
        "data.workers": 0,
        "data.augment.crop": 64,
        "network.backbone": "test_efficientnet",
        "network.weights": "none",
        "network.output_stride": 16,
        "network.head_channels": 16,
        "network.dropout": 0.0,
        "optim.batch_size": 6,
        "optim.epochs": 2,
        "optim.optimizer": "adamw",
        "optim.lr": 0.003,
        "segment.shards": 6,
        "evaluate.images": 3,
        "evaluate.gallery": 2,
        "runtime.device": "cpu",
        "runtime.timeout_s": 60,
        "runtime.log_every": 1,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    return ["segment", *(str(x) for k, v in values.items() for x in (f"--{k}", v))]


def labels_from_masks(data: Path, run_dir: Path) -> Path:
    """A folder as `oaa pseudo-label` leaves it, whose labels are the masks of the data set.

    Its first image is ignored whole, as one without attention is.
    """
    (run_dir / "labels").mkdir(parents=True)
    for number, path in enumerate(sorted((data / "SegmentationClass").glob("*.png"))):
        with Image.open(path) as mask:
            label_HW = np.full_like(mask, 255) if number == 0 else np.asarray(mask)
        Image.fromarray(label_HW).save(run_dir / "labels" / path.name)
    (run_dir / "classes.txt").write_bytes((data / "classes.txt").read_bytes())
    lines = ["supervision: image-level labels from labels.csv; CRF none", "saliency none"]
    (run_dir / "labels.json").write_text(json.dumps({"supervision": lines, "skipped": {}}))
    return run_dir


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its relative path."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def maps_of(run_dir: Path) -> dict[tuple[str, int], tuple]:
    """Every pair's map, last attention and counters, as bytes and numbers, by name and class."""
    return {
        (name, class_): (
            record.map_SS.tobytes(),
            record.last_SS.tobytes(),
            record.accepted,
            record.fallback,
        )
        for name, class_, record in StoreReader(run_dir).records()
    }


def weights_of(run_dir: Path) -> dict[str, np.ndarray]:
    """The published weights and optimiser tensors."""
    checkpoint = load_checkpoint(run_dir / "checkpoints")
    tensors = {f"model.{k}": v.numpy() for k, v in checkpoint.model.items()}
    for index, entries in checkpoint.optimizer["state"].items():
        for key, value in entries.items():
            if hasattr(value, "numpy"):
                tensors[f"optimizer.{index}.{key}"] = value.numpy()
    return tensors


def assert_same_run(one: Path, other: Path) -> None:
    """Maps of both kinds, counters, weights and optimiser state agree to the last bit."""
    maps, others = maps_of(one), maps_of(other)
    assert maps.keys() == others.keys()
    assert len(maps) > 0
    different = [key for key in maps if maps[key] != others[key]]
    assert not different, f"{len(different)} of {len(maps)} pairs differ: {different[:3]}"
    assert_same_weights(one, other)


def assert_same_weights(one: Path, other: Path) -> None:
    """Weights and optimiser state agree to the last bit."""
    weights, other_weights = weights_of(one), weights_of(other)
    assert weights.keys() == other_weights.keys()
    for key, value in weights.items():
        assert value.tobytes() == other_weights[key].tobytes(), f"{key} differs"
