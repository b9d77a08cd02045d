"""Attention of one pair at the cells of its map: the device functions of triton_kernel.py.

Every float operation stands in the order of reference.py.
Legend: SIZE map cells along a side; u, v in the whole image and x, y in the input, both in [0, 1];
n a valid feature cell; cam_h, cam_w the strides of a feature map.
"""

import math

import numpy as np
import triton
import triton.language as tl

MOST_SIDE = 1024  # `reciprocal` is exact up to here
# Kernels hold their numbers as literals: Triton compares constants of a module with what it
# compiled at every launch, for a microsecond each.


def reciprocal(size: int) -> tuple[float, float]:
    """1 / size as high + low, so that k * high + k * low is k / size correctly rounded.

    For k = i + 0.5, i < size <= 1024. k has at most 11 significant bits and `high` 13, so that
    k * high is exact; what k * low and the bits beyond `low` lose is below 2^-36 of the quotient,
    and no quotient lies within 2^-35 of the middle of two float32. Three operations a cell where
    a division takes ten; the test goes through all sizes.
    """
    assert 1 <= size <= MOST_SIDE, size
    mantissa, exponent = math.frexp(1 / size)
    high = math.ldexp(math.floor(mantissa * 2**13), exponent - 13)
    return high, float(np.float32(1 / size - high))


@triton.jit
def as_float32(value):
    """Exactly."""
    # By hand for bfloat16, the upper half of a float32: Triton's interpreter mistakes denormals.
    if value.dtype == tl.bfloat16:
        bits = value.to(tl.uint16, bitcast=True).to(tl.uint32) << 16
        return bits.to(tl.float32, bitcast=True)
    else:
        return value.to(tl.float32)


@triton.jit
def find_peak(feature_ptr, height, width, cam_h, cam_w, FEATURE_BLOCK: tl.constexpr):
    """The greatest valid feature or 0 (Eq. 2 never looks below), infinity when one is broken."""
    highest = tl.zeros([FEATURE_BLOCK], tl.float32)
    for start in range(0, height * width, FEATURE_BLOCK):
        n = start + tl.arange(0, FEATURE_BLOCK)
        row = (n.to(tl.uint32) // width.to(tl.uint32)).to(tl.int32)
        offset = row * cam_h + (n - row * width) * cam_w
        value = as_float32(tl.load(feature_ptr + offset, mask=n < height * width, other=0))
        finite = tl.abs(value) < float("inf")
        highest = tl.maximum(highest, tl.where(finite, value, float("inf")))
    return tl.max(highest, axis=0)


@triton.jit
def scale_factor(peak, FULL: tl.constexpr):
    """What scales features to attention, FULL / peak; zero for a map without attention."""
    factor = tl.math.div_rn(FULL, tl.where(peak > 0, peak, 1.0))
    # A maximum so small that the quotient overflows counts as zero.
    return tl.where((peak > 0) & (factor < float("inf")), factor, 0.0)


@triton.jit
def _over_size(half, HIGH: tl.constexpr, LOW: tl.constexpr):
    return half * HIGH + half * LOW


@triton.jit
def centres(q, SIZE: tl.constexpr, HIGH: tl.constexpr, LOW: tl.constexpr):
    """Column and row centres (j + 0.5) / SIZE, (i + 0.5) / SIZE of the cells q = i * SIZE + j.

    In float32, which is exact here: (q + 0.5) / SIZE stays 0.5 / SIZE away from whole numbers,
    more than three roundings of a number below SIZE <= 1024 can move it.
    """
    half = q.to(tl.float32) + 0.5
    row = tl.floor(half * (1 / SIZE))
    return _over_size(half - row * SIZE, HIGH, LOW), _over_size(row + 0.5, HIGH, LOW)


@triton.jit
def reaches_beyond(along_u, along_v, shift, SIZE: tl.constexpr):
    """Whether along_u * u + along_v * v + shift leaves [0, 1] at any cell of the map.

    Rounding keeps order, so that the outermost cells decide, to the last bit.
    """
    FIRST: tl.constexpr = 0.5 / SIZE
    LAST: tl.constexpr = (SIZE - 0.5) / SIZE
    u0, u1 = along_u * FIRST, along_u * LAST
    v0, v1 = along_v * FIRST, along_v * LAST
    least = tl.minimum(u0, u1) + tl.minimum(v0, v1) + shift
    most = tl.maximum(u0, u1) + tl.maximum(v0, v1) + shift
    return ~((least >= 0) & (most <= 1))


@triton.jit
def between(place, cells):
    """The feature cell before a place in the input, and the weight of the cell after it.

    At the far border this is the last cell but one, with weight 1, where the reference takes the
    last cell twice: the same value, and the two cells are always one stride apart.
    """
    last = tl.maximum(cells - 1, 0).to(tl.float32)
    position = tl.minimum(tl.maximum(place * cells.to(tl.float32) - 0.5, 0.0), last)
    before = tl.minimum(tl.floor(position), tl.maximum(last - 1, 0.0))
    return before.to(tl.int32), position - before


@triton.jit
def _scaled(feature_ptr, offset, factor, FULL: tl.constexpr):
    feature = as_float32(tl.load(feature_ptr + offset))
    return tl.minimum(tl.maximum(feature, 0.0) * factor, FULL)


@triton.jit
def sample(feature_ptr, x, y, height, width, cam_h, cam_w, factor, FULL: tl.constexpr):
    """Scaled attention at places of the input, bilinear; reads valid features only.

    Places outside the input take the value of its border.
    """
    left, wx = between(x, width)
    top, wy = between(y, height)
    offset = top * cam_h + left * cam_w
    below_ptr = feature_ptr + tl.where(height > 1, cam_h, 0)
    right = tl.where(width > 1, cam_w, 0)
    upper_left = _scaled(feature_ptr, offset, factor, FULL)
    upper_right = _scaled(feature_ptr + right, offset, factor, FULL)
    lower_left = _scaled(below_ptr, offset, factor, FULL)
    lower_right = _scaled(below_ptr + right, offset, factor, FULL)
    upper = upper_left * (1 - wx) + upper_right * wx
    lower = lower_left * (1 - wx) + lower_right * wx
    return upper * (1 - wy) + lower * wy


@triton.jit
def quantise(value, inside, STORED: tl.constexpr):
    """Attention in the stored format (integers for uint8); -1 at cells outside the input.

    -1 lies below all attention, so that a maximum leaves those cells alone.
    """
    if STORED == tl.uint8:  # noqa: SIM300
        # Adding 1.5 * 2^23 leaves no bits for a fraction: the sum is rounded, ties to even.
        rounded = (value + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000
        return tl.where(inside, rounded, -1)
    else:
        return tl.where(inside, value, -1.0).to(STORED)
