"""The Triton kernel, in Triton's interpreter, against the readable update, to the last bit.

The interpreter runs the kernel's own source, one program after another, in numpy. What only the
compiled kernel can get wrong is looked for in test_triton_compiled.py and in tests/gpu.
"""

import functools
import itertools
import math
import os

import numpy as np
import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from cases import RULES, assert_like_reference, assert_same_bits, cases, single
from dist_oaa.attention import reference, triton_kernel
from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Pairs, Rules
from dist_oaa.attention.gates import GATE_NUMBERS, GATES, logit
from kernel_steps import cast, random_steps

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1",
    reason="not in Triton's interpreter: tests/gpu holds the compiled kernel",
)
dtypes = st.sampled_from(sorted(DTYPES))


assert_agrees = functools.partial(assert_like_reference, triton_kernel.update)


@settings(max_examples=40, deadline=None)
@given(case=cases(most_steps=3), rule=RULES, dtype=dtypes)
def test_every_case_agrees(case, rule, dtype):
    assert_agrees(case.bank(dtype), case.steps, rule)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(case=cases(map_sizes=(1, 2, 5, 9, 16, 41, 64)), rule=RULES, dtype=dtypes)
def test_many_more_cases_agree(case, rule, dtype):
    assert_agrees(case.bank(dtype), case.steps, rule)


kinds = st.sampled_from([torch.float16, torch.bfloat16, torch.float64])


@settings(max_examples=20, deadline=None)
@given(case=cases(most_steps=2), kind=kinds, channels_last=st.booleans(), rule=RULES, dtype=dtypes)
def test_any_float_type_and_order_agrees(case, kind, channels_last, rule, dtype):
    steps = [cast(step, kind, channels_last) for step in case.steps]
    assert_agrees(case.bank(dtype), steps, rule)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("shape", [(41, 41), (28, 37)])
def test_the_default_size_agrees(shape, dtype):
    bank = assert_agrees(
        MapBank.empty(4, 41, DTYPES[dtype]), random_steps(shape), Rules(gate="none")
    )
    assert bank.maps_RSS[:3].any(dim=(1, 2)).all()


@pytest.mark.parametrize("fusion", ["max", "average"])
def test_large_maps_take_several_turns(fusion):
    steps = random_steps((7, 50), ["identity", "rotation and zoom", "crop"])
    for size in (64, 65):
        bank = MapBank.empty(4, size, torch.float32)
        assert_agrees(bank, steps, Rules(gate="none", fusion=fusion))


@pytest.mark.parametrize("gate", ["strict", "topk", "prob", "none"])
@pytest.mark.parametrize("classes", [1, 1000, 1030])
def test_any_number_of_classes_agrees(classes, gate):
    steps = random_steps((3, 4), ["identity"] * 2, classes)
    for step in steps:  # the target wins by little, ties with the last class, or loses to it
        step.logits_BC[0, 0] = step.logits_BC.max() + 1
        step.logits_BC[1, -1] = step.logits_BC[1].max()
    steps[1].logits_BC[0, -1] = steps[1].logits_BC[0, 0]
    assert_agrees(MapBank.empty(4, 5, torch.uint8), steps, Rules(gate=gate, fallback=True))


@triton.jit
def _store_passes(out_ptr, logits_ptr, labels_ptr, classes, gate, threshold, BLOCK: tl.constexpr):
    image = tl.program_id(0)
    row = image * classes
    passes = triton_kernel._passes(
        logits_ptr + row, labels_ptr + row, 1, 1, 0, classes, gate, threshold, BLOCK
    )
    tl.store(out_ptr + image, passes)


@pytest.mark.parametrize("gate", sorted(GATES))
def test_gates_agree_on_every_order_of_three_scores(gate):
    """Ties, NaN and infinity, for class 0 beside every choice of other targets, in two turns."""
    scores = (math.nan, 0.0, 1.0, math.inf)
    rows = list(itertools.product(itertools.product(scores, repeat=3), [0, 1], [0, 1]))
    logits_BC = torch.tensor([row for row, _, _ in rows])
    labels_BC = torch.tensor([[1, second, third] for _, second, third in rows], dtype=torch.uint8)
    expected_B = GATES[gate](logits_BC, labels_BC, 0.7)[:, 0]
    passes_B = torch.zeros(len(rows), dtype=torch.bool)
    _store_passes[(len(rows),)](
        passes_B, logits_BC, labels_BC, 3, GATE_NUMBERS[gate], logit(0.7), 2
    )
    assert passes_B.tolist() == expected_B.tolist()
    assert gate == "none" or 0 < passes_B.sum() < len(rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_padding_is_never_read(value):
    feature = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    padded = torch.full((9, 8), value)
    padded[:6, :5] = feature
    seen = single(padded)
    seen.cells_B2[0] = torch.tensor([6, 5])
    alone, inside = (MapBank.empty(1, 7, torch.uint8) for _ in range(2))
    reference.update(alone, single(feature), Rules())
    assert triton_kernel.update(inside, seen, Rules()).flags_3P.tolist() == [
        [True],
        [False],
        [False],
    ]
    assert_same_bits(inside, alone)


@pytest.mark.parametrize("scale", [1e-41, 3e-39, 1e-37, 1e38])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_tiny_and_huge_features_agree(kind, scale):
    """Denormals are kept: 1 / 3e-39 is finite, 255 / 3e-39 is not."""
    feature = torch.randn(9, 13, generator=torch.Generator().manual_seed(0)).clamp(-3, 3) * scale
    seen = cast(single(feature), kind)
    for dtype in DTYPES.values():
        assert_agrees(MapBank.empty(1, 9, dtype), [seen], Rules("none"))


def test_views_agree():
    """Slices of every tensor of a batch: no stride is what it is in a fresh tensor."""
    seen = random_steps((5, 6), ["crop"], classes=3)[0]
    around_BCHW = torch.full((4, 6, 11, 13), torch.nan)
    around_BCHW[::2, ::2, 1::2, 1::2] = seen.cam_BCHW
    views = Observation(
        cam_BCHW=around_BCHW[::2, ::2, 1::2, 1::2],
        logits_BC=seen.logits_BC.T.contiguous().T,
        labels_BC=seen.labels_BC.repeat_interleave(2, dim=1)[:, ::2],
        geometry_B23=seen.geometry_B23.transpose(1, 2).contiguous().transpose(1, 2),
        cells_B2=seen.cells_B2.int().T.contiguous().T,
        pairs=Pairs(*(t.repeat_interleave(2)[::2] for t in vars(seen.pairs).values())),
    )
    tensors = [*vars(views).values(), *vars(views.pairs).values()]
    assert not any(t.is_contiguous() for t in tensors if isinstance(t, torch.Tensor))
    assert_agrees(MapBank.empty(4, 9, torch.uint8), [views], Rules(gate="topk"))


@pytest.mark.parametrize("kind", [torch.bool, torch.int64, torch.float32])
def test_labels_of_any_type_agree(kind):
    seen = random_steps((4, 4), ["identity"], classes=5)[0]
    seen.labels_BC = seen.labels_BC.to(kind)
    for gate in ("strict", "topk"):
        assert_agrees(MapBank.empty(4, 6, torch.uint8), [seen], Rules(gate=gate))


def test_offsets_of_64_bits_give_the_same_maps(monkeypatch):
    """As for a feature map that spans 2^31 elements; here the map is small, the arithmetic not."""
    narrow = triton_kernel.constants
    monkeypatch.setattr(triton_kernel, "constants", lambda *a: narrow(*a) | {"WIDE": True})
    assert_agrees(MapBank.empty(4, 9, torch.uint8), random_steps((8, 9)), Rules(gate="none"))


def test_feature_maps_that_span_more_than_31_bits_are_recognised(monkeypatch):
    asked = []
    launch = {(1,): lambda *arguments, **constants: asked.append(constants["WIDE"])}
    monkeypatch.setattr(triton_kernel, "accumulate", launch)
    seen = single(torch.zeros(2, 1))
    for stride in (1, 2**30, 2**31 - 1, 2**31):
        shape, strides = (1, 2, 2, 1), (0, 0, stride, 0)
        seen.cam_BCHW = torch.empty_strided(shape, strides, device="meta")  # without its memory
        triton_kernel.update(MapBank.empty(1, 3, torch.uint8), seen, Rules())
    assert asked == [False, False, False, True]


def test_rules_of_ones_own_are_refused():
    """fused.py computes them in plain PyTorch; here they must not pass for another rule."""
    for rule in (Rules(gate="odd"), Rules(fusion="odd")):
        with pytest.raises(KeyError, match="odd"):
            triton_kernel.update(MapBank.empty(1, 3, torch.uint8), single(torch.ones(2, 2)), rule)


def test_without_pairs_nothing_is_launched(monkeypatch):
    monkeypatch.setattr(triton_kernel, "accumulate", None)
    seen = single(torch.ones(3, 3))
    seen.pairs = Pairs(*(torch.zeros(0, dtype=torch.long) for _ in range(3)))
    outcome = triton_kernel.update(MapBank.empty(1, 3, torch.uint8), seen, Rules())
    assert outcome.flags_3P.shape == (3, 0)
