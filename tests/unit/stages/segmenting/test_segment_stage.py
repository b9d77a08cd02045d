"""The segment stage's forward pass with a real network, empty ranks, and batch norm over ranks."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.config.segment import SegmentConfig, SegmentLossConfig
from dist_oaa.config.segmentation import SegmentationConfig
from dist_oaa.data.label_images import LabelledBatch
from dist_oaa.models.segmentation.build import build_segmenter
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.plan import Position
from dist_oaa.stages.segment import check_world
from dist_oaa.stages.segmenting.stage import SegmentStage, own_statistics, share_statistics

WORLD = World(0, 1, 0, torch.device("cpu"))


def build(**settings) -> torch.nn.Module:
    config = SegmentationConfig(
        backbone="test_efficientnet", weights="none", output_stride=16, head_channels=8,
        dropout=0.0, **settings,
    )  # fmt: skip
    return build_segmenter(config, 3, seed=0)[0].train()


@pytest.fixture(scope="module")
def network():
    return build()


def stage_of(network, world=WORLD, batch_norm="frozen", **settings) -> SegmentStage:
    config = SegmentConfig(
        segment=SegmentLossConfig(**settings), network=SegmentationConfig(batch_norm=batch_norm)
    )
    trainable = SimpleNamespace(model=network, wrapped=network)
    return SegmentStage(config, world, trainable, None, None, 0.25, lambda at: {"seen": 1.0})


def batch_of(*numbers: int) -> LabelledBatch:
    """Of three images: two labelled in part, and one in which everything is ignored."""
    rng = np.random.default_rng(5)
    images = torch.from_numpy(rng.integers(0, 256, (3, 3, 64, 64), dtype=np.uint8))
    labels = torch.full((3, 64, 64), 255, dtype=torch.uint8)
    labels[0, :32], labels[0, 40:50, 10:30] = 0, 2
    labels[1, 20:, :48] = 3
    extent = torch.tensor([[64, 64], [64, 48], [48, 64]])
    index = list(numbers)
    return LabelledBatch(
        [f"i{n}" for n in index],
        torch.tensor(index, dtype=torch.int64),
        images[index],
        labels[index],
        extent[index].reshape(-1, 2),
        [],
        [],
    )


def test_the_loss_is_the_cross_entropy_of_the_labelled_pixels(network):
    batch = batch_of(0)
    loss, counts = stage_of(network).forward(batch, 0)
    with torch.no_grad():
        logits = network(network.normalisation.apply(batch.images_B3HW, batch.extent_B2))
        logits = torch.nn.functional.interpolate(logits, size=(64, 64), mode="bilinear")
    log_p = logits.double().log_softmax(1)[0]
    picked = [-log_p[0, :32].flatten(), -log_p[2, 40:50, 10:30].flatten()]
    assert loss.item() == pytest.approx(torch.cat(picked).mean().item(), rel=1e-5)
    assert counts == [32 * 64 + 200, 64 * 64, 0]
    balanced, _ = stage_of(network, loss="balanced").forward(batch, 0)
    expected = (picked[0].mean() + picked[1].mean()) / 2
    assert balanced.item() == pytest.approx(expected.item(), rel=1e-5)


def test_an_image_without_labels_adds_nothing_but_its_count(network):
    stage = stage_of(network)
    with_it, counts = stage.forward(batch_of(0, 1, 2), 0)
    without, _ = stage.forward(batch_of(0, 1), 0)
    assert with_it.item() == pytest.approx(without.item(), rel=1e-5)
    assert counts[2] == 1
    assert counts[1] == 64 * 64 + 2 * 64 * 48
    network.zero_grad()
    alone, counts = stage.forward(batch_of(2), 0)
    assert (alone.item(), counts[2]) == (0, 1)
    alone.backward()
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    assert gradients
    assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients)


def test_several_input_scales_are_all_trained():
    network = build(multi_scale_inputs=[0.5, 1.0])
    stage, batch = stage_of(network), batch_of(0)
    loss, _ = stage.forward(batch, 0)
    fused, whole, half = network(network.normalisation.apply(batch.images_B3HW, batch.extent_B2))
    assert fused.shape == whole.shape != half.shape
    network.scales = ()
    single, _ = stage.forward(batch, 0)
    assert loss.item() > 2 * single.item()


def test_a_single_image_for_a_decoder_that_normalises_one_cell():
    """As those of DeepLabV3+ and PSPNet do; PyTorch refuses it a single image in training."""
    network = build()
    network.head = torch.nn.Sequential(
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.BatchNorm2d(network.trunk.channels),
        torch.nn.Conv2d(network.trunk.channels, 4, 1),
    )
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        network.train()(torch.zeros(1, 3, 64, 64))
    loss, counts = stage_of(network).forward(batch_of(0), 0)
    # Of two equal values, batch norm leaves 0: what remains is the last layer's bias.
    log_p = network.head[2].bias.detach().double().log_softmax(0)
    expected = -(32 * 64 * log_p[0] + 200 * log_p[2]) / (32 * 64 + 200)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert counts == [32 * 64 + 200, 64 * 64, 0]


@pytest.mark.parametrize("scales", [[], [0.5, 1.0]])
def test_an_empty_rank_reaches_every_parameter(scales):
    network = build(multi_scale_inputs=scales, batch_norm="train")
    before = {k: v.clone() for k, v in network.state_dict().items()}
    loss, counts = stage_of(network).forward(batch_of(), 0)
    assert loss.item() == 0
    assert counts == [0, 0, 0]
    loss.backward()
    assert not [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert network.training
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_a_rank_without_images_joins_synchronised_batch_norm_with_none():
    """Such layers wait for all ranks, in training mode: the rank comes with an empty batch."""
    network = build(batch_norm="train")
    seen = []
    network.register_forward_pre_hook(lambda m, a: seen.append((m.training, len(a[0]))))
    loss = stage_of(network, World(0, 2, 0, torch.device("cpu")), "sync").empty_forward()
    loss.backward()
    assert seen == [(True, 0)]
    assert loss.item() == 0
    assert not [n for n, p in network.named_parameters() if p.requires_grad and p.grad is None]


def test_wrong_labels_stop_whatever_the_policy(network):
    stage, batch = stage_of(network), batch_of(0)
    assert stage.check(batch) is None
    stage.config.data.on_bad_image = "skip"
    batch.bad = ["a.jpg cannot be read"]
    assert stage.check(batch) is None
    batch.wrong = ["the label image b.png is of another size"]
    assert stage.check(batch) == batch.wrong[0]
    batch.wrong, stage.config.data.on_bad_image = [], "stop"
    assert stage.check(batch).startswith("a.jpg cannot be read; set data.on_bad_image to skip")


def test_figures_of_an_epoch(network):
    totals = {"images": 4, "loss": 6.0, "labelled": 30.0, "pixels": 120.0, "blank": 1.0}
    figures = stage_of(network).end_epoch(Position(totals=totals, skipped=["bad.jpg is damaged"]))
    assert figures == {
        "train/epoch_loss": 1.5,
        "train/labelled_pixels": 0.25,
        "train/blank_crops": 1.0,
        "train/true_masks": 0.25,
        "train/skipped_images": 1.0,
        "seen": 1.0,
    }


class Meeting:
    """Ranks as threads, which add up arrays."""

    def __init__(self, size: int) -> None:
        self.parts, self.barrier = [None] * size, threading.Barrier(size, timeout=20)

    def sum(self, rank: int, values: np.ndarray) -> np.ndarray:
        self.parts[rank] = values
        self.barrier.wait()
        total = np.sum(self.parts, axis=0)
        self.barrier.wait()
        return total


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_share_the_statistics_of_unsynchronised_batch_norm(size):
    meeting = Meeting(size)
    given = [torch.randn(50, generator=torch.Generator().manual_seed(r)) for r in range(size)]
    expected = torch.stack(given).double().mean(dim=0).float()
    tensors = [[value.clone()[:20], value.clone()[20:]] for value in given]

    def take_part(rank: int, times: int) -> None:
        world = SimpleNamespace(size=size, sum=lambda values: meeting.sum(rank, values))
        for _ in range(times):
            share_statistics(tensors[rank], world)

    def run(times: int) -> list[torch.Tensor]:
        threads = [threading.Thread(target=take_part, args=(r, times)) for r in range(size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [torch.cat(parts) for parts in tensors]

    once = run(1)
    assert all(torch.equal(value, once[0]) for value in once)
    torch.testing.assert_close(once[0], expected, rtol=1e-6, atol=0)
    again = run(3)
    assert all(torch.equal(value, once[0]) for value in again), "once more must change nothing"


def test_which_statistics_belong_to_a_rank():
    trained, frozen = build(batch_norm="train"), build()
    layers = [m for m in trained.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert len(own_statistics(trained)) == 2 * len(layers) > 0
    assert own_statistics(frozen) == []
    assert own_statistics(build(batch_norm="sync").train()) == []


def test_what_several_processes_cannot_do():
    two = World(0, 2, 0, torch.device("cpu"))
    check_world(SegmentConfig(segment=SegmentLossConfig(shards=2)), two)
    with pytest.raises(UserError, match=r"2 processes were started, but segment\.shards is 1"):
        check_world(SegmentConfig(segment=SegmentLossConfig(shards=1)), two)
    sync = SegmentConfig(network=SegmentationConfig(batch_norm="sync"))
    check_world(sync, WORLD)
    with pytest.raises(UserError, match=r"network\.batch_norm is sync, which needs GPUs"):
        check_world(sync, two)
    sync.optim.accumulate = 2
    with pytest.raises(UserError, match=r"is sync and optim\.accumulate 2, expected 1"):
        check_world(sync, World(0, 2, 0, torch.device("cuda", 0)))
