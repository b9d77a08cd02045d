"""Run under torchrun by test_any_world_same_maps.py: accumulates given CAMs, without training.

usage: accumulate_worker.py STORE VISITS
"""

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
import torch

from dist_oaa.attention.accumulator import AttentionAccumulator
from dist_oaa.attention.batch import Observation, Rules
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.data.sampler import EpochOrder
from dist_oaa.runtime.distributed import open_world
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.writer import StoreWriter, prepare_store

IMAGES, CLASSES, SHARDS, BATCH, EPOCHS = 29, 4, 7, 6, 3


def given(image: str, epoch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """CAM, logits and geometry as a function of the image and the epoch alone."""
    digest = hashlib.sha256(f"{image} {epoch}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    cam = rng.normal(size=(CLASSES, 9, 12)).astype(np.float32)
    mirrored = np.array([[-1, 0, 1], [0, 1, 0]], np.float32)
    geometry = mirrored if rng.random() < 0.5 else np.eye(2, 3, dtype=np.float32)
    return cam, cam.mean((1, 2)), geometry


def main(folder: str, visits: str) -> None:
    names = tuple(f"image-{i:03d}" for i in range(IMAGES))
    classes = tuple(tuple(sorted({i % CLASSES, i * 7 % CLASSES})) for i in range(IMAGES))
    labels_NC = np.zeros((IMAGES, CLASSES), np.uint8)
    for image, targets in enumerate(classes):
        labels_NC[image, list(targets)] = 1
    class_names = tuple("abcd")
    manifest = Manifest(16, "uint8", "max", SHARDS, class_names, "f", names, classes)
    with open_world(RuntimeConfig(device="cpu", timeout_s=60)) as world:
        manifest = world.only_first(lambda: prepare_store(Path(folder), manifest, resume=False))
        store = StoreWriter(Path(folder), manifest, world.rank, world.size, generation=0)
        accumulator = AttentionAccumulator(store)
        order = EpochOrder(manifest.shard_N, SHARDS, seed=5)
        seen = []
        for epoch in range(EPOCHS):
            for step, part in enumerate(order.batches(epoch, BATCH, world.rank, world.size)):
                seen += [(epoch, step, names[i]) for i in part]
                if len(part):
                    observe(accumulator, part, epoch, names, labels_NC)
            world.agree(lambda: accumulator.commit(epoch + 1))  # noqa: B023 - called at once
        everything = world.gather(seen)
        if world.is_first:
            Path(visits).write_text(json.dumps(everything))
        accumulator.close()


def observe(accumulator, part, epoch, names, labels_NC) -> None:
    cams, logits, geometries = (
        torch.from_numpy(np.stack(x))
        for x in zip(*(given(names[i], epoch) for i in part), strict=True)
    )
    labels_BC = torch.from_numpy(labels_NC[part])
    pairs = accumulator.pairs(torch.from_numpy(part), labels_BC)
    cells_B2 = torch.tensor([[9, 12]]).expand(len(part), 2)
    seen = Observation(cams, logits, labels_BC, geometries, cells_B2, pairs)
    accumulator.update(seen, Rules(gate="strict", fallback=epoch == EPOCHS - 1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
