"""What the compiled kernel is made of, on any machine: Triton compiles without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from processes import REPOSITORY, environment

HERE = Path(__file__).parent
pytestmark = pytest.mark.slow


def real_compiler(cache: Path) -> dict[str, str]:
    """Without the interpreter, and with nothing compiled before."""
    env = {k: v for k, v in environment().items() if k != "TRITON_INTERPRET"}
    path = os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tools"), str(HERE)])
    return env | {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": path}


@pytest.fixture(scope="module")
def facts(tmp_path_factory) -> dict:
    result = subprocess.run(
        [sys.executable, str(HERE / "compile_for_gpu.py")],
        env=real_compiler(tmp_path_factory.mktemp("triton")),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def test_inputs_of_any_size_share_one_binary(facts):
    """Sizes, strides, addresses, gates, numbers of pairs and of classes change with every step."""
    assert facts["binaries for any input"] == 1
    assert facts["binaries with another fusion and another size"] == 3  # the counting works


def test_the_resource_tool_compiles_what_is_launched(facts, tmp_path):
    code = (
        "import kernel_resources as tool; from compile_for_gpu import digest; "
        "print(digest(tool.compile_kernel(90, *tool.CORE[0])))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=real_compiler(tmp_path),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.stdout.strip() == facts["code"], result.stderr


def test_maps_move_in_whole_words(facts):
    """Sixteen cells of uint8 at once: the map and the last attention, there and back."""
    count = facts["instructions"]
    assert count["ld.global.v4.b32"] == count["st.global.v4.b32"] == 2
    assert not any(op.startswith(("atom", "red.global")) for op in count)


def test_arithmetic_is_that_of_the_reference(facts):
    """No contraction, no approximate division, and denormals survive.

    floor may take a denormal for zero, which it rounds to anyway.
    """
    count = facts["instructions"]
    assert count["mul.rn.f32"] > 100
    assert count["div.rn.f32"] == 1
    assert not any(op.startswith(("fma", "mad.rn", "div.full", "div.approx")) for op in count)
    assert {op for op in count if "ftz" in op} <= {"cvt.rmi.ftz.f32.f32"}


def test_rows_are_found_with_64_bits(facts):
    """2^31 cells are 633 thousand rows of the default size."""
    assert facts["row arithmetic"] == ["i64"]
