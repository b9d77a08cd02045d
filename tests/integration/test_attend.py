"""`oaa attend`: the maps of a finished run, on one and on two processes, and how it refuses."""

import csv
import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from dist_oaa.cli import run as oaa
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.model import ModelConfig
from dist_oaa.config.run import EvaluateConfig
from dist_oaa.data.sources import open_image_set
from dist_oaa.models.backbones import build_trunk
from dist_oaa.stages.tally import MapTally
from dist_oaa.store.reader import StoreReader
from processes import Running, alone, run, torchrun
from runs import settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]

VIEWS = ["--views.scales", "[0.75,1.0]", "--views.flip", "--views.combine", "max"]


@pytest.fixture(scope="module")
def finished(demo_data, tmp_path_factory) -> Path:
    """A classifier that attends to something, measured on all its images.

    timm's own random weights give features near zero, so that biases alone would decide.
    """
    folder = tmp_path_factory.mktemp("attend")
    body = build_trunk(ModelConfig(backbone="test_efficientnet")).body
    generator = torch.Generator().manual_seed(1)
    for layer in body.modules():
        if isinstance(layer, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(layer.weight, generator=generator)
    save_file(body.state_dict(), folder / "trunk.safetensors")
    strong = {"model.weights": folder / "trunk.safetensors", "model.head_layers": 0}
    oaa(settings(demo_data, folder / "run", **strong, **{"optim.epochs": 1, "optim.lr": 1e-4}))
    return folder / "run"


def arguments(finished: Path, out: Path, *more: object) -> list[str]:
    quick = ["--map_size", "16", "--data.workers", "0", "--runtime.log_every", "1"]
    quick += ["--runtime.timeout_s", "60", "--runtime.device", "cpu"]
    return ["attend", "--checkpoint", str(finished), "--run_dir", str(out), *quick, *map(str, more)]


def last(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_one_plain_view_is_the_cam_of_the_final_classifier(finished, tmp_path, capsys):
    oaa(arguments(finished, tmp_path / "out"))
    cam, attention = last(finished), last(tmp_path / "out")
    assert (attention["stage"], attention["epoch"], attention["step"]) == ("attend", 0, 4)
    assert cam["cam/recall"] > 0
    for name in ("recall", "noise", "seed_miou"):
        # Eight bits move pixels that lie at a threshold.
        assert attention[f"attention/{name}"] == pytest.approx(cam[f"cam/{name}"], abs=0.01), name
    text = capsys.readouterr().out
    shown = re.search(r"attention \(scale 1\) │ +([\d.]+) │ +([\d.]+) │ +([\d.]+) at", text)
    figures = [attention[f"attention/{name}"] for name in ("recall", "noise", "seed_miou")]
    assert [float(x) for x in shown.groups()] == [round(100 * x, 1) for x in figures]
    assert "supervision: image-level labels from labels.csv" in text
    assert f"checkpoint {finished} at step 4" in text
    assert "masks were read for these figures only" in text


def test_what_it_leaves(finished, demo_data, tmp_path):
    out = tmp_path / "out"
    oaa(arguments(finished, out, *VIEWS))
    assert {p.name for p in out.iterdir()} == {
        "attention", "classes.txt", "config.yaml", "metrics.jsonl", "pictures", "tensorboard",
    }  # fmt: skip
    assert (out / "classes.txt").read_text() == (out / "attention/classes.txt").read_text()
    with Image.open(out / "pictures/attention.png") as picture:
        assert picture.width > 400
    with open(out / "attention/pairs.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    names = (out / "classes.txt").read_text().splitlines()
    manifest = StoreReader(finished).manifest
    pairs = {
        (name, names[c])
        for name, classes in zip(manifest.image_ids, manifest.classes, strict=True)
        for c in classes
    }
    assert {(row["image_id"], row["class"]) for row in rows} == pairs
    assert len(rows) == len(pairs)
    data = DataConfig(root=str(demo_data), split="trainval")
    tally = MapTally(EvaluateConfig(), data.root, open_image_set(data))
    tally.add_records(
        (row["image_id"], names.index(row["class"]),
         np.asarray(Image.open(out / "attention" / row["file"])))
        for row in rows
    )  # fmt: skip
    metrics = last(out)
    for name, value in tally.figures("attention").items():
        assert metrics[name] == value, name
    # The maps can become a store, as any folder of maps can.
    oaa(["store", "import", str(out / "attention"), str(tmp_path / "store")])
    assert StoreReader(tmp_path / "store").manifest.pairs == len(pairs)


def test_two_processes_write_the_same_bytes(finished, tmp_path):
    for ranks in (1, 2):
        asked = arguments(finished, tmp_path / f"out{ranks}", *VIEWS, "--batch_size", 5)
        asked += ["--data.resize", "short_side"]  # padded batches
        command = alone(*asked) if ranks == 1 else torchrun(2, "-m", "dist_oaa", *asked)
        code, text = run(command, tmp_path / f"log{ranks}")
        assert code == 0, text
        assert text.count("supervision: ") == 1, "more than one rank prints"
        assert "Traceback" not in text
        assert "Warning" not in text
    assert files_of(tmp_path / "out1/attention") == files_of(tmp_path / "out2/attention")
    assert last(tmp_path / "out1") == last(tmp_path / "out2")
    assert last(tmp_path / "out1")["attention/recall"] > 0


def test_settings_of_the_run_are_inherited_and_can_be_changed(finished, tmp_path, demo_data):
    oaa(arguments(finished, tmp_path / "val", "--data.split", "val"))
    assert len(list((tmp_path / "val/attention").glob("*.png"))) < 24
    text = (tmp_path / "val/config.yaml").read_text()
    assert "split: val" in text
    assert "size: 64" in text
    assert "resize: square" in text
    (tmp_path / "file.yaml").write_text(f"data:\n  root: {demo_data}\n  size: 32\n")
    oaa(arguments(finished, tmp_path / "file", "--config", tmp_path / "file.yaml"))
    text = (tmp_path / "file/config.yaml").read_text()
    assert "size: 32" in text
    assert "split: train\n" in text
    assert "resize: square" in text


def refused(command: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        oaa(command)
    assert "\n" not in str(caught.value)


def test_mistakes(finished, tmp_path, demo_data):
    out = tmp_path / "out"
    refused(arguments(finished, out)[3:] and ["attend", "--run_dir", str(out)], "checkpoint is em")
    refused(arguments(tmp_path / "none", out), "none is no run directory")
    refused(arguments(finished, finished), "run_dir .* holds a training run")
    other = Path(shutil.copytree(demo_data, tmp_path / "other"))
    classes = (other / "classes.txt").read_text().splitlines()
    (other / "classes.txt").write_text("\n".join(classes[::-1]) + "\n")
    refused(arguments(finished, out, "--data.root", other), "6 classes .* in their order")
    refused(arguments(finished, out, "--precision", "fp16"), "fp16 needs a GPU")
    refused(arguments(finished, out, "--evaluate.saliency_dir", "nowhere"), "nowhere is no folder")
    assert not out.exists(), "nothing is begun before all is checked"
    (out / "attention").mkdir(parents=True)
    (out / "attention" / "pairs.csv").write_text("file\n")
    refused(arguments(finished, out), "attention exists.*never overwritten")
    assert [p.name for p in out.iterdir()] == ["attention"]


def test_a_bad_image_on_one_rank_stops_both_with_one_sentence(finished, demo_data, tmp_path):
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    bad = sorted((root / "JPEGImages").iterdir())[-1]
    bad.write_bytes(b"")
    asked = arguments(finished, tmp_path / "out", "--data.root", root)
    asked += ["--data.split", "trainval"]
    code, text = run(torchrun(2, "-m", "dist_oaa", *asked), tmp_path / "log")
    assert code != 0
    assert text.count("oaa: error:") == 1, text
    assert f"{bad} cannot be read" in text
    assert not list((tmp_path / "out").iterdir())
    oaa([*asked, "--data.on_bad_image", "skip"])
    rows = (tmp_path / "out/attention/pairs.csv").read_text().splitlines()
    assert [row for row in rows if row.startswith(",")]


def slow(finished: Path, out: Path) -> list[str]:
    """Long enough to be interrupted: one image a step, many views."""
    return arguments(finished, out, "--batch_size", 1, "--views.scales", str([4.0] * 24))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_off_leaves_no_maps_and_can_be_repeated(finished, tmp_path, number):
    out = tmp_path / "out"
    started = Running(alone(*slow(finished, out)), tmp_path / "log")
    try:
        started.wait_until(lambda: "step 2/24" in started.text(), 60)
        os.kill(started.process.pid, number)
        code = started.wait(60)
    finally:
        if started.process.poll() is None:
            started.kill()
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        assert [p.name for p in out.iterdir()] == [".attention.tmp"]
    else:
        assert code == 75, started.text()
        assert f"stopped by {number.name} after" in started.text()
        assert list(out.iterdir()) == []
    oaa(arguments(finished, out))
    assert {p.name for p in out.iterdir()} >= {"attention", "metrics.jsonl"}
    assert not list(out.glob(".*"))
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 1
