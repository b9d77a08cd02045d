"""Images of one class each, in whole runs: `oaa classify` by softmax, held-out images, and the
network of two branches as later stages see it."""

import csv
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.data.holdout import split_holdout
from dist_oaa.stages.trained import load_classifier
from runs import maps_of, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

HOLDOUT = {"data.holdout.fraction": 0.3, "data.holdout.seed": 1}


def table_of(demo_data: Path, root: Path, classes_of) -> Path:
    """The drawn scenes as a table; `classes_of` chooses among the classes of an image."""
    root.mkdir()
    shutil.copytree(demo_data / "JPEGImages", root / "images")
    (root / "classes.txt").write_bytes((demo_data / "classes.txt").read_bytes())
    with open(root / "birds.csv", "w", newline="") as table:
        writer = csv.writer(table)
        writer.writerow(["id", "path", "classes"])
        for name, classes in scenes(demo_data):
            writer.writerow([name, f"images/{name}.jpg", " ".join(classes_of(name, classes))])
    return root


def scenes(demo_data: Path) -> list[tuple[str, list[str]]]:
    """The names of the drawn scenes with their classes."""
    with open(demo_data / "labels.csv", newline="") as labels:
        return [(name, classes.split()) for name, classes in list(csv.reader(labels))[1:]]


def flags(root: Path, run_dir: Path, **changes: object) -> list[str]:
    table = {"data.layout": "table", "data.table": "birds.csv", "model.labels": "single"}
    return settings(root, run_dir, **table | {"optim.lr": 0.01} | changes)


@pytest.fixture(scope="module")
def root(demo_data, tmp_path_factory) -> Path:
    return table_of(demo_data, tmp_path_factory.mktemp("one") / "data", lambda _, names: names[:1])


@pytest.fixture(scope="module")
def finished(root, tmp_path_factory) -> Path:
    run_dir = tmp_path_factory.mktemp("two") / "run"
    changes = {"model.variant": "two_branch", "model.two_branch.start_epoch": 0}
    oaa(
        flags(root, run_dir, **changes | HOLDOUT | {"accumulate.gate": "prob", "accumulate.tau": 0})
    )
    return run_dir


def last_line(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])


def test_the_figures_are_those_of_one_class_an_image(finished):
    found = last_line(finished)
    assert 0 <= found["classifier/top1"] <= found["classifier/top5"] <= 1
    assert found["accept_rate"] == 1, "every probability is at least 0"
    # log 2 for the hybrid loss of F2 and less than that for its attended cells, at most; then CE.
    assert found["train/epoch_loss"] > found["train/branch_loss"] > 0
    assert found["train/attended_cells"] > 0


def test_held_out_images_have_no_map(root, finished):
    with open(root / "birds.csv", newline="") as table:
        ids = [row["id"] for row in csv.DictReader(table)]
    stay, out = split_holdout(ids, 0.3, 1)
    assert out
    assert {name for name, _ in maps_of(finished)} == set(stay)


def test_top_1_is_the_share_of_images_whose_class_scores_highest(root, tmp_path):
    """With one class to find, in evaluation mode and at the size that the run has seen."""
    oaa(flags(root, tmp_path / "run", **{"optim.epochs": 1, "optim.lr": 0.003}))
    trained = load_classifier(tmp_path / "run")
    with open(root / "birds.csv", newline="") as table:
        rows = list(csv.DictReader(table))
    right = 0
    for row in rows:
        image = cv2.imread(str(root / row["path"]))[:, :, ::-1].copy()
        image = cv2.resize(image, (64, 64), interpolation=cv2.INTER_AREA)
        image_B3HW = torch.from_numpy(image).permute(2, 0, 1)[None]
        with torch.no_grad():
            logits_BC = trained.model(trained.model.normalisation.apply(image_B3HW)).logits_BC
        right += trained.class_names[int(logits_BC.argmax())] == row["classes"]
    # Resizing may differ in last digits: one image may fall on either side.
    assert last_line(tmp_path / "run")["classifier/top1"] * len(rows) == pytest.approx(right, abs=1)


def test_attend_reads_the_second_branch(root, finished, tmp_path):
    oaa(["attend", "--checkpoint", str(finished), "--run_dir", str(tmp_path / "maps")])
    trained = load_classifier(finished)
    assert trained.activation == "sigmoid"
    assert trained.config.labels == "single"
    written = list((tmp_path / "maps" / "attention").rglob("*.png"))
    assert len(written) == 24, "all images of the table, those that were held out too"
    # A sigmoid is nowhere 0, and a map's maximum is 1: F1's ReLU would leave zeros.
    lowest = [cv2.imread(str(path), cv2.IMREAD_GRAYSCALE).min() for path in written]
    assert np.median(lowest) > 0


def refused(root: Path, run_dir: Path, match: str, **changes: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        oaa(flags(root, run_dir, **changes))
    assert "\n" not in str(caught.value)
    assert not run_dir.exists()


def test_an_image_of_two_classes_is_named(demo_data, tmp_path):
    several = next(name for name, classes in scenes(demo_data) if len(classes) > 1)
    one = table_of(
        demo_data, tmp_path / "data", lambda name, all_: all_ if name == several else all_[:1]
    )
    match = f"model.labels is single, but image '{several}' has [23] classes .*birds.csv.*multi"
    refused(one, tmp_path / "run", match)
    oaa(flags(one, tmp_path / "multi", **{"model.labels": "multi", "optim.epochs": 1}))


def test_one_class_in_all_is_no_choice(demo_data, tmp_path):
    alone = table_of(demo_data, tmp_path / "data", lambda *_: ["bird"])
    (alone / "classes.txt").write_text("bird\n")
    refused(alone, tmp_path / "run", "only the class 'bird', expected two or more")


def test_settings_under_which_nothing_would_be_taught(root, tmp_path):
    second = {"model.variant": "two_branch", "model.two_branch.start_epoch": 2}
    refused(root, tmp_path / "run", "start_epoch is 2 .*the run has 2 epochs", **second)
    early = {"model.two_branch.start_epoch": 0, "accumulate.start_epoch": 1}
    refused(root, tmp_path / "run", "before it there is no map", **second | early)
    nobody = {"data.holdout.fraction": 0.9999, "data.holdout.seed": 3}
    refused(root, tmp_path / "run", "leaves none of the 24 images", **nobody)
