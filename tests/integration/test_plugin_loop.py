"""A torchvision ResNet-18 in a hand-written loop: cumulative attention beats the final CAM's."""

import json
import sys
from pathlib import Path

import pytest

from dist_oaa.store.reader import StoreReader
from processes import REPOSITORY, run, torchrun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

EXAMPLE = str(REPOSITORY / "examples" / "plain_pytorch.py")


@pytest.mark.parametrize("ranks", [1, 2])
def test_cumulative_recall_beats_the_cam(demo_data: Path, tmp_path: Path, ranks: int):
    """From random weights on 24 drawn scenes, in 32 steps of six images."""
    store = tmp_path / "store"
    arguments = [EXAMPLE, "--data", str(demo_data), "--store", str(store)]
    arguments += ["--epochs", "8", "--side", "64", "--batch_size", str(6 // ranks)]
    command = torchrun(ranks, *arguments) if ranks > 1 else [sys.executable, *arguments]
    code, text = run(command, tmp_path / "log", seconds=240)
    assert code == 0, text
    figures = json.loads(text[text.rindex("{") :])
    assert figures["cumulative/recall"] > figures["cam/recall"] + 0.05, figures
    assert figures["cumulative/noise"] < 1, figures

    reader = StoreReader(store)
    records = list(reader.records())
    assert len(reader.manifest.image_ids) == 24
    assert len(records) == reader.manifest.pairs, "with the fallback every pair has a map"
    # Seven epochs accumulate; an image that two ranks visited would have more.
    assert max(record.accepted for _, _, record in records) <= 7
    assert len({name for name, _, record in records if record.accepted}) > 12
