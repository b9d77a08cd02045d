"""The Triton kernel compiled ahead of time: nothing spills, and enough pairs fit on a GPU."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from processes import REPOSITORY, environment

pytestmark = pytest.mark.slow


def tool(cache: Path, *arguments: str) -> str:
    """Output of the tool, with nothing compiled before; it leaves the interpreter by itself."""
    command = [sys.executable, str(REPOSITORY / "tools" / "kernel_resources.py"), *arguments]
    env = environment() | {"TRITON_CACHE_DIR": str(cache)}
    result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    ("arguments", "binaries"),
    [
        *((("--arch", arch), 13) for arch in ("80", "90", "100")),
        (("--core", "--classes", "1000"), 6),
    ],
    ids=["Ampere", "Hopper", "Blackwell", "a thousand classes"],
)
def test_every_binary_fits(tmp_path, arguments, binaries):
    rows = json.loads(tool(tmp_path, "--json", *arguments))
    assert len({tuple(row.values()) for row in rows}) == len(rows) == binaries
    for row in rows:
        assert row["spills"] == row["stack_bytes"] == 0, row
        # A thread holds sixteen cells of a map: one word of uint8, two of float16, four of float32.
        words = {"uint8": 1, "float16": 2, "float32": 4}[row["bank"]]
        assert row["vector_loads"] == row["vector_stores"] == 2 * words, row
        assert 32 <= row["registers"] <= 128, row
        assert row["pairs_per_sm"] >= 4, row
        assert row["shared_bytes"] <= 16 * 1024, row
        assert 1000 < row["instructions"] < 4000, row


def test_the_table_fits_a_terminal(tmp_path):
    lines = tool(tmp_path, "--core", "--arch", "90").splitlines()
    assert max(map(len, lines)) <= 80
    assert re.search(r"^90 +float32 +uint8 +max +41 +\d+ +0 +0 +\d+ +\d+ +2\+2 +\d+ *$", lines[1])
