"""Batches of every awkward kind for the tests of the update."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from dist_oaa.attention import reference
from dist_oaa.attention.bank import DTYPES, MapBank
from dist_oaa.attention.batch import Observation, Outcome, Pairs, Rules
from dist_oaa.data.geometry import HORIZONTAL_FLIP_23, IDENTITY_23, crop_23, then

SHAPES = [(1, 1), (7, 1), (1, 6), (5, 5), (28, 37), (41, 41), (13, 9)]
FILLS = ["normal", "negative", "peaky", "denormal", "tiny", "huge", "flat", "nan", "inf"]


def rotation_23(degrees: float, zoom: float = 1.0) -> np.ndarray:
    """A turn about the centre of the image."""
    c, s = zoom * math.cos(math.radians(degrees)), zoom * math.sin(math.radians(degrees))
    return np.array([[c, -s, 0.5 - 0.5 * c + 0.5 * s], [s, c, 0.5 - 0.5 * s - 0.5 * c]])


GEOMETRIES = {
    "identity": IDENTITY_23,
    "flip": HORIZONTAL_FLIP_23,
    "crop": crop_23(0.21, 0.13, 0.5, 0.7),
    "crop and flip": then(crop_23(0.4, 0.05, 0.37, 0.41), HORIZONTAL_FLIP_23),
    "aligned crop": crop_23(0.25, 0.5, 0.5, 0.5),
    "zoomed out": np.array([[0.4, 0.0, 0.3], [0.0, 0.6, 0.1]]),
    "rotation": rotation_23(25),
    "quarter turn": rotation_23(90),
    "rotation and zoom": rotation_23(-140, 1.7),
    "off the image": np.array([[1.0, 0.0, 4.0], [0.0, 1.0, -3.0]]),
}


def fill(kind: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """One class's feature map, float32."""
    values = rng.normal(size=shape)
    if kind == "negative":
        values = -np.abs(values) - 0.01
    elif kind == "peaky":
        values = np.exp(4 * values)
    elif kind == "denormal":
        values = 1e-41 * values
    elif kind == "tiny":
        values = 1e-36 * values  # 255 / max overflows for some, 1 / max does not
    elif kind == "huge":
        values = 1e38 * np.clip(values, -3, 3)
    elif kind == "flat":
        values = np.full(shape, 0.7)
    elif kind == "nan":
        values.flat[rng.integers(values.size)] = np.nan
    elif kind == "inf":
        values.flat[rng.integers(values.size)] = rng.choice([np.inf, -np.inf])
    return values.astype(np.float32)


@dataclass
class Case:
    """A few steps for one bank."""

    steps: list[Observation]
    rows: int
    map_size: int

    def bank(self, dtype: str) -> MapBank:
        return MapBank.empty(self.rows, self.map_size, DTYPES[dtype])


def observation(
    rng: np.random.Generator,
    labels_BC: torch.Tensor,
    shape: tuple[int, int],
    fills: list[str],
    geometries: list[str],
    cells: list[tuple[int, int]],
    scores: np.ndarray,
) -> Observation:
    """Padding holds NaN, so that whoever reads it is found out."""
    images, classes = labels_BC.shape
    cam_BCHW = torch.full((images, classes, *shape), torch.nan)
    for b, (rows, columns) in enumerate(cells):
        for c in range(classes):
            kind = fills[(b * classes + c) % len(fills)]
            cam_BCHW[b, c, :rows, :columns] = torch.from_numpy(fill(kind, (rows, columns), rng))
    counts_B = labels_BC.long().sum(dim=1)
    return Observation(
        cam_BCHW=cam_BCHW,
        logits_BC=torch.from_numpy(scores),
        labels_BC=labels_BC,
        geometry_B23=torch.from_numpy(np.stack([GEOMETRIES[g] for g in geometries])).float(),
        cells_B2=torch.tensor(cells),
        pairs=Pairs.from_labels(labels_BC, counts_B.cumsum(0) - counts_B),
    )


@st.composite
def cases(draw, map_sizes=(1, 2, 5, 9, 16), most_steps: int = 4, shapes=tuple(SHAPES)) -> Case:
    """Hypothesis: up to `most_steps` batches of the same images, each augmented anew.

    Scores are multiples of 1/4, so that ties occur; some are NaN or infinite.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    images, classes = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    labels_BC = torch.from_numpy(rng.integers(0, 2, (images, classes), dtype=np.uint8))
    everything = draw(st.sampled_from(["mixed", "mixed", "one", "all", "none"]))
    if everything != "mixed":
        labels_BC.zero_()
    if everything == "one":
        labels_BC[:, 0] = 1
    if everything == "all":
        labels_BC[:] = 1
    steps = []
    for _ in range(draw(st.integers(1, most_steps))):
        shape = draw(st.sampled_from(shapes))
        fills = draw(st.lists(st.sampled_from(FILLS), min_size=1, max_size=5))
        geometries = [draw(st.sampled_from(sorted(GEOMETRIES))) for _ in range(images)]
        cells = [tuple(int(rng.integers(1, side + 1)) for side in shape) for _ in range(images)]
        scores = (rng.integers(-12, 13, (images, classes)) / 4).astype(np.float32)
        if draw(st.booleans()):
            odd = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32))
            scores.flat[rng.integers(scores.size)] = odd
        steps.append(observation(rng, labels_BC, shape, fills, geometries, cells, scores))
    rows = int(labels_BC.sum()) + 2  # two rows that nobody owns
    return Case(steps, rows, draw(st.sampled_from(map_sizes)))


def single(feature_hw, geometry_23=IDENTITY_23, score: float = 1.0, row: int = 0) -> Observation:
    """One image with one target class of two; the other class scores 0."""
    feature_hw = torch.as_tensor(feature_hw, dtype=torch.float32)
    cam_BCHW = torch.stack([feature_hw, torch.zeros_like(feature_hw)])[None]
    return Observation(
        cam_BCHW=cam_BCHW,
        logits_BC=torch.tensor([[score, 0.0]]),
        labels_BC=torch.tensor([[1, 0]], dtype=torch.uint8),
        geometry_B23=torch.from_numpy(np.asarray(geometry_23)).float()[None],
        cells_B2=torch.tensor([feature_hw.shape]),
        pairs=Pairs(torch.tensor([0]), torch.tensor([0]), torch.tensor([row])),
    )


def copy_bank(bank: MapBank) -> MapBank:
    copies = {name: tensor.clone() for name, tensor in bank.tensors().items()}
    return MapBank(map_size=bank.map_size, **copies)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The raw bytes, so that NaN equals itself and -0 is not 0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def assert_same_bits(a: MapBank, b: MapBank) -> None:
    for name, tensor in a.tensors().items():
        assert torch.equal(bits(tensor), bits(getattr(b, name))), name


# Every gate and fusion that the kernels know.
RULES = st.builds(
    Rules,
    gate=st.sampled_from(["strict", "topk", "prob", "none"]),
    tau=st.sampled_from([0.0, 0.5, 0.7, 1.0]),
    fusion=st.sampled_from(["max", "average"]),
    fallback=st.booleans(),
)


def assert_like_reference(
    update: Callable[[MapBank, Observation, Rules], Outcome],
    bank: MapBank,
    steps: list[Observation],
    rule: Rules,
) -> MapBank:
    """Runs an update and the reference over the steps, which must agree to the last bit."""
    plain, fast = copy_bank(bank), copy_bank(bank)
    for seen in steps:
        expected = reference.update(plain, seen, rule)
        outcome = update(fast, seen, rule)
        assert outcome.flags_3P.tolist() == expected.flags_3P.tolist()
        assert_same_bits(fast, plain)
    return fast
