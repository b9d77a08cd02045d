"""Painters of the demo scenes: textured backgrounds, and the coats that all creatures share.

Legend: H, W rows and columns of the canvas. Colours are RGB floats in [0, 1], fields are float32.
Every painter takes its random numbers from the generator that it is given and from nowhere else.
"""

import math
from collections.abc import Callable

import cv2
import numpy as np

Colour = tuple[float, float, float]


def smooth_noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Return a smooth random field (H, W) in [0, 1] whose features are about `cell` pixels wide."""
    rows, columns = (max(2, math.ceil(side / cell) + 1) for side in (height, width))
    grid = rng.random((rows, columns), dtype=np.float32)
    return cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 1)


def smoothstep(low: float, high: float, field: np.ndarray) -> np.ndarray:
    """Return a soft threshold: 0 up to `low`, 1 from `high` on, a cubic in between."""
    t = np.clip((field - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def blend(first: Colour | np.ndarray, second: Colour | np.ndarray, t_HW: np.ndarray) -> np.ndarray:
    """Return (H, W, 3) that goes from `first` where t is 0 to `second` where t is 1."""
    first, second = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return first + (second - first) * t_HW[..., None]


def tinted(rng: np.random.Generator, colour: Colour, amount: float = 0.05) -> Colour:
    """Return a colour near the given one, each channel moved by at most `amount`."""
    moved = np.clip(np.asarray(colour) + rng.uniform(-amount, amount, 3), 0, 1)
    return tuple(float(c) for c in moved)


def _ramp(height: int, width: int) -> np.ndarray:
    """Return 0 at the top row to 1 at the bottom row, (H, W)."""
    return np.repeat(np.linspace(0, 1, height, dtype=np.float32)[:, None], width, axis=1)


def _sky(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    top, bottom = tinted(rng, (0.52, 0.73, 0.88)), tinted(rng, (0.95, 0.92, 0.84))
    canvas = blend(top, bottom, _ramp(height, width) ** 0.8)
    unit = max(height, width) / 100
    cover = np.zeros((height, width), np.uint8)
    for _ in range(rng.integers(3, 6)):
        x, y = rng.uniform(0, width), rng.uniform(0, 0.9 * height)
        for _ in range(5):
            puff = (int(x + rng.normal(0, 9) * unit), int(y - abs(rng.normal(0, 2)) * unit))
            radius = rng.uniform(3, 6) * unit
            cv2.ellipse(cover, puff, (int(radius * 1.5), int(radius)), 0, 0, 360, 255, -1)
    soft = cv2.GaussianBlur(cover, (0, 0), 0.8 * unit).astype(np.float32) / 255
    return blend(canvas, (1.0, 0.99, 0.97), 0.75 * soft)


def _hills(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    ramp = _ramp(height, width)
    canvas = blend(
        tinted(rng, (0.66, 0.80, 0.88)), tinted(rng, (0.99, 0.90, 0.76)), np.minimum(1, ramp * 2)
    )
    far, near = tinted(rng, (0.67, 0.77, 0.70)), tinted(rng, (0.43, 0.60, 0.38))
    x = np.linspace(0, 1, width, dtype=np.float32)
    for layer in range(4):
        waves = sum(np.sin(x * rng.uniform(3, 9) + rng.uniform(0, 6.3)) for _ in range(2))
        crest = 0.28 + 0.19 * layer + 0.035 * waves
        colour = blend(far, near, np.full((1, 1), layer / 3, np.float32))[0, 0]
        grain = 1 + 0.08 * (smooth_noise(rng, height, width, height / 12) - 0.5)
        # Each hill fades towards its foot, so the next one stands out against mist.
        depth = np.clip(ramp - crest, 0, 0.3)
        land = (colour + 0.35 * depth[..., None]) * grain[..., None]
        canvas = blend(canvas, land, smoothstep(-0.004, 0.004, ramp - crest))
    return canvas


def _grass(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = max(height, width) / 100
    low, high = tinted(rng, (0.46, 0.63, 0.36)), tinted(rng, (0.68, 0.78, 0.47))
    canvas = blend(low, high, smooth_noise(rng, height, width, 25 * unit))
    for _ in range(420):
        x, y = rng.uniform(0, width), rng.uniform(0, 1.03 * height)
        lean, length = rng.normal(0, 1.2) * unit, rng.uniform(3, 6) * unit
        points = np.array([[x, y], [x + lean / 3, y - length / 2], [x + lean, y - length]])
        light = rng.uniform(0.82, 1.12)
        shade = (0.52 * light, 0.69 * light, 0.36 * light)
        blade = [np.round(points).astype(np.int32)]
        cv2.polylines(canvas, blade, False, shade, max(1, round(0.5 * unit)))
    petals = [(0.98, 0.95, 0.86), (0.96, 0.80, 0.50), (0.93, 0.72, 0.77)]
    for _ in range(rng.integers(6, 16)):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        cv2.circle(canvas, centre, round(0.9 * unit), petals[rng.integers(3)], -1)
        cv2.circle(canvas, centre, round(0.4 * unit), (0.85, 0.62, 0.25), -1)
    return canvas


def _sand(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = max(height, width) / 100
    warp = smooth_noise(rng, height, width, 30 * unit)
    ripple = np.sin(_ramp(height, width) * rng.uniform(45, 70) + 14 * warp)
    canvas = blend(tinted(rng, (0.89, 0.79, 0.61)), tinted(rng, (0.95, 0.88, 0.73)), warp)
    canvas += 0.025 * ripple[..., None]
    pebbles = [(0.80, 0.69, 0.53), (0.97, 0.93, 0.84), (0.73, 0.66, 0.57)]
    for _ in range(70):
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, height)))
        radius = rng.uniform(0.3, 1.0) * unit
        axes = (max(1, round(1.4 * radius)), max(1, round(radius)))
        cv2.ellipse(canvas, centre, axes, 0, 0, 360, pebbles[rng.integers(3)], -1)
    return canvas


def _water(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = max(height, width) / 100
    warp = smooth_noise(rng, height, width, 18 * unit)
    canvas = blend(
        tinted(rng, (0.68, 0.86, 0.87)), tinted(rng, (0.38, 0.64, 0.75)), _ramp(height, width)
    )
    phase = _ramp(height, width) * rng.uniform(60, 85) + 9 * warp
    gaps = smooth_noise(rng, height, width, 14 * unit)
    crest = smoothstep(0.80, 0.97, np.sin(phase)) * smoothstep(0.40, 0.60, gaps)
    return blend(canvas, (0.93, 0.98, 0.97), 0.6 * crest)


def _brick(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = max(height, width) / 100
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = tinted(rng, (0.89, 0.85, 0.79))
    base = tinted(rng, (0.80, 0.62, 0.53), 0.06)
    tall, long = rng.uniform(8, 11) * unit, rng.uniform(18, 24) * unit
    gap = 0.6 * unit
    for row in range(math.ceil(height / tall)):
        for column in range(-1, math.ceil(width / long) + 1):
            x, y = (column + 0.5 * (row % 2)) * long, row * tall
            corner = (round(x + gap), round(y + gap))
            opposite = (round(x + long - gap), round(y + tall - gap))
            cv2.rectangle(canvas, corner, opposite, tinted(rng, base, 0.035), -1)
    return canvas * (0.94 + 0.12 * smooth_noise(rng, height, width, 3 * unit)[..., None])


def _paper(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    unit = max(height, width) / 100
    tones = [(0.93, 0.86, 0.80), (0.80, 0.87, 0.86), (0.88, 0.83, 0.90), (0.93, 0.90, 0.76)]
    first, second = rng.permutation(4)[:2]
    first, second = tinted(rng, tones[first], 0.03), tinted(rng, tones[second], 0.03)
    canvas = blend(first, second, smooth_noise(rng, height, width, 45 * unit))
    step = rng.uniform(9, 13) * unit
    for row in range(math.ceil(height / step) + 1):
        for column in range(math.ceil(width / step) + 1):
            centre = (round((column + 0.5 * (row % 2)) * step), round(row * step))
            cv2.circle(canvas, centre, round(1.1 * unit), (0.98, 0.96, 0.92), -1)
    return canvas


Painter = Callable[[np.random.Generator, int, int], np.ndarray]
BACKGROUNDS: dict[str, Painter] = {
    "sky": _sky,
    "hills": _hills,
    "grass": _grass,
    "sand": _sand,
    "water": _water,
    "brick": _brick,
    "paper": _paper,
}


def background(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a background (H, W, 3); which one is a fair draw, whatever the scene shows."""
    painter = list(BACKGROUNDS.values())[rng.integers(len(BACKGROUNDS))]
    return painter(rng, height, width).astype(np.float32)


def _spots(x: np.ndarray, y: np.ndarray, phase: float) -> np.ndarray:
    pitch = 0.42
    row = np.round(y / (0.87 * pitch))
    across = (x + phase * pitch) / pitch + 0.5 * (row % 2)
    distance = np.hypot((across - np.round(across)) * pitch, y - row * 0.87 * pitch)
    return 1 - smoothstep(0.105, 0.135, distance)


def _stripes(x: np.ndarray, y: np.ndarray, phase: float) -> np.ndarray:
    bent = x + 0.10 * np.sin(3.2 * y + 6.3 * phase)
    return smoothstep(0.10, 0.35, np.sin(2 * np.pi * (bent / 0.44 + phase)))


def _rings(x: np.ndarray, y: np.ndarray, phase: float) -> np.ndarray:
    radius = np.hypot(x + 0.15, y + 0.05)
    return smoothstep(0.20, 0.45, np.sin(2 * np.pi * (radius / 0.34 + phase)))


def _scales(x: np.ndarray, y: np.ndarray, phase: float) -> np.ndarray:
    pitch = 0.36
    row = np.floor(y / (0.5 * pitch))
    across = x / pitch + phase + 0.5 * (row % 2)
    distance = np.hypot((across - np.round(across)) * pitch, y - row * 0.5 * pitch)
    return smoothstep(0.115, 0.15, distance)


# Each maps creature coordinates x, y (H, W) and a phase in [0, 1) to the accent's weight (H, W).
COATS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "spots": _spots,
    "stripes": _stripes,
    "rings": _rings,
    "scales": _scales,
}
