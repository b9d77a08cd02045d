"""The benchmarks: what they compare does the same work, and figures are what was measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

from bench_accumulate import EVERYTHING, PngMaps, make_batches, straightforward  # noqa: E402

from bench_common import Figure, in_turn, write  # noqa: E402
from dist_oaa.attention.bank import MapBank  # noqa: E402
from dist_oaa.attention.update import update  # noqa: E402


@pytest.mark.parametrize(
    ("value", "goal", "holds"),
    [
        (300, ">= 300", True),
        (299.9, ">= 300", False),
        (1.0, "<= 1.1", True),
        (1.2, "<= 1.1", False),
        (7, "", None),
    ],
)
def test_a_goal_holds_or_not(value, goal, holds):
    assert Figure("f", value, "x", goal).holds is holds


def test_figures_are_written_as_json(tmp_path):
    write([Figure("a", torch.tensor(2.0).numpy(), "x", "<= 3")], str(tmp_path / "b.json"))
    (row,) = json.loads((tmp_path / "b.json").read_text())
    assert row == {"name": "a", "value": 2.0, "unit": "x", "goal": "<= 3", "holds": True}


def test_functions_take_turns():
    calls = []
    seconds = in_turn(
        {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")},
        rounds=2,
        warm=1,
        before=lambda: calls.append("-"),
    )
    assert calls == ["-", "a", "-", "b"] * 3
    assert seconds["a"].shape == seconds["b"].shape == (2,)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_straightforward_update_does_the_same_work(channels_last):
    banks = [MapBank.empty(40, 41, torch.uint8) for _ in range(2)]
    for seen in make_batches(3, 24, 40, (28, 37), channels_last):
        update(banks[0], seen, EVERYTHING)
        straightforward(banks[1], seen)
    for ours, theirs in zip(*(bank.tensors().values() for bank in banks), strict=True):
        assert (ours.int() - theirs.int()).abs().max() <= 1  # grid_sample rounds otherwise
    assert banks[0].maps_RSS.float().mean() > 20


def test_a_png_per_pair_keeps_the_maximum(tmp_path):
    import cv2

    pngs = PngMaps(str(tmp_path), (9, 7), count=2)
    pngs.cam_BCHW = pngs.cam_BCHW.flip(0)
    before = [cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in pngs.paths]
    pngs.update_all()
    for image, path in enumerate(pngs.paths):
        kept = cv2.imread(path, cv2.IMREAD_GRAYSCALE)
        assert (kept >= before[image]).all()
        assert (kept >= pngs.attention(image)).all()
        assert (kept != before[image]).any()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "arguments", "figures"),
    [
        ("bench_accumulate.py", ["--pairs", "2000", "--rounds", "1", "--no-growth"], 9),
        ("bench_step.py", ["--rounds", "1", "--times", "2"], 3),
        ("bench_watching.py", ["--rounds", "1", "--times", "2"], 4),
    ],
)
def test_benchmarks_run_and_write_their_figures(tmp_path, script, arguments, figures):
    command = [sys.executable, str(TOOLS / script), *arguments, "--json", str(tmp_path / "b.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "b.json").read_text())
    assert len(rows) == figures == len({row["name"] for row in rows})
    assert all(len(line) <= 80 for line in done.stdout.splitlines()), done.stdout


def test_without_a_gpu_its_benchmark_says_so():
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is there")
    command = [sys.executable, str(TOOLS / "bench_accumulate.py"), "--device", "cuda"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2
    assert done.stderr == "no CUDA device is available: nothing was measured\n"
