"""Fixtures that all tests share."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import processes

REPOSITORY = Path(__file__).resolve().parents[1]

# Triton reads this once, when it is imported. Without a GPU its kernels run in its interpreter, on
# CPU tensors; with one they are compiled and tests/gpu holds them. Tests that compile for real on
# any machine do it in a process of their own, without this variable.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"


def pytest_configure(config: pytest.Config) -> None:
    """Quietens numpy where float32 overflows in the interpreter: kernels mean it to.

    And hears Ctrl-C, which a shell has its background jobs ignore: so would all that tests start.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("filterwarnings", "ignore::RuntimeWarning:triton.runtime.interpreter")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips what gives CPU tensors to the compiled kernel."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    reason = "the Triton path takes CPU tensors in its interpreter only; tests/gpu holds it here"
    for item in items:
        if getattr(item, "callspec", None) and item.callspec.params.get("path") == "triton":
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def data_root() -> Callable[[str], Path]:
    """The folder of a real data set by name; skips, with the reason, where it is absent."""
    base = Path(os.environ.get("OAA_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

    def find(name: str) -> Path:
        if not (base / name).is_dir():
            pytest.skip(f"no real images: {base / name} is absent (set OAA_TEST_DATA)")
        return base / name

    return find


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory) -> Path:
    """24 drawn scenes in VOC layout."""
    from dist_oaa.data.demo import generate

    folder = tmp_path_factory.mktemp("data") / "demo"
    generate(str(folder), images=24, seed=3, size=96)
    return folder


@pytest.fixture(autouse=True)
def nothing_leaks():
    """Fails a test that leaves a process or a process group behind, and ends the process."""
    before = len(processes.STARTED)
    yield
    left = processes.end_started(before)
    assert not left, f"the test left processes running, whose output is in {left}"
    assert not torch.distributed.is_initialized(), "the test left its process group open"
