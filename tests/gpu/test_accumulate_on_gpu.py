"""The compiled kernel on a CUDA device against the readable update on the CPU."""

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "attention"))  # the batches

from cases import GEOMETRIES, copy_bank, single
from dist_oaa.attention import reference
from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.gates import GATES
from dist_oaa.attention.update import update
from kernel_steps import cast, random_steps

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="TRITON_INTERPRET=1: nothing is compiled"
    ),
]
DEVICE = "cuda"
LAST_EPOCH = Rules("none", fallback=True)


def moved(seen: Observation) -> Observation:
    """The same batch on the GPU, its strides kept."""
    tensors = {
        name: value.to(DEVICE) for name, value in vars(seen).items() if torch.is_tensor(value)
    }
    return dataclasses.replace(seen, **tensors, pairs=seen.pairs.to(torch.device(DEVICE)))


def assert_same(bank: MapBank, expected: MapBank) -> None:
    """Equal values everywhere; tells how many cells differ, and by how much."""
    for name, wanted in expected.tensors().items():
        found = getattr(bank, name).cpu()
        difference = (found.double() - wanted.double()).abs()
        share = (difference > 0).double().mean().item()
        assert torch.equal(found, wanted), f"{name}: {share:.2e} differ, by {difference.max()}"


def assert_like_reference(
    bank: MapBank, steps: list[Observation], rule: Rules, path: str = "triton"
) -> MapBank:
    """Both over all steps, one on each device; returns the bank of the GPU."""
    plain, fast = copy_bank(bank), bank.to(DEVICE)
    for seen in steps:
        expected = update(plain, seen, rule, "reference")
        outcome = update(fast, moved(seen), rule, path)
        assert outcome.flags_3P.cpu().tolist() == expected.flags_3P.tolist()
        assert_same(fast, plain)
    return fast


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_every_type_and_order_agrees(kind, channels_last, dtype):
    steps = [cast(s, kind, channels_last) for s in random_steps((28, 37), sorted(GEOMETRIES))]
    bank = assert_like_reference(MapBank.empty(4, 41, DTYPES[dtype]), steps, Rules("none"))
    assert bank.maps_RSS[:3].any(dim=2).any(dim=1).all()


@pytest.mark.parametrize("size", [1, 2, 7, 16, 41, 64, 65, 200])
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (41, 41), (40, 60), (3, 1500)])
def test_every_size_agrees(shape, size):
    steps = random_steps(shape, ["identity", "rotation", "crop"])
    assert_like_reference(MapBank.empty(4, size, torch.uint8), steps, Rules("none"))


@pytest.mark.parametrize("gate", sorted(GATES))
@pytest.mark.parametrize("fusion", ["max", "average"])
@pytest.mark.parametrize("classes", [1, 20, 1000, 1030])
def test_every_rule_agrees(classes, fusion, gate):
    steps = [
        step
        for seed in range(4)
        for step in random_steps((9, 13), ["identity", "crop"], classes, seed)
    ]
    for number, step in enumerate(steps):  # winners, ties and NaN among the targets
        step.logits_BC[0, 0] = step.logits_BC[0].max() + number % 3
        step.logits_BC[1, -1] = torch.nan if number % 4 == 3 else step.logits_BC[1].max()
        if number == 5:
            step.cam_BCHW[0, 0, 1, 1] = torch.inf
    rule = Rules(gate, 0.6, fusion, fallback=True)
    for path in ("triton", "fused"):
        assert_like_reference(MapBank.empty(4, 41, torch.float32), steps, rule, path)


@pytest.mark.parametrize("scale", [1e-45, 1e-41, 3e-39, 1e-37, 1e-30, 1e38])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_tiny_and_huge_features_agree(dtype, scale):
    """Denormals are kept: 1 / 3e-39 is finite, 255 / 3e-39 is not."""
    feature = torch.randn(9, 13, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) * scale
    assert_like_reference(MapBank.empty(1, 41, DTYPES[dtype]), [single(feature)], Rules("none"))


@pytest.fixture
def warm() -> Iterator[tuple[MapBank, list[Observation], Rules]]:
    """A bank and batches on the GPU for which the kernel is compiled and loaded."""
    bank = MapBank.empty(4, 41, torch.uint8, DEVICE)
    steps = [moved(seen) for seen in random_steps((28, 37), ["crop", "identity", "rotation"])]
    rule = Rules("topk", fallback=True)
    update(bank, steps[0], rule)
    torch.cuda.synchronize()
    return MapBank.empty(4, 41, torch.uint8, DEVICE), steps, rule


def like_reference(steps: list[Observation], rule: Rules) -> tuple[MapBank, list[Outcome]]:
    plain = MapBank.empty(4, 41, torch.uint8)
    back = [
        dataclasses.replace(
            seen,
            **{k: v.cpu() for k, v in vars(seen).items() if torch.is_tensor(v)},
            pairs=seen.pairs.to(torch.device("cpu")),
        )
        for seen in steps
    ]
    return plain, [reference.update(plain, seen, rule) for seen in back]


def test_nothing_waits_for_the_device(warm):
    bank, steps, rule = warm
    torch.cuda.set_sync_debug_mode("error")
    try:
        for seen in steps:
            update(bank, seen, rule)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_same(bank, like_reference(steps, rule)[0])


def test_a_stream_of_ones_own(warm):
    bank, steps, rule = warm
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for seen in steps:
            update(bank, seen, rule)
    stream.synchronize()
    assert_same(bank, like_reference(steps, rule)[0])


def test_a_captured_update_replays_on_new_features(warm):
    bank, steps, rule = warm
    static = moved(steps[0])
    static.cam_BCHW = static.cam_BCHW.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outcome = update(bank, static, rule)
    assert not bank.accepted_R.any()  # capturing runs nothing
    shown = []
    for factor in (1.0, -1.0, 2.5):
        static.cam_BCHW.copy_(steps[0].cam_BCHW * factor)
        shown.append(dataclasses.replace(static, cam_BCHW=static.cam_BCHW.clone()))
        graph.replay()
    expected, outcomes = like_reference(shown, rule)
    assert_same(bank, expected)
    assert outcome.flags_3P.cpu().tolist() == outcomes[-1].flags_3P.tolist()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_code_gives_the_same_bits(warm, backend):
    bank, steps, rule = warm
    torch.compiler.reset()

    def step(bank: MapBank, seen: Observation, rule: Rules) -> torch.Tensor:
        doubled = dataclasses.replace(seen, cam_BCHW=seen.cam_BCHW * 2)
        return update(bank, doubled, rule).flags_3P

    compiled = torch.compile(step, fullgraph=True, backend=backend)
    for seen in steps:
        compiled(bank, seen, rule)
    assert_same(bank, like_reference(steps, rule)[0])  # twice the features, the same attention
    torch.compiler.reset()


def test_the_operator_passes_pytorchs_checks(warm):
    bank, (seen, *_), rule = warm
    pairs = seen.pairs
    operands = (
        bank.grid_R2Q, bank.accepted_R, bank.fallback_R, bank.dirty_R,
        seen.cam_BCHW, seen.logits_BC, seen.labels_BC, seen.geometry_B23, seen.cells_B2,
        pairs.image_P, pairs.class_P, pairs.row_P,
        bank.map_size, rule.gate, rule.tau, rule.fusion, rule.fallback,
    )  # fmt: skip
    torch.library.opcheck(torch.ops.oaa.accumulate, operands)


def test_rows_beyond_two_to_the_31_cells():
    """The last row of a bank of 2.2 GB; a 32-bit index would wrap to another row, or to none."""
    rows = 2**31 // (2 * 1696) + 1000
    if torch.cuda.mem_get_info()[0] < 4 * 2**30:
        pytest.skip("less than 4 GB of GPU memory are free")
    bank = MapBank.empty(rows, 41, torch.uint8, DEVICE)
    seen = single(torch.randn(9, 13, generator=torch.Generator().manual_seed(0)), row=rows - 1)
    update(bank, moved(seen), LAST_EPOCH, "triton")
    alone = MapBank.empty(1, 41, torch.uint8)
    seen.pairs.row_P[0] = 0
    reference.update(alone, seen, LAST_EPOCH)
    assert torch.equal(bank.maps_RSS[-1].cpu(), alone.maps_RSS[0])
    assert torch.equal(bank.last_RSS[-1].cpu(), alone.last_RSS[0])
    assert not bank.grid_R2Q[:-1].any()
    assert bank.dirty_R.nonzero().tolist() == [[rows - 1]]


def test_a_gate_of_ones_own_runs_on_the_gpu(monkeypatch):
    monkeypatch.setitem(GATES, "odd", lambda logits_BC, labels_BC, tau: logits_BC > 0)
    steps = random_steps((9, 13), classes=5)
    assert_like_reference(MapBank.empty(4, 41, torch.uint8), steps, Rules("odd"), "fused")


def test_tensors_of_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device only")
    bank = MapBank.empty(4, 41, torch.uint8).to("cuda:1")
    plain = MapBank.empty(4, 41, torch.uint8)
    for seen in random_steps((28, 37)):
        reference.update(plain, seen, LAST_EPOCH)
        tensors = {k: v.to("cuda:1") for k, v in vars(seen).items() if torch.is_tensor(v)}
        there = dataclasses.replace(seen, **tensors, pairs=seen.pairs.to(torch.device("cuda:1")))
        update(bank, there, LAST_EPOCH)
    assert_same(bank, plain)
