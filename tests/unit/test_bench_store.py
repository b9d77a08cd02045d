"""The benchmark of commits: it runs, and its figures say what they are."""

import json
import subprocess
import sys

import pytest

from processes import REPOSITORY, environment


def bench(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(REPOSITORY / "tools" / "bench_store.py"), *arguments]
    return subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=120, check=False
    )


def test_a_small_run(tmp_path):
    path = tmp_path / "figures.json"
    folder = tmp_path / "disk"
    folder.mkdir()
    done = bench(
        *("--rows", "100", "--commits", "3", "--shards", "1", "2", "--map-size", "41"),
        *("--folder", str(folder), "--json", str(path)),
    )
    if "lies in memory" in done.stderr:
        pytest.skip("the folder for tests lies in memory (tmpfs): there is no disk to measure")
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert all(set(row) == {"name", "value", "unit", "goal", "holds"} for row in rows)
    figures = {row["name"]: row for row in rows}
    for title in ("100 rows, 1 shard", "100 rows, 2 shards"):
        ratio = figures[f"commit against a plain fsynced write, {title}"]
        assert ratio["unit"] == "x"
        assert ratio["goal"] == "<= 2"
        assert ratio["holds"] == (ratio["value"] <= 2)
        rate = figures[f"commit, rows/s, {title}"]["value"]
        assert figures[f"commit, MB/s, {title}"]["value"] == pytest.approx(3390 * rate / 1e6)
        # A record of 3,390 bytes fills a page, and the tree comes on top.
        assert figures[f"bytes sent to the disk against the records', {title}"]["value"] > 1.2
        growth = figures[f"store file after 3 commits against after 1, {title}"]
        assert 1 < growth["value"] < 5
    assert figures["commit, rows/s, any 75 of 100 rows, 1 shard"]["holds"] is None
    assert not list(folder.iterdir())
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_memory_is_no_disk():
    done = bench("--folder", "/dev/shm", "--rows", "10", "--commits", "2")
    if "tmpfs" not in done.stderr:
        pytest.skip("/dev/shm is no tmpfs here")
    assert done.returncode == 2
    assert "/dev/shm lies in memory (tmpfs), expected a disk" in done.stderr
