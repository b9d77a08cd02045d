"""The benchmark of labels: it runs, and its figures say what they are."""

import json
import subprocess
import sys

import pytest

from processes import REPOSITORY, environment


@pytest.mark.slow
def test_a_small_run(tmp_path):
    path = tmp_path / "figures.json"
    command = [sys.executable, str(REPOSITORY / "tools" / "bench_labels.py")]
    command += ["--images", "4", "--rounds", "1", "--json", str(path)]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert all(set(row) == {"name", "value", "unit", "goal", "holds"} for row in rows)
    figures = {row["name"]: row for row in rows}
    for name in ("pseudo labels", "dense CRF"):
        one, two = (figures[f"{name}, {n}"] for n in ("1 process", "2 processes"))
        gain = figures[f"{name}, two processes against one"]
        assert one["unit"] == two["unit"] == "images/s"
        # Of a single round, the gain is the ratio of the rates.
        assert gain["value"] == pytest.approx(two["value"] / one["value"])
        assert gain["goal"] == ">= 1.7"
        assert gain["holds"] == (gain["value"] >= 1.7)
    assert figures["pseudo labels, 1 process"]["value"] > figures["dense CRF, 1 process"]["value"]
    assert max(map(len, done.stdout.splitlines())) <= 80
