"""Every block of README.md is run, or its commands are put to the test as the table says.

A block that no line of VERIFIED names fails the first test: whoever adds one says how it is held.
"""

import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from dist_oaa import cli, plugin
from documents import Block, blocks_of
from processes import REPOSITORY, environment

README = REPOSITORY / "README.md"
DRY = ("pipeline", "reproduce", "tune")
"""Commands that list what they would run."""
# What makes the real run of the block on one's own images small enough for a test.
SMALL = {
    "classify": ("model", "--classify.data.size 64 --classify.model.head_channels 16"),
    "segment": ("network", "--segment.data.augment.crop 64 --segment.network.head_channels 16"),
}
STAGE = (
    "--{stage}.{network}.backbone test_efficientnet --{stage}.{network}.weights none "
    "--{stage}.optim.epochs 2 --{stage}.optim.batch_size 6 --{stage}.evaluate.images 4 {more}"
)
SETTINGS = " ".join(STAGE.format(stage=s, network=n, more=m) for s, (n, m) in SMALL.items())


def commands_of(block: Block) -> list[list[str]]:
    """The words of each command, comments left out."""
    text = block.text.replace("\\\n", " ")
    return [words for line in text.splitlines() if (words := shlex.split(line, comments=True))]


def accepted(words: list[str], capsys) -> None:
    """Puts a command to the parser, and to the plan where it has one; nothing is run."""
    if words[0] == "torchrun":
        assert words[words.index("-m") + 1] == "dist_oaa"
        words = ["oaa", *words[words.index("-m") + 2 :]]
    assert words[0] == "oaa"
    if words[1] == "data":
        assert words[2] in ("check", "demo", "voc2012")
        return
    ending = ["--dry_run", "true"] if words[1] in DRY else ["--print_config"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words[1:], *ending])
    assert ended.value.code == 0, capsys.readouterr().err


def all_accepted(block: Block, capsys) -> None:
    """Every command of a block: those of `oaa`, and those that a target of make runs."""
    for words in commands_of(block):
        if words[0] != "make":
            accepted(words, capsys)
            continue
        made = subprocess.run(
            ["make", "--dry-run", words[1]], cwd=REPOSITORY, capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr
        found = re.findall(r"\.venv/bin/(oaa .*)", made.stdout)
        assert bool(found) == ("demo" in words[1])
        for line in found:
            accepted(shlex.split(line), capsys)


def table_of_the_demo(block: Block, capsys) -> None:
    """The rows are the stages of the pipeline."""
    stages = yaml.safe_load((REPOSITORY / "configs/demo/pipeline.yaml").read_text())["stages"]
    rows = re.findall(r"^│ (\w+) ", block.text, re.M)
    assert rows == list(stages)


def three_lines(block: Block, capsys) -> None:
    """The lines as they stand, with a user's model, images and names around them."""
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    )
    names = {name: getattr(plugin, name) for name in plugin.__all__} | {
        "ids": ["a", "b"],
        "labels_NC": np.array([[1, 0, 0], [0, 1, 1]]),
        "model": network,
        "images": torch.rand(2, 3, 32, 32),
        "geometry": None,
    }
    exec(block.text, names)
    accumulator = names["accumulator"]
    accumulator.commit()
    assert accumulator.maps("b").keys() == {1, 2}
    accumulator.close()


def run_elsewhere(block: Block, capsys) -> None:
    """Run for real, by the fixture `own_images`."""


# First line of a block -> how it is verified.
VERIFIED: dict[str, Callable[[Block, object], None]] = {
    "make demo": all_accepted,
    "┏━━━━━━━━━━┳━━━━━━┳": table_of_the_demo,
    "accumulator = AttentionAccumulator.create": three_lines,
    "oaa data check my-images": run_elsewhere,
    "torchrun --nproc-per-node 8": all_accepted,
    "runs/demo/": run_elsewhere,
    "oaa classify --config configs/voc12/oaa_vgg16_paper.yaml --optim.lr": all_accepted,
    "oaa classify --config configs/voc12/oaa_vgg16_paper.yaml --config": all_accepted,
    "oaa reproduce table11": all_accepted,
    "make sweep-demo": all_accepted,
}


def line_of(block: Block) -> str | None:
    """The line of the table that a block belongs to."""
    return next((start for start in VERIFIED if block.text.startswith(start)), None)


def test_every_block_is_verified():
    unknown = [f"line {b.line}: {b.text[:60]!r}" for b in blocks_of(README) if line_of(b) is None]
    assert not unknown, "say in VERIFIED how these are held"
    gone = set(VERIFIED) - {line_of(block) for block in blocks_of(README)}
    assert not gone, "these blocks are no longer there"


@pytest.mark.slow
@pytest.mark.parametrize("block", blocks_of(README), ids=lambda b: f"line{b.line}")
def test_a_block(block, demo_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("VOC2012", "demo-data"):
        (tmp_path / name).symlink_to(demo_data)
    (tmp_path / "saliency").mkdir()
    VERIFIED[line_of(block)](block, capsys)


@pytest.fixture(scope="module")
def own_images(demo_data, tmp_path_factory) -> Path:
    """The folder in which the block on one's own images has run, word for word but small."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "my-images").symlink_to(demo_data)
    (folder / "holiday").mkdir()
    for photo in sorted((demo_data / "JPEGImages").iterdir())[:2]:
        shutil.copy(photo, folder / "holiday")
    (text,) = [b.text for b in blocks_of(README) if b.text.startswith("oaa data check my-images")]
    assert text.count("--until segment") == 1
    # A comment must not swallow what is added.
    text = text.replace("--until segment", f"--until segment --workers 1 {SETTINGS}")
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", text],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_ones_own_images_are_segmented(own_images):
    masks = sorted(path.name for path in (own_images / "segmented").rglob("*.png"))
    for photo in (own_images / "holiday").iterdir():
        assert f"{photo.stem}.png" in masks


@pytest.mark.slow
def test_a_run_leaves_what_the_tree_shows(own_images):
    (tree,) = [b.text for b in blocks_of(README) if b.text.startswith("runs/demo/")]
    shown: list[str] = []
    parent = ""
    for line in tree.splitlines()[1:]:
        name = line.split()[0].replace("-0381e15756", "-*").replace("-.../", "-*/")
        parent = "" if line.startswith("  ") and not line.startswith("    ") else parent
        shown.append(parent + name)
        if line.startswith("  ") and not line.startswith("    ") and name.count("/") == 1:
            parent = name
    made = own_images / "runs" / "mine"
    assert {"report.html", "pipeline.json", "classify-*/metrics.jsonl", "labels-*/labels/"} <= set(
        shown
    )
    # Its last stage wants masks, which one's own images do not have.
    missing = [name for name in shown if not list(made.glob(name.rstrip("/")))]
    assert missing == ["evaluate-*/"]
