"""`oaa segment` in whole runs: on any number of ranks, from any labels, and what it refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.data.images import read_image
from dist_oaa.stages.trained_segmenter import load_segmenter
from processes import run, torchrun
from runs import labels_from_masks, segment_settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def labels(demo_data, tmp_path_factory) -> Path:
    return labels_from_masks(demo_data, tmp_path_factory.mktemp("labels") / "run")


@pytest.fixture(scope="module")
def on_ranks(demo_data, labels, tmp_path_factory):
    """Run directory and output of the same training on one rank and on two."""
    folder, done = tmp_path_factory.mktemp("segment"), {}
    for ranks in (1, 2):
        run_dir = folder / f"run{ranks}"
        # Five images a step: ranks get two or three, and one of them may get none in the last.
        flags = segment_settings(demo_data, labels, run_dir, optim__batch_size=5)
        code, text = run(torchrun(ranks, "-m", "dist_oaa", *flags), folder / f"log{ranks}")
        assert code == 0, text
        done[ranks] = run_dir, text
    return done


def epochs_of(run_dir: Path) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


def test_what_it_prints(on_ranks, labels):
    _, text = on_ranks[2]
    for said in (
        f"16 of 16 images, labels from {labels / 'labels'}",
        "measured on 8 images of the list val",
        "IoU by class, %",
        f"supervision: label images of {labels / 'labels'} for 16 of 16 images",
        "the labels: image-level labels from labels.csv; CRF none",
        "masks of the list val were read for these figures only",
    ):
        assert said in text, text
    assert text.count("16 of 16 images, ") == 1, "more than one rank prints"
    assert "Traceback" not in text
    assert "Warning" not in text


def test_what_it_leaves(on_ranks):
    run_dir, _ = on_ranks[2]
    assert {path.name for path in run_dir.iterdir()} == {
        "checkpoints", "classes.txt", "config.yaml", "heartbeat.json", "leases", "launchers.json",
        "metrics.jsonl", "pictures",
        "supervision.json", "tensorboard",
    }  # fmt: skip
    assert {p.name for p in (run_dir / "pictures").iterdir()} == {
        "inputs.png", "predictions", "predictions.png",
    }  # fmt: skip
    trained = load_segmenter(run_dir)
    assert trained.step == 8
    assert trained.supervision[1] == "the labels: image-level labels from labels.csv; CRF none"


def test_two_ranks_follow_one(on_ranks):
    one, two = (on_ranks[ranks][0] for ranks in (1, 2))
    weights, others = weights_of(one), weights_of(two)
    assert weights.keys() == others.keys()
    # AdamW divides by tiny second moments: rounding shows more than with SGD.
    for name in (n for n in weights if n.startswith("model.")):
        np.testing.assert_allclose(others[name], weights[name], rtol=1e-2, atol=2e-4, err_msg=name)
    for mine, theirs in zip(epochs_of(one), epochs_of(two), strict=True):
        for name in ("train/labelled_pixels", "train/blank_crops", "train/true_masks"):
            assert mine[name] == theirs[name], name
        assert mine["train/epoch_loss"] == pytest.approx(theirs["train/epoch_loss"], rel=1e-3)
        assert mine["segmentation/pixel_accuracy"] == pytest.approx(
            theirs["segmentation/pixel_accuracy"], abs=0.02
        )
    assert epochs_of(one)[-1]["train/blank_crops"] == 1
    assert 0.8 < epochs_of(one)[-1]["train/labelled_pixels"] < 1


def test_the_last_figures_are_those_of_the_saved_network(demo_data, on_ranks):
    """Counted anew: the whole image in one forward pass, a naive IoU over all pixels."""
    run_dir, _ = on_ranks[1]
    network = load_segmenter(run_dir).network
    names = (demo_data / "ImageSets/Segmentation/val.txt").read_text().split()
    predicted, truth = [], []
    for name in names:
        image = torch.from_numpy(read_image(demo_data / f"JPEGImages/{name}.jpg", 1))
        image_13HW = image.permute(2, 0, 1)[None]
        rows, columns = image_13HW.shape[-2:]
        padded = network.normalisation.apply(image_13HW)
        padded = torch.nn.functional.pad(padded, (0, -columns % 16, 0, -rows % 16))
        with torch.no_grad():
            scores = torch.nn.functional.interpolate(
                network(padded), size=padded.shape[-2:], mode="bilinear"
            )
        predicted.append(scores[0, :, :rows, :columns].argmax(0).numpy().ravel())
        with Image.open(demo_data / f"SegmentationClass/{name}.png") as mask:
            truth.append(np.asarray(mask).ravel())
    predicted, truth = np.concatenate(predicted), np.concatenate(truth)
    known = truth != 255
    ious = []
    for label in range(7):
        a, b = predicted[known] == label, truth[known] == label
        if (a | b).any():
            ious.append((a & b).sum() / (a | b).sum())
    assert epochs_of(run_dir)[-1]["segmentation/miou"] == pytest.approx(np.mean(ious), abs=1e-4)


def test_it_learns_and_true_masks_are_audited(demo_data, labels, tmp_path, capsys):
    mixed = {"data.pixel_fraction": 0.5, "optim.epochs": 1, "network.batch_norm": "train"}
    flags = segment_settings(demo_data, labels, tmp_path / "run", data__workers=1, **mixed)
    oaa(flags)
    text = capsys.readouterr().out
    assert "8 of them are trained on with their TRUE masks (data.pixel_fraction 0.5)" in text
    assert "TRUE MASKS of 8 of 16 images" in text
    assert epochs_of(tmp_path / "run")[-1]["train/true_masks"] == 0.5
    record = json.loads((tmp_path / "run" / "supervision.json").read_text())
    assert (record["images"], record["true_masks"]) == (16, 8)
    oaa([*flags, "--resume"])
    assert "is complete: 1 epochs were done before" in capsys.readouterr().out


def refused(data: Path, labels: Path, run_dir: Path, match: str, **changes) -> None:
    with pytest.raises(UserError, match=match) as caught:
        oaa(segment_settings(data, labels, run_dir, **changes))
    assert "\n" not in str(caught.value)


def test_mistakes_that_are_seen_before_anything_is_written(demo_data, labels, tmp_path):
    run_dir = tmp_path / "run"
    refused(demo_data, tmp_path / "none", run_dir, "none is no folder, expected a run of")
    refused(demo_data, labels, run_dir, r"nil\.txt does not exist \(evaluate.split is 'nil'\)",
            evaluate__split="nil")  # fmt: skip
    leak = {"data.split": "trainval", "data.pixel_fraction": 1.0}
    refused(demo_data, labels, run_dir, "true masks of 8 images that are measured", **leak)
    refused(demo_data, labels, run_dir, "network.backbone", network__backbone="resnet1")
    refused(demo_data, labels, run_dir, "no complete checkpoint", resume="true")
    copy = Path(shutil.copytree(labels, tmp_path / "labels"))
    names = (copy / "classes.txt").read_text().split()
    (copy / "classes.txt").write_text("\n".join(reversed(names)) + "\n")
    refused(demo_data, copy, run_dir, f"class 0 is '{names[-1]}' there, '{names[0]}' here")
    assert not run_dir.exists()


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_labels_and_images_that_cannot_be_used(demo_data, labels, tmp_path, policy, capsys):
    copy = Path(shutil.copytree(labels, tmp_path / "labels"))
    name = (demo_data / "ImageSets/Segmentation/train.txt").read_text().split()[3]
    flags = {"optim.epochs": 1, "data.on_bad_image": policy, "evaluate.split": ""}
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(copy / "labels" / f"{name}.png")
    refused(demo_data, copy, tmp_path / "run", f"{name}.png has 9 x 9 pixels", **flags)
    shutil.copy(labels / "labels" / f"{name}.png", copy / "labels" / f"{name}.png")
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    (root / "JPEGImages" / f"{name}.jpg").write_bytes(b"no image")
    if policy == "stop":
        refused(root, copy, tmp_path / "run", rf"{name}\.jpg cannot be read.*on_bad_image", **flags)
        return
    oaa(segment_settings(root, copy, tmp_path / "run", **flags))
    assert f"{name}.jpg cannot be read" in capsys.readouterr().out
    assert epochs_of(tmp_path / "run")[-1]["train/skipped_images"] == 1
