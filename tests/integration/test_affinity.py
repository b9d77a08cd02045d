"""`oaa affinity` in whole runs: on any number of ranks, and what it learns from drawn scenes."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from affinity_runs import affinity_settings
from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.data.images import read_image, read_mask
from dist_oaa.stages.learned_affinity import load_affinity
from dist_oaa.stages.pairing.stage import PairStage
from processes import run, torchrun
from runs import assert_same_weights, settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def labels(demo_data) -> Path:
    """Exact label images, open along the outlines: what confident pseudo labels would be."""
    return demo_data / "SegmentationClass"


@pytest.fixture(scope="module")
def on_ranks(demo_data, labels, tmp_path_factory):
    """Run directories of the same training on one rank and on two, and what the two printed."""
    folder, done = tmp_path_factory.mktemp("affinity"), {}
    for ranks in (1, 2):
        run_dir = folder / f"run{ranks}"
        flags = affinity_settings(demo_data, labels, run_dir)
        if ranks == 1:
            oaa(flags)
        else:
            command = torchrun(ranks, "-m", "dist_oaa", *flags)
            code, text = run(command, folder / "log", seconds=240)
            assert code == 0, text
        done[ranks] = run_dir
    return done | {"text": text}


def epochs_of(run_dir: Path) -> list[dict]:
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line.get("closes_epoch")]


def test_what_it_prints(on_ranks, labels):
    text = on_ranks["text"]
    for said in (
        f"labels: {labels}",
        "cells of 8 px, compared up to 3 cells apart by 24 features",
        "both of one class",
        "supervision: image-level labels",
        "oaa pseudo-label --labels.refine '[random_walk]'",
    ):
        assert said in text
    assert text.count("24 images, ") == 1, "more than one rank prints"
    assert "Traceback" not in text
    assert "Warning" not in text


def test_what_it_leaves(on_ranks):
    run_dir = on_ranks[2]
    assert {path.name for path in run_dir.iterdir()} == {
        "checkpoints", "classes.txt", "config.yaml", "heartbeat.json", "leases", "launchers.json",
        "metrics.jsonl", "pictures", "tensorboard",
    }  # fmt: skip
    assert [p.name for p in (run_dir / "pictures").iterdir()] == ["boundaries.png"]
    first, last = epochs_of(run_dir)
    assert last["train/epoch_loss"] < first["train/epoch_loss"]
    assert all(0 < last[f"affinity/{kind}"] < 1 for kind in ("background", "object", "across"))


def test_two_ranks_follow_one(on_ranks):
    one, two = (on_ranks[ranks] for ranks in (1, 2))
    weights, others = weights_of(one), weights_of(two)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, rtol=2e-3, atol=1e-4, err_msg=name)
    last, other = epochs_of(one)[-1], epochs_of(two)[-1]
    assert last["train/pairs_per_image"] == other["train/pairs_per_image"]
    assert last["train/epoch_loss"] == pytest.approx(other["train/epoch_loss"], rel=1e-4)


def test_a_signal_and_resume_change_nothing(demo_data, labels, on_ranks, tmp_path, monkeypatch):
    run_dir, forward = tmp_path / "run", PairStage.forward
    seen = []

    def interrupted(self, batch, epoch):
        seen.append(batch.ids)
        if len(seen) == 6:  # in the middle of the second epoch
            os.kill(os.getpid(), signal.SIGTERM)
        return forward(self, batch, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(PairStage, "forward", interrupted)
        with pytest.raises(Interrupted, match=r"SIGTERM in epoch 2"):
            oaa(affinity_settings(demo_data, labels, run_dir))
    assert len(seen) < 8
    oaa(affinity_settings(demo_data, labels, run_dir, resume="true"))
    assert_same_weights(on_ranks[1], run_dir)
    assert epochs_of(run_dir) == epochs_of(on_ranks[1])


def mean_affinities(learned, data: Path, names: list[str], radius: int) -> tuple[float, float]:
    """Mean affinity of neighbours inside one label and across two, by a loop over cells."""
    within, across = [], []
    for name in names:
        features_Dhw = learned.features(read_image(data / "JPEGImages" / f"{name}.jpg", 80))
        _, h, w = features_Dhw.shape
        mask_HW = read_mask(data / "SegmentationClass" / f"{name}.png")
        cells = np.asarray(Image.fromarray(mask_HW).resize((w, h), Image.Resampling.NEAREST))
        for y in range(h):
            for x in range(w - radius):
                labels = cells[y, x], cells[y, x + radius]
                if 255 in labels:
                    continue
                apart = np.abs(features_Dhw[:, y, x] - features_Dhw[:, y, x + radius]).mean()
                (within if labels[0] == labels[1] else across).append(np.exp(-apart))
    return float(np.mean(within)), float(np.mean(across))


def test_it_learns_objects_that_it_has_not_seen(demo_data, labels, tmp_path):
    """Trained on one list of scenes, measured on the other."""
    longer = {"data.split": "train", "optim.epochs": 16, "affinity.stride": 4, "data.size": 96}
    oaa(affinity_settings(demo_data, labels, tmp_path / "run", **longer))
    names = (demo_data / "ImageSets/Segmentation/val.txt").read_text().split()
    within, across = mean_affinities(load_affinity(tmp_path / "run"), demo_data, names, 2)
    assert within > across + 0.15, (within, across)
    untrained = {"optim.lr": 1e-12, "optim.epochs": 1}
    oaa(affinity_settings(demo_data, labels, tmp_path / "still", **longer | untrained))
    before, between = mean_affinities(load_affinity(tmp_path / "still"), demo_data, names, 2)
    assert within - across > 1.5 * (before - between)


def test_starts_from_the_trunk_of_a_classifier(demo_data, labels, tmp_path, capsys):
    classified = tmp_path / "classified"
    oaa(settings(demo_data, classified, **{"optim.epochs": 1, "runtime.threads": 1}))
    still = {"affinity.init": classified, "optim.epochs": 1, "optim.lr": 1e-12}
    oaa(affinity_settings(demo_data, labels, tmp_path / "run", **still))
    assert f"trunk of {classified}, step 4" in capsys.readouterr().out
    given, found = weights_of(classified), weights_of(tmp_path / "run")
    trunk = [name for name in found if name.startswith("model.trunk.")]
    assert len(trunk) > 20
    for name in trunk:
        np.testing.assert_allclose(found[name], given[name], rtol=0, atol=1e-8, err_msg=name)


def test_two_folders_of_labels(demo_data, labels, tmp_path):
    """Without background in the first folder there are no pairs of background, and so on."""
    for name, keep in (("objects", lambda x: x > 0), ("behind", lambda x: x == 0)):
        for path in labels.glob("*.png"):
            mask_HW = read_mask(path)
            (tmp_path / name).mkdir(exist_ok=True)
            kept = np.where(keep(mask_HW), mask_HW, np.uint8(255))
            Image.fromarray(kept).save(tmp_path / name / path.name)
    once = {"optim.epochs": 1, "background_labels": tmp_path / "behind"}
    oaa(affinity_settings(demo_data, tmp_path / "objects", tmp_path / "two", **once))
    oaa(affinity_settings(demo_data, labels, tmp_path / "one", **{"optim.epochs": 1}))
    (two,), (one,) = epochs_of(tmp_path / "two"), epochs_of(tmp_path / "one")
    assert two["train/epoch_loss"] == one["train/epoch_loss"]
    del once["background_labels"]
    oaa(affinity_settings(demo_data, tmp_path / "objects", tmp_path / "half", **once))
    (half,) = epochs_of(tmp_path / "half")
    assert half["affinity/background"] is None
    assert half["affinity/object"] == pytest.approx(one["affinity/object"], abs=0.2)


def refused(data: Path, labels: Path, run_dir: Path, match: str, **changes: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        oaa(affinity_settings(data, labels, run_dir, **changes))
    assert "\n" not in str(caught.value)


def test_mistakes_before_anything_is_written(demo_data, labels, tmp_path, on_ranks):
    run_dir = tmp_path / "run"
    refused(demo_data, tmp_path / "nowhere", run_dir, "nowhere is no folder")
    refused(demo_data, labels, run_dir, "no complete checkpoint", resume="true")
    refused(demo_data, labels, run_dir, "model.variant is acol", model__variant="acol")
    refused(demo_data, labels, run_dir, "is no run directory", affinity__init=tmp_path)
    refused(demo_data, labels, run_dir, "affinity.levels is ", affinity__levels="[2, 1, 0]")
    some = Path(shutil.copytree(labels, tmp_path / "some"))
    next(iter(sorted(some.glob("*.png")))).unlink()
    refused(demo_data, some, run_dir, r"demo_00000\.png is missing")
    assert not run_dir.exists()
    refused(demo_data, labels, on_ranks[1], "holds an earlier run")


@pytest.mark.parametrize("value", [7, None])
def test_labels_of_something_else(value, demo_data, labels, tmp_path):
    """An unknown class, and another size: both stop the run although bad images are skipped."""
    other = Path(shutil.copytree(labels, tmp_path / "other"))
    path = other / "demo_00003.png"
    mask_HW = read_mask(path)
    wrong_HW = mask_HW[1:] if value is None else np.full_like(mask_HW, value)
    Image.fromarray(wrong_HW).save(path)
    sentence = r"demo_00003\.png (has \d+ x|holds the value 7)"
    refused(demo_data, other, tmp_path / "run", sentence, data__on_bad_image="skip")


def test_an_unreadable_image_can_be_skipped(demo_data, labels, tmp_path, capsys):
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    (root / "JPEGImages" / "demo_00005.jpg").write_bytes(b"no image")
    refused(root, labels, tmp_path / "stopped", r"demo_00005\.jpg")
    skip = {"data.on_bad_image": "skip", "optim.epochs": 1, "affinity.gallery": 24}
    oaa(affinity_settings(root, labels, tmp_path / "run", **skip))
    assert "skipped: " in capsys.readouterr().out
    (last,) = epochs_of(tmp_path / "run")
    assert last["train/skipped_images"] == 1


def test_what_is_no_affinity_run(demo_data, tmp_path, on_ranks):
    with pytest.raises(UserError, match="expected the folder of a run of oaa affinity"):
        load_affinity(tmp_path)
    run_dir = Path(shutil.copytree(on_ranks[1], tmp_path / "run"))
    settings_file = run_dir / "config.yaml"
    text = settings_file.read_text()
    settings_file.write_text(text.replace("affinity:", "other:"))
    with pytest.raises(UserError, match="describes no affinity network"):
        load_affinity(run_dir)
    settings_file.write_text(text.replace("- 8\n", "- 9\n"))
    with pytest.raises(UserError, match="does not fit the network"):
        load_affinity(run_dir)
    shutil.rmtree(run_dir / "checkpoints")
    settings_file.write_text(text)
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_affinity(run_dir)
