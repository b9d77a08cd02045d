"""Measures the update of the cumulative maps: on the CPU, or with --device cuda on a GPU.

    python tools/bench_accumulate.py                  every path of the CPU and what limits it
    python tools/bench_accumulate.py --device cuda    the Triton kernel, eager, compiled, roofline

CPU figures are of one thread. Rows of the bank are drawn at random among `--pairs`, a new batch
for every call, so that maps come from main memory as they do in training, while the features of a
batch, written just before by the network, come from the caches.
Legend: B images, C classes, P pairs, HW feature cells, S map cells along a side.
"""

import argparse
import ctypes
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from bench_common import Figure, in_turn, machine, show, spread, write
from dist_oaa.attention.bank import MapBank
from dist_oaa.attention.batch import Observation, Pairs, Rules
from dist_oaa.attention.update import update

CLASSES, TARGETS = 20, 2  # VOC has 20 classes and 1.5 of them in an image
FLIP_23 = torch.tensor([[-1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
EVERYTHING = Rules(gate="none")  # every pair is written: the most work that there can be


def make_batches(
    count: int, pairs: int, rows: int, cells: tuple[int, int], channels_last: bool, device="cpu"
) -> list[Observation]:
    """Batches of the same random features whose pairs own ever other random rows of the bank."""
    generator = torch.Generator().manual_seed(0)
    images = pairs // TARGETS
    order = torch.randperm(rows // TARGETS, generator=generator) * TARGETS
    cam_BCHW = torch.randn(images, CLASSES, *cells, generator=generator).to(device)
    if channels_last:
        cam_BCHW = cam_BCHW.contiguous(memory_format=torch.channels_last)
    labels_BC = torch.zeros(images, CLASSES, dtype=torch.uint8)
    labels_BC[:, :TARGETS] = 1
    logits_BC = torch.randn(images, CLASSES, generator=generator).to(device)
    rest = (
        labels_BC.to(device),
        FLIP_23.expand(images, 2, 3).contiguous().to(device),
        torch.tensor([cells]).expand(images, 2).contiguous().to(device),
    )
    batches = []
    for number in range(count):
        chosen_B = order[torch.arange(number * images, (number + 1) * images) % len(order)]
        pairs_of = Pairs.from_labels(labels_BC, chosen_B).to(torch.device(device))
        batches.append(Observation(cam_BCHW, logits_BC, *rest, pairs_of))
    return batches


def touched_bank(rows: int, size: int, device="cpu") -> MapBank:
    """A bank whose every page has been written."""
    bank = MapBank.empty(rows, size, torch.uint8, device)
    bank.maps_RSS.fill_(1)
    bank.last_RSS.fill_(1)
    bank.accepted_R.fill_(3)
    return bank


def straightforward(bank: MapBank, seen: Observation) -> None:
    """What one writes first: normalise, grid_sample, maximum, all pairs at once, no gate."""
    pairs, size = seen.pairs, bank.map_size
    cam_P1HW = seen.cam_BCHW[pairs.image_P, pairs.class_P][:, None].relu()
    cam_P1HW = cam_P1HW / cam_P1HW.amax(dim=(2, 3), keepdim=True).clamp(min=1e-8)
    geometry_P23 = seen.geometry_B23[pairs.image_P]
    # grid_sample's frame goes from -1 to 1 where ours goes from 0 to 1.
    theta_P23 = geometry_P23.clone()
    theta_P23[:, :, 2] = geometry_P23.sum(dim=2) + geometry_P23[:, :, 2] - 1
    shape = (len(pairs), 1, size, size)
    grid_PSS2 = F.affine_grid(theta_P23, shape, align_corners=False)
    attention_PSS = F.grid_sample(cam_P1HW, grid_PSS2, padding_mode="border", align_corners=False)[
        :, 0
    ]
    stored_PSS = (255 * attention_PSS).round().to(torch.uint8)
    inside_PSS = (grid_PSS2.abs() <= 1).all(dim=3)
    old_PSS = bank.maps_RSS[pairs.row_P]
    fused_PSS = torch.where(inside_PSS, torch.maximum(old_PSS, stored_PSS), old_PSS)
    bank.maps_RSS[pairs.row_P] = fused_PSS
    bank.last_RSS[pairs.row_P] = torch.where(inside_PSS, stored_PSS, bank.last_RSS[pairs.row_P])
    bank.accepted_R[pairs.row_P] += 1
    bank.dirty_R[pairs.row_P] = True


class PngMaps:
    """The public code's way: one 8-bit PNG a pair, decoded, fused and encoded at each update."""

    def __init__(self, folder: str, cells: tuple[int, int], count: int = 64) -> None:
        noise = np.random.default_rng(0).normal(size=(count, *cells))
        smooth = [cv2.GaussianBlur(feature, (9, 9), 3) for feature in noise]
        self.cam_BCHW = torch.from_numpy(np.stack(smooth))[:, None].float()
        self.paths = [str(Path(folder) / f"{i}.png") for i in range(count)]
        for image, path in enumerate(self.paths):
            cv2.imwrite(path, self.attention(image))

    def attention(self, image: int) -> np.ndarray:
        positive = np.maximum(self.cam_BCHW[image, 0].numpy(), 0)
        return (255 * (positive / positive.max())).astype(np.uint8)

    def update_all(self) -> None:
        for image, path in enumerate(self.paths):
            old = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
            cv2.imwrite(path, np.maximum(old, self.attention(image)))


def cycle(batches: list[Observation], function, calls: int):
    """A function that runs the next `calls` batches."""
    state = {"next": 0}

    def run() -> None:
        for _ in range(calls):
            function(batches[state["next"] % len(batches)])
            state["next"] += 1

    return run


def touched_bytes(cells: tuple[int, int], size: int) -> int:
    """Bytes of one pair's update: reads F and M, writes M and A (uint8 maps, float32 features)."""
    return 4 * cells[0] * cells[1] + 3 * size * size


def cold_copies(total: int, calls: int, reservoir: int):
    """memcpy of `total` bytes in all, read or written, `calls` times, along a large buffer."""
    half = total // 2
    source, target = (np.ones(max(reservoir, 4 * half), np.uint8) for _ in range(2))
    libc, state = ctypes.CDLL(None), {"at": 0}
    libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]

    def run() -> None:
        for _ in range(calls):
            at = state["at"]
            libc.memcpy(target.ctypes.data + at, source.ctypes.data + at, half)
            state["at"] = at + half if at + 2 * half <= len(source) else 0

    return run


@dataclass
class Compared:
    """One batch size and layout: our update in turn with another way, per pair."""

    bank: MapBank
    pairs: int
    cells: tuple[int, int]
    channels_last: bool
    rounds: int

    def __post_init__(self) -> None:
        rows = len(self.bank.accepted_R)
        self.batches = make_batches(64, self.pairs, rows, self.cells, self.channels_last)

    @property
    def calls(self) -> int:
        """Calls of the update in one timing, enough to take some milliseconds, as others do."""
        return 8192 // self.pairs

    def with_other(self, other, pairs: int) -> tuple[np.ndarray, np.ndarray]:
        """Seconds a pair of the update and of a function that handles `pairs` pairs a call."""
        calls = self.calls
        ours = cycle(self.batches, lambda seen: update(self.bank, seen, EVERYTHING), calls)
        # The network has just written the features: they are in the caches.
        run = {"ours": ours, "other": other}
        warm = self.batches[0].cam_BCHW
        seconds = in_turn(run, self.rounds, warm=2, before=lambda: warm.sum())
        return seconds["ours"] / calls / self.pairs, seconds["other"] / pairs

    def told(self) -> str:
        layout = "channels last" if self.channels_last else "NCHW"
        return f"{self.pairs} pairs, {self.cells[0]}x{self.cells[1]} {layout}"


def ratio(other: np.ndarray, ours: np.ndarray) -> float:
    """Median over the rounds: the two were timed in turn."""
    return float(np.median(other / ours))


def cpu_figures(rows: int, size: int, rounds: int) -> tuple[list[Figure], list[str]]:
    """The CPU's figures, and notes with the times behind them."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    bank, cells = touched_bank(rows, size), (28, 37)
    many, batch, nhwc, small = (
        Compared(bank, *rest, rounds)
        for rest in ((512, cells, False), (24, cells, False), (24, cells, True),
                     (24, (14, 14), True))
    )  # fmt: skip
    figures, notes = [], []

    def add(name: str, case: Compared, other, pairs: int, goal: str, inverse=False) -> np.ndarray:
        ours, others = case.with_other(other, pairs)
        value = ratio(ours, others) if inverse else ratio(others, ours)
        figures.append(Figure(name, value, "x", goal))
        notes.append(f"{case.told()}: {spread(ours, 1e6, 'us')}; {spread(others, 1e6, 'us')}")
        return ours

    with tempfile.TemporaryDirectory(dir=".") as folder:
        pngs = PngMaps(folder, cells)
        count = len(pngs.paths)
        notes.append("per pair, our update; a PNG per pair:")
        ours = add("update on CPU against a PNG per pair", many, pngs.update_all, count, ">= 300")
        figures.append(Figure("update on CPU", 1 / float(np.median(ours)), "pairs/s"))
        add("against a PNG per pair, batches of 24", batch, pngs.update_all, count, "")
        add("against a PNG per pair, 24, channels last", nhwc, pngs.update_all, count, "")
    notes.append("our update; straightforward PyTorch:")
    for name, case, goal in (
        ("update against straightforward PyTorch", many, ">= 2"),
        ("against straightforward PyTorch, batches of 24", batch, ">= 2"),
    ):
        way = cycle(case.batches, lambda seen: straightforward(bank, seen), 1)
        add(name, case, way, case.pairs, goal)
    notes.append("our update; memcpy that reads and writes as many bytes:")
    for name, case, goal in (
        ("update's time against memcpy of the same bytes", many, "<= 3"),
        ("time against memcpy, batches of 24", batch, ""),
        ("time against memcpy, 24, 14x14 channels last", small, ""),
    ):
        bytes_of_call = case.pairs * touched_bytes(case.cells, size)
        copy = cold_copies(bytes_of_call, case.calls, 256 << 20)
        add(name, case, copy, case.calls * case.pairs, goal, inverse=True)
    return figures, notes


def growth_figures(size: int, rounds: int) -> tuple[list[Figure], list[str]]:
    """What an update costs as the bank grows."""
    torch.set_num_threads(1)
    run, notes, keep = {}, [], []
    for rows in (10**4, 10**5, 10**6):
        bank = touched_bank(rows, size)
        batches = make_batches(1024, 24, rows, (14, 14), True)
        keep.append((bank, batches))
        run[rows] = cycle(batches, lambda seen, bank=bank: update(bank, seen, EVERYTHING), 64)
    seconds = {k: s / 64 for k, s in in_turn(run, rounds, warm=2).items()}
    notes += [f"update of 24 pairs among {k:,}: {spread(s, 1e6, 'us')}" for k, s in seconds.items()]
    ratio = float(np.median(seconds[10**6] / seconds[10**4]))
    return [Figure("cost of an update, 10^6 pairs against 10^4", ratio, "x", "<= 1.2")], notes


def gpu_figures(rows: int, size: int, channels_last: bool) -> tuple[list[Figure], list[str]]:
    """The Triton kernel against eager PyTorch, torch.compile and the roofline."""
    from triton.testing import do_bench

    figures, notes, cells = [], [], (28, 37)
    bank = touched_bank(rows, size, "cuda")
    copied = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    copy_ms = do_bench(lambda: copied[: 1 << 29].copy_(copied[1 << 29 :]), quantiles=[0.5])
    bandwidth = (1 << 30) / (copy_ms / 1e3)
    notes.append(f"device copy: {bandwidth / 1e12:.2f} TB/s, read and written")
    compiled = torch.compile(straightforward, dynamic=False)
    for pairs in (24, 1024, 16384):
        seen = make_batches(1, pairs, rows, cells, channels_last, "cuda")[0]
        run = {
            "triton": lambda seen=seen: update(bank, seen, EVERYTHING, "triton"),
            "vectorised": lambda seen=seen: update(bank, seen, EVERYTHING, "vectorised"),
            "straightforward": lambda seen=seen: straightforward(bank, seen),
            "torch.compile": lambda seen=seen: compiled(bank, seen),
        }
        times = {k: do_bench(f, quantiles=[0.2, 0.5, 0.8]) for k, f in run.items()}
        ideal_ms = 1e3 * pairs * touched_bytes(cells, size) / bandwidth
        notes += [
            f"{pairs} pairs, {k}: {1e3 * p50:.1f} us (p20 {1e3 * p20:.1f}, p80 {1e3 * p80:.1f})"
            for k, (p20, p50, p80) in times.items()
        ]
        notes.append(f"{pairs} pairs, roofline: {1e3 * ideal_ms:.2f} us")
        ours = times["triton"][1]
        figures += [
            Figure(f"kernel against eager PyTorch, {pairs} pairs",
                   times["straightforward"][1] / ours, "x"),
            Figure(f"kernel against torch.compile, {pairs} pairs",
                   times["torch.compile"][1] / ours, "x"),
            Figure(f"kernel, share of the roofline, {pairs} pairs", ideal_ms / ours, ""),
        ]  # fmt: skip
    return figures, notes


def main() -> int:
    """Measures, prints the table, and writes it as JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--pairs", type=int, default=100_000, help="rows of the bank, a count")
    parser.add_argument("--map-size", type=int, default=41, help="cells along a side of a map")
    parser.add_argument("--rounds", type=int, default=30, help="repetitions of each timing")
    parser.add_argument("--no-growth", action="store_true", help="skip the bank of 10^6 pairs")
    parser.add_argument(
        "--nchw", action="store_true", help="cuda: features NCHW, not channels last"
    )
    parser.add_argument("--json", default="", help="file for the figures")
    args = parser.parse_args()
    if args.device == "cuda":
        if not torch.cuda.is_available():
            print("no CUDA device is available: nothing was measured", file=sys.stderr)
            return 2
        figures, notes = gpu_figures(args.pairs, args.map_size, not args.nchw)
    else:
        figures, notes = cpu_figures(args.pairs, args.map_size, args.rounds)
        if not args.no_growth:
            more, more_notes = growth_figures(args.map_size, args.rounds)
            figures, notes = figures + more, notes + more_notes
    show(figures, "Accumulation", [machine(args.device), *notes])
    write(figures, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
