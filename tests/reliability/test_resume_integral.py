"""An integral training that is killed and resumed equals the uninterrupted one, bit for bit."""

import json
import random

import pytest

from dist_oaa.cli import run as oaa
from processes import Running, torchrun
from runs import assert_same_weights, files_of, integral_settings, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

SETTINGS = {"optim.epochs": 3, "checkpoint.every_steps": 1}


def epoch_lines(run_dir) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


@pytest.fixture(scope="module")
def started(demo_data, tmp_path_factory):
    """Starts an integral training on two ranks in a folder of that name."""
    folder = tmp_path_factory.mktemp("integral")
    oaa(settings(demo_data, folder / "classified", **{"optim.epochs": 1}))

    def start(name: str, *extra: str) -> Running:
        flags = integral_settings(demo_data, folder / "classified", folder / name, **SETTINGS)
        command = torchrun(2, "-m", "dist_oaa", *flags, *extra)
        return Running(command, folder / f"{name}{len(extra)}.log")

    start.folder = folder
    return start


@pytest.fixture(scope="module")
def whole(started):
    run_ = started("whole")
    assert run_.wait(200) == 0, run_.text()
    return started.folder / "whole"


@pytest.mark.parametrize("at", ["a step", "the final maps"])
def test_killed_run_resumes_bit_for_bit(at, started, whole):
    name = at.split()[-1]
    run_dir = started.folder / name
    victim = started(name)
    log, latest = run_dir / "metrics.jsonl", run_dir / "checkpoints" / "latest.json"
    step = random.Random(7).randint(5, 9)  # in the second or third epoch of four steps
    if at == "a step":
        wanted = lambda: log.exists() and f'"step": {step}' in log.read_text()  # noqa: E731
    else:
        wanted = lambda: "writing the maps" in victim.text()  # noqa: E731
    victim.wait_until(lambda: latest.exists() and wanted(), 100)
    victim.kill()
    assert not (run_dir / "attention").exists()
    resumed = started(name, "--resume")
    assert resumed.wait(200) == 0, resumed.text()
    assert_same_weights(whole, run_dir)
    assert files_of(run_dir / "attention") == files_of(whole / "attention")
    assert len(files_of(whole / "attention")) == 44
    assert epoch_lines(run_dir) == epoch_lines(whole)
