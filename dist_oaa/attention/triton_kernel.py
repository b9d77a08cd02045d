"""The update of a batch as one Triton kernel: a program for each pair, no second pass, no atomics.

Every float operation stands in the order of reference.py, divisions are correctly rounded and
nothing is contracted to fused multiply-adds, so that maps are bit-equal to it. docs/kernel.md
tells what the kernel moves and why its blocks have their sizes.
Legend: SIZE map cells along a side; PITCH the cells of a map, padded; q a cell of the map in
raster order, (u, v) its centre in the whole image, (x, y) its place in the input. Strides are
named after tensor and axis: cam_h leads from one row of a feature map to the next.
"""

import contextlib
import functools

import torch
import triton
import triton.language as tl

from dist_oaa.attention.bank import ALIGNMENT, MapBank, full_scale
from dist_oaa.attention.batch import Observation, Outcome, Rules
from dist_oaa.attention.gates import GATE_NUMBERS, logit
from dist_oaa.attention.triton_sampling import (
    as_float32,
    centres,
    find_peak,
    quantise,
    reaches_beyond,
    reciprocal,
    sample,
    scale_factor,
)

CAM_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# Four warps a pair: sixteen cells a thread at the default map size, a 128-bit word of uint8.
OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}
FEATURE_BLOCK, MOST_CELLS, MOST_CLASSES = 1024, 2048, 1024

STRICT = tl.constexpr(GATE_NUMBERS["strict"])
PROB = tl.constexpr(GATE_NUMBERS["prob"])
NONE = tl.constexpr(GATE_NUMBERS["none"])


@triton.jit
def _passes(
    logits_ptr, labels_ptr, logits_c, labels_c, class_, classes, gate, threshold,
    CLASS_BLOCK: tl.constexpr,
):  # fmt: skip
    """gates.py for one class of one image, in counts: NaN is not greater and nothing beats it."""
    score = as_float32(tl.load(logits_ptr + class_ * logits_c))
    excess = tl.zeros([CLASS_BLOCK], tl.int32)
    for start in range(0, classes, CLASS_BLOCK):
        c = start + tl.arange(0, CLASS_BLOCK)
        known = c < classes
        other = as_float32(tl.load(logits_ptr + c * logits_c, mask=known, other=0))
        target = tl.load(labels_ptr + c * labels_c, mask=known, other=0) != 0
        unbeaten = known & ~target & ~(score > other)
        # Rank below the number of targets = fewer higher scores than targets.
        higher = (known & (other > score)).to(tl.int32) - target.to(tl.int32)
        excess += tl.where(gate == STRICT, unbeaten.to(tl.int32), higher)
    total = tl.sum(excess, axis=0)
    passes = (score == score) & tl.where(gate == STRICT, total == 0, total < 0)
    return tl.where(gate == PROB, score >= threshold, passes) | (gate == NONE)


@triton.jit
def _write(
    map_ptr, feature_ptr, geometry, height, width, cam_h, cam_w, factor, count, accept,
    SIZE: tl.constexpr, PITCH: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr,
    FULL: tl.constexpr, AVERAGE: tl.constexpr, CELL_BLOCK: tl.constexpr,
):  # fmt: skip
    """Fuses the attention of an accepted or borrowed pair into its row of the bank."""
    STORED: tl.constexpr = map_ptr.dtype.element_ty
    last_ptr = map_ptr + PITCH
    g00, g01, g02, g10, g11, g12 = geometry
    # Bounds instead of conditions: what is not needed is not moved. The map of a pair that was
    # never accepted counts as zero: a fallback left it behind.
    map_end = tl.where(count > 0, PITCH, 0)
    last_end = tl.where(accept, PITCH, 0)
    beyond = reaches_beyond(g00, g01, g02, SIZE) | reaches_beyond(g10, g11, g12, SIZE)
    last_read_end = tl.where(beyond, last_end, 0)
    for start in range(0, PITCH, CELL_BLOCK):
        # Sampling runs over another shape than storing: Triton chooses one layout for each shape.
        # Here neighbouring lanes hold neighbouring cells, so that gathers share cache lines;
        # there a thread holds neighbouring cells, so that maps move in whole words.
        q = start + tl.reshape(tl.arange(0, CELL_BLOCK), [1, CELL_BLOCK])
        u, v = centres(q, SIZE, HIGH, LOW)
        x = g00 * u + g01 * v + g02
        y = g10 * u + g11 * v + g12
        inside = (x >= 0) & (x <= 1) & (y >= 0) & (y <= 1) & (q < SIZE * SIZE)
        value = sample(feature_ptr, x, y, height, width, cam_h, cam_w, factor, FULL)
        attention = tl.reshape(quantise(value, inside, STORED), [CELL_BLOCK])

        q = start + tl.arange(0, CELL_BLOCK)
        old = tl.load(map_ptr + q, mask=q < map_end, other=0)
        last = tl.load(last_ptr + q, mask=q < last_read_end, other=0)
        if AVERAGE:
            t = count.to(tl.float32) + 1
            total = (t - 1) * old.to(tl.float32) + attention.to(tl.float32)
            fused = tl.where(attention >= 0, tl.math.div_rn(total, t).to(STORED), old)
        else:  # the greater one of what was there and -1 is what was there
            fused = tl.maximum(old.to(attention.dtype), attention).to(STORED)
        latest = tl.where(attention >= 0, attention.to(STORED), last)
        tl.store(map_ptr + q, fused, mask=q < PITCH)
        tl.store(last_ptr + q, latest, mask=q < last_end)


# Sizes, strides and addresses of the input change from batch to batch: one binary serves them all.
@triton.jit(
    do_not_specialize=[
        "cam_b", "cam_c", "cam_h", "cam_w", "logits_b", "logits_c", "labels_b", "labels_c",
        "pairs", "classes", "gate", "threshold", "fallback",
    ],
    do_not_specialize_on_alignment=[
        "accepted_ptr", "fallen_ptr", "dirty_ptr", "flags_ptr", "cam_ptr", "logits_ptr",
        "labels_ptr", "geometry_ptr", "cells_ptr", "image_ptr", "class_ptr", "row_ptr",
    ],
)  # fmt: skip
def accumulate(
    grid_ptr, accepted_ptr, fallen_ptr, dirty_ptr, flags_ptr, cam_ptr, logits_ptr, labels_ptr,
    geometry_ptr, cells_ptr, image_ptr, class_ptr, row_ptr,
    cam_b: tl.int64, cam_c: tl.int64, cam_h: tl.int64, cam_w: tl.int64,
    logits_b: tl.int64, logits_c: tl.int64, labels_b: tl.int64, labels_c: tl.int64,
    pairs, classes, gate, threshold, fallback,
    SIZE: tl.constexpr, PITCH: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr,
    FULL: tl.constexpr, AVERAGE: tl.constexpr, WIDE: tl.constexpr, CLASS_BLOCK: tl.constexpr,
    FEATURE_BLOCK: tl.constexpr, CELL_BLOCK: tl.constexpr,
):  # fmt: skip
    """One pair; arguments as in batch.py, `fallen_ptr` is the bank's fallback flags."""
    pair = tl.program_id(0)
    image = tl.load(image_ptr + pair).to(tl.int64)
    class_ = tl.load(class_ptr + pair).to(tl.int64)
    row = tl.load(row_ptr + pair).to(tl.int64)  # a large bank has more than 2^31 cells
    height = tl.load(cells_ptr + image * 2).to(tl.int32)
    width = tl.load(cells_ptr + image * 2 + 1).to(tl.int32)
    count = tl.load(accepted_ptr + row)
    g_ptr = geometry_ptr + image * 6
    upper = (tl.load(g_ptr), tl.load(g_ptr + 1), tl.load(g_ptr + 2))
    lower = (tl.load(g_ptr + 3), tl.load(g_ptr + 4), tl.load(g_ptr + 5))
    feature_ptr = cam_ptr + image * cam_b + class_ * cam_c
    if not WIDE:  # offsets within one map fit
        cam_h = cam_h.to(tl.int32)
        cam_w = cam_w.to(tl.int32)

    passes = _passes(
        logits_ptr + image * logits_b, labels_ptr + image * labels_b, logits_c, labels_c,
        class_, classes, gate, threshold, CLASS_BLOCK,
    )  # fmt: skip
    peak = find_peak(feature_ptr, height, width, cam_h, cam_w, FEATURE_BLOCK)
    finite = peak < float("inf")
    accept = passes & finite
    lends = finite & ~passes & (count == 0) & (fallback != 0)
    tl.store(flags_ptr + pair, accept)
    tl.store(flags_ptr + pairs + pair, lends)
    tl.store(flags_ptr + 2 * pairs + pair, ~finite)

    if accept | lends:
        _write(
            grid_ptr + row * (2 * PITCH), feature_ptr, upper + lower, height, width,
            cam_h, cam_w, scale_factor(peak, FULL), count, accept,
            SIZE, PITCH, HIGH, LOW, FULL, AVERAGE, CELL_BLOCK,
        )  # fmt: skip
        tl.store(accepted_ptr + row, count + accept.to(tl.int32))
        tl.store(fallen_ptr + row, ~accept)
        tl.store(dirty_ptr + row, True)


@functools.cache
def constants(map_size: int, dtype: torch.dtype, fusion: str, classes: int, wide: bool) -> dict:
    """What a binary is specialised on; tools/kernel_resources.py compiles the same ones.

    Args:
        wide: offsets within one feature map need 64 bits.
    """
    pitch = -(-map_size * map_size // ALIGNMENT) * ALIGNMENT
    high, low = reciprocal(map_size)
    return {
        "SIZE": map_size,
        "PITCH": pitch,
        "HIGH": high,
        "LOW": low,
        "FULL": full_scale(dtype),
        "AVERAGE": {"max": False, "average": True}[fusion],
        "WIDE": wide,
        "CLASS_BLOCK": min(triton.next_power_of_2(classes), MOST_CLASSES),
        "FEATURE_BLOCK": FEATURE_BLOCK,
        "CELL_BLOCK": min(triton.next_power_of_2(pitch), MOST_CELLS),
    }


def update(bank: MapBank, seen: Observation, rules: Rules) -> Outcome:
    """Applies one batch to the bank, in place: one launch, and nothing waits for the device.

    Needs tensors on one GPU, or Triton's interpreter (TRITON_INTERPRET=1 before Triton is
    imported). The gate must be in GATE_NUMBERS, the fusion max or average.
    """
    cam_BCHW, logits_BC, labels_BC = seen.cam_BCHW, seen.logits_BC, seen.labels_BC
    if cam_BCHW.dtype not in CAM_DTYPES:
        cam_BCHW = cam_BCHW.float()
    pairs, device = len(seen.pairs), cam_BCHW.device
    flags_3P = torch.empty(3, pairs, dtype=torch.bool, device=device)
    if pairs == 0:
        return Outcome(flags_3P)
    assert bank.grid_R2Q.is_contiguous(), "rows of the bank must follow each other"
    classes, height, width = cam_BCHW.shape[1:]
    cam_strides = cam_BCHW.stride()
    reach = (height - 1) * cam_strides[2] + (width - 1) * cam_strides[3]
    # A kernel is launched on the current device, which need not be that of the tensors.
    right_device = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with right_device:
        accumulate[(pairs,)](
            bank.grid_R2Q, bank.accepted_R, bank.fallback_R, bank.dirty_R, flags_3P,
            cam_BCHW, logits_BC, labels_BC,
            seen.geometry_B23.float().contiguous(), seen.cells_B2.contiguous(),
            seen.pairs.image_P.contiguous(), seen.pairs.class_P.contiguous(),
            seen.pairs.row_P.contiguous(),
            *cam_strides, *logits_BC.stride(), *labels_BC.stride(),
            pairs, classes, GATE_NUMBERS[rules.gate], logit(rules.tau), int(rules.fallback),
            **constants(bank.map_size, bank.dtype, rules.fusion, classes, reach >= 2**31),
            **OPTIONS,
        )  # fmt: skip
    return Outcome(flags_3P)
