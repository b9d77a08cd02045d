"""Virtual batches: loaded, and so padded, each by itself."""

import numpy as np
import torch

from data_trees import write_image
from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.data.label_images import LabelledBatch
from dist_oaa.data.loader import BatchLoader
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.data.virtual import VirtualBatches, load_virtual

SHAPES = [(40, 60), (60, 40), (50, 50), (33, 80), (64, 64)]


def loader_of(tmp_path) -> BatchLoader:
    samples = []
    for n, (height, width) in enumerate(SHAPES):
        path = write_image(tmp_path / f"{n}.png", height, width, seed=n)
        samples.append(Sample(f"{n}", path, (n % 3,), None))
    (tmp_path / "4.png").write_bytes(b"")
    image_set = ImageSet(tmp_path, ("a", "b", "c"), tuple(samples), "labels.csv")
    config = DataConfig(size=32, workers=0, augment=AugmentConfig(scale=[0.8, 1.4]))
    return BatchLoader(image_set, config, 8, seed=5)


def arrays(parts: list[list[int]]) -> list[np.ndarray]:
    return [np.array(part, dtype=np.int64) for part in parts]


def test_parts_are_loaded_as_if_alone(tmp_path):
    """Whatever else the rank has in the step: nothing of a batch depends on its neighbours."""
    loader = loader_of(tmp_path)
    shared = list(load_virtual(loader, [arrays([[2], [], [3]]), arrays([[0], [4], []])], 1))
    (alone,) = next(load_virtual(loader, [arrays([[2]])], 1)).parts
    together = next(iter(loader.load(arrays([[2, 3]]), 1)))
    first = shared[0].parts[0]
    assert torch.equal(first.images_B3HW, alone.images_B3HW)
    assert first.images_B3HW.stride() == alone.images_B3HW.stride()
    assert together.images_B3HW.shape[3] > first.images_B3HW.shape[3], "the padding would differ"
    assert [len(part) for part in shared[0].parts] == [1, 0, 1]
    assert [len(part) for part in shared[1].parts] == [1, 0, 0]


def test_what_a_step_tells_of_itself(tmp_path):
    steps = [arrays([[3, 0], [], [1]]), arrays([[], [4], [2]])]
    first, second = load_virtual(loader_of(tmp_path), steps, 0)
    assert (len(first), first.ids, first.bad) == (3, ["3", "0", "1"], [])
    assert (len(second), second.ids) == (1, ["2"])
    assert len(second.bad) == 1
    assert "4.png" in second.bad[0]
    assert first.split(7) is first.parts


def test_labels_that_cannot_be_right_are_told_of_all_parts():
    empty = torch.zeros(0)
    parts = [LabelledBatch([], *[empty] * 4, [], wrong) for wrong in ([], ["one"], ["two"])]
    assert VirtualBatches(parts).wrong == ["one", "two"]
