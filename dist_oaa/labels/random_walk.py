"""Random walk of class scores over cells that look alike (PSA, CVPR 2018; IRN, CVPR 2019).

Shapes: HW the pixels of one image, hw the cells of the grid, V = h w, D feature channels, J
channels (background first), E joined pairs of cells, each in both directions.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from scipy import sparse

from dist_oaa.config.labels import RandomWalkConfig

COLOUR_SCALE = 10.0
"""Distance in CIELAB (lightness 0 to 100) at which the affinity of two colours is 1/e."""


@dataclass(frozen=True)
class Edges:
    """Which cells of a grid are joined, and how alike they are.

    Every pair appears in both directions with the same weight; no cell is joined to itself.
    """

    grid: tuple[int, int]
    """Cells (h, w)."""
    rows_E: np.ndarray
    """Cell index, y w + x."""
    columns_E: np.ndarray
    """Cell index of the partner."""
    weight_E: np.ndarray
    """Affinity, float32 from 0 to 1."""


def colour_edges(image_HW3: np.ndarray, config: RandomWalkConfig) -> Edges:
    """Join the cells of a small version of the image by how alike their colours are.

    The affinity is exp(-d / COLOUR_SCALE), d the distance of the cells' mean colours in CIELAB.

    Args:
        image_HW3: (H, W, 3) uint8 RGB.
        config: `grid` and `radius` count here; a smaller image keeps its own pixels as cells.
    """
    height, width = image_HW3.shape[:2]
    factor = min(1.0, config.grid / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small_hw3 = cv2.resize(image_HW3, size, interpolation=cv2.INTER_AREA)
    lab_hw3 = cv2.cvtColor(small_hw3.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    rows_P, columns_P = _pairs(lab_hw3.shape[:2], config.radius)
    lab_V3 = lab_hw3.reshape(-1, 3)
    distance_P = np.linalg.norm(lab_V3[rows_P] - lab_V3[columns_P], axis=1)
    return _both_ways(lab_hw3.shape[:2], rows_P, columns_P, np.exp(-distance_P / COLOUR_SCALE))


def feature_edges(features_Dhw: np.ndarray, config: RandomWalkConfig) -> Edges:
    """Join the cells of a network's features by how alike these are.

    learned: exp(-mean |f_i - f_j|) over the channels (PSA); features: the cosine between them, 0
    where it is negative.

    Args:
        features_Dhw: (D, h, w) float.
        config: `radius` and `affinity` count here.

    Raises:
        ValueError: another number of axes, an empty one, or values that are not finite.
    """
    features_Dhw = np.asarray(features_Dhw, dtype=np.float32)
    if features_Dhw.ndim != 3 or not features_Dhw.size or not np.isfinite(features_Dhw).all():
        raise ValueError(f"features of {features_Dhw.shape} should be D x h x w and finite")
    grid = features_Dhw.shape[1:]
    features_VD = np.ascontiguousarray(features_Dhw.reshape(len(features_Dhw), -1).T)
    rows_P, columns_P = _pairs(grid, config.radius)
    if config.affinity == "learned":
        distance_P = [
            np.abs(features_VD[r] - features_VD[c]).mean(1) for r, c in _blocks(rows_P, columns_P)
        ]
        weight_P = np.exp(-np.concatenate(distance_P))
    else:
        length_V1 = np.linalg.norm(features_VD, axis=1, keepdims=True)
        unit_VD = features_VD / np.maximum(length_V1, np.float32(1e-12))
        cosine_P = [
            np.einsum("pd,pd->p", unit_VD[r], unit_VD[c]) for r, c in _blocks(rows_P, columns_P)
        ]
        weight_P = np.clip(np.concatenate(cosine_P), 0, 1)
    return _both_ways(grid, rows_P, columns_P, weight_P)


def random_walk(scores_JHW: np.ndarray, edges: Edges, config: RandomWalkConfig) -> np.ndarray:
    """Let the scores walk over the edges.

    One step takes each cell's scores to the mean of its own and its partners', weighted by 1 and
    by affinity^beta. The rows of that matrix sum to one, so a constant background stays as it is
    and no score leaves the range of its channel. The walk dilutes the classes: each is divided by
    its own maximum afterwards, where it has one.

    Args:
        scores_JHW: (J, H, W) float, background first.
        edges: over the same image, of any grid.
        config: `beta` and `steps` count here.

    Returns:
        (J, H, W) float32.

    Raises:
        ValueError: another number of axes, or scores that are not finite.
    """
    scores_JHW = np.asarray(scores_JHW, dtype=np.float32)
    if scores_JHW.ndim != 3 or not scores_JHW.size or not np.isfinite(scores_JHW).all():
        raise ValueError(f"scores of {scores_JHW.shape} should be J x H x W and finite")
    height, width = scores_JHW.shape[1:]
    h, w = edges.grid
    cells_VJ = np.stack(
        [cv2.resize(s_HW, (w, h), interpolation=cv2.INTER_AREA).ravel() for s_HW in scores_JHW], 1
    )
    matrix_VV = transition_matrix(edges, config.beta)
    for _ in range(config.steps):
        cells_VJ = matrix_VV @ cells_VJ
    largest_J = cells_VJ.max(0)
    largest_J[0] = 1
    cells_VJ = cells_VJ / np.where(largest_J > 0, largest_J, 1)
    return np.stack(
        [
            cv2.resize(cells_V.reshape(h, w), (width, height), interpolation=cv2.INTER_LINEAR)
            for cells_V in cells_VJ.T
        ]
    )


def transition_matrix(edges: Edges, beta: float) -> sparse.csr_array:
    """The V x V matrix of one step, float32: affinity^beta and 1 for staying, rows sum to one."""
    cells = edges.grid[0] * edges.grid[1]
    weight_E = edges.weight_E.astype(np.float32) ** np.float32(beta)
    joined_VV = sparse.coo_array((weight_E, (edges.rows_E, edges.columns_E)), (cells, cells))
    matrix_VV = (joined_VV + sparse.eye_array(cells, dtype=np.float32)).tocsr()
    total_V = matrix_VV.sum(1)
    return (sparse.diags_array(1 / total_V) @ matrix_VV).tocsr().astype(np.float32)


def _pairs(grid: tuple[int, int], radius: int) -> tuple[np.ndarray, np.ndarray]:
    """Cell indices of all pairs at most `radius` cells apart, each pair once."""
    h, w = grid
    index_hw = np.arange(h * w, dtype=np.int32).reshape(h, w)
    rows, columns = [np.empty(0, np.int32)], [np.empty(0, np.int32)]
    for y in range(min(radius, h - 1) + 1):
        for x in range(-min(radius, w - 1), min(radius, w - 1) + 1):
            # One half of the disc: below, or to the right in the same row.
            if y * y + x * x > radius * radius or (y, x) <= (0, 0):
                continue
            left, right = max(0, -x), w - max(0, x)
            rows.append(index_hw[: h - y, left:right].ravel())
            columns.append(index_hw[y:, left + x : right + x].ravel())
    return np.concatenate(rows), np.concatenate(columns)


def _blocks(rows_P: np.ndarray, columns_P: np.ndarray, size: int = 1 << 14):
    """The pairs in pieces, so that their features need little memory at a time."""
    for start in range(0, max(1, len(rows_P)), size):
        yield rows_P[start : start + size], columns_P[start : start + size]


def _both_ways(
    grid: tuple[int, int], rows_P: np.ndarray, columns_P: np.ndarray, weight_P: np.ndarray
) -> Edges:
    return Edges(
        grid=(int(grid[0]), int(grid[1])),
        rows_E=np.concatenate([rows_P, columns_P]),
        columns_E=np.concatenate([columns_P, rows_P]),
        weight_E=np.concatenate([weight_P, weight_P]).astype(np.float32),
    )
