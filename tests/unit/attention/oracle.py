"""The update once more, in Python's own floats and loops, from the formulas alone.

Nothing here indexes, broadcasts or rounds as the code under test does. A cell whose place in the
input lies so near the input's edge that float32 may put it on either side is marked undecided.
"""

import math
from dataclasses import dataclass, field

FLOAT32_MAX = 3.4028234663852886e38
EDGE = 1e-5


def gate_accepts(gate: str, scores: list[float], targets: list[int], c: int, tau: float) -> bool:
    others = [s for k, s in enumerate(scores) if not targets[k]]
    if gate == "none":
        return True
    if math.isnan(scores[c]):
        return False
    if gate in ("strict", "contest"):
        return all(scores[c] > other for other in others)
    if gate == "topk":
        return sum(1 for s in scores if s > scores[c]) < sum(targets)
    assert gate == "prob"
    p = 1 / (1 + math.exp(-scores[c])) if scores[c] > -700 else 0.0
    return p >= tau


def attention(feature: list[list[float]], scale_to: float) -> list[list[float]]:
    """Eq. 2 for nested lists."""
    peak = max(max(row) for row in feature)
    if peak <= 0 or scale_to / peak > FLOAT32_MAX:
        return [[0.0] * len(row) for row in feature]
    return [[max(value, 0.0) / peak for value in row] for row in feature]


def bilinear(values: list[list[float]], x: float, y: float) -> float:
    """The value at (x, y) in [0, 1]; samples sit at the centres of the cells, borders extend."""
    height, width = len(values), len(values[0])
    column = min(max(x * width - 0.5, 0.0), width - 1.0)
    row = min(max(y * height - 0.5, 0.0), height - 1.0)
    total = 0.0
    for i in range(height):
        for j in range(width):
            weight = max(0.0, 1 - abs(row - i)) * max(0.0, 1 - abs(column - j))
            if weight > 0:
                total += weight * values[i][j]
    return total


def place(geometry: list[list[float]], u: float, v: float) -> tuple[float, float]:
    return tuple(g[0] * u + g[1] * v + g[2] for g in geometry)


@dataclass
class OracleRow:
    size: int
    map: list[list[float]] = field(default_factory=list)
    last: list[list[float]] = field(default_factory=list)
    undecided: set[tuple[int, int]] = field(default_factory=set)
    accepted: int = 0
    fallback: bool = False
    dirty: bool = False

    def __post_init__(self) -> None:
        self.map = [[0.0] * self.size for _ in range(self.size)]
        self.last = [[0.0] * self.size for _ in range(self.size)]


def quantised(value: float, uint8: bool) -> float:
    return round(255 * value) / 255 if uint8 else value


def update_row(
    row: OracleRow,
    feature: list[list[float]],
    geometry: list[list[float]],
    gate_passed: bool,
    fusion: str,
    last_epoch: bool,
    uint8: bool,
) -> str:
    """One pair's update; returns what became of it."""
    if not all(math.isfinite(value) for line in feature for value in line):
        return "broken"
    if not gate_passed and not (last_epoch and row.accepted == 0):
        return "rejected"
    if row.accepted == 0:  # nothing was ever accepted: what is there was only borrowed
        row.map = [[0.0] * row.size for _ in range(row.size)]
    observed = attention(feature, 255.0 if uint8 else 1.0)
    t = row.accepted + 1
    for i in range(row.size):
        for j in range(row.size):
            x, y = place(geometry, (j + 0.5) / row.size, (i + 0.5) / row.size)
            if min(abs(x), abs(x - 1), abs(y), abs(y - 1)) < EDGE:
                row.undecided.add((i, j))
            if not (0 <= x <= 1 and 0 <= y <= 1):
                continue
            a = quantised(bilinear(observed, x, y), uint8)
            old = row.map[i][j]
            row.map[i][j] = max(old, a) if fusion == "max" else ((t - 1) * old + a) / t
            if gate_passed:
                row.last[i][j] = a
    row.dirty = True
    row.fallback = not gate_passed
    row.accepted += gate_passed
    return "accepted" if gate_passed else "fallback"
