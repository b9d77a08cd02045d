"""`oaa evaluate`: a network's and a folder's label images, on one and on two processes, and how it
refuses."""

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
from torchmetrics.classification import MulticlassJaccardIndex

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import UserError
from dist_oaa.config.labels import CrfConfig
from dist_oaa.config.segment import SegmentDataConfig
from dist_oaa.data.demo_creatures import CLASSES
from dist_oaa.data.palette import voc_palette, write_label
from dist_oaa.labels.crf import crf_on_present
from dist_oaa.models.segmentation.scoring import Scorer
from dist_oaa.stages.trained_segmenter import load_segmenter
from processes import Running, alone, children, run, torchrun, wait_until_gone
from segmenters import segmenter_run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def finished(demo_data, tmp_path_factory) -> Path:
    """A network that gives different pixels different classes."""
    run_dir = tmp_path_factory.mktemp("evaluate") / "run"
    return segmenter_run(run_dir, CLASSES, SegmentDataConfig(root=str(demo_data)))


def arguments(out: Path, *more: object) -> list[str]:
    quick = ["--runtime.log_every", "1", "--runtime.timeout_s", "60", "--runtime.device", "cpu"]
    return ["evaluate", "--run_dir", str(out), *quick, *map(str, more)]


def summary(run_dir: Path) -> dict:
    return json.loads((run_dir / "evaluation.json").read_text())


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.png")}


def val_list(root: Path) -> list[str]:
    return (root / "ImageSets/Segmentation/val.txt").read_text().split()


def label(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def plain(finished, tmp_path_factory) -> Path:
    """The evaluation of the network with nothing set."""
    out = tmp_path_factory.mktemp("plain") / "out"
    oaa(arguments(out, "--checkpoint", finished, "--save_predictions"))
    return out


def test_what_it_leaves(plain, finished, demo_data):
    assert {p.name for p in plain.iterdir()} == {
        "classes.txt", "config.yaml", "evaluation.json", "metrics.jsonl", "pictures",
        "predictions", "tensorboard",
    }  # fmt: skip
    assert sorted(p.name for p in (plain / "pictures").iterdir()) == [
        "confusion.png", "predictions.png",
    ]  # fmt: skip
    assert (plain / "classes.txt").read_text().split() == list(CLASSES)
    names = val_list(demo_data)
    assert set(files_of(plain / "predictions")) == {f"{name}.png" for name in names}
    with Image.open(plain / "predictions" / f"{names[0]}.png") as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[:21] == voc_palette().ravel()[:21].tolist()
    result = summary(plain)
    assert (result["images"], result["measured"], result["step"]) == (8, 8, 7)
    line = json.loads((plain / "metrics.jsonl").read_text())
    assert (line["stage"], line["epoch"], line["step"]) == ("evaluate", 0, 7)
    for name, value in result["metrics"].items():
        assert line[name] == value
    for row in result["per_class"]:
        assert line[f"per_class/segmentation/iou/{row['class']}"] == row["iou"]
    assert np.sum(result["confusion"]) == sum(
        np.count_nonzero(label(demo_data / "SegmentationClass" / f"{name}.png") != 255)
        for name in names
    )


def test_the_figures_are_those_of_torchmetrics(plain, demo_data):
    jaccard = MulticlassJaccardIndex(len(CLASSES) + 1, average="none", ignore_index=255)
    for name in val_list(demo_data):
        truth = label(demo_data / "SegmentationClass" / f"{name}.png").astype(np.int64)
        prediction = label(plain / "predictions" / f"{name}.png").astype(np.int64)
        jaccard.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    expected = jaccard.compute().numpy()
    result = summary(plain)
    assert len(np.unique(expected.round(4))) > 3, "the network should tell classes apart"
    for row in result["per_class"]:
        assert row["iou"] == pytest.approx(expected[row["label"]], abs=1e-6)
    present = [expected[row["label"]] for row in result["per_class"]]
    assert result["metrics"]["segmentation/miou"] == pytest.approx(np.mean(present), abs=1e-6)


def test_a_folder_of_label_images_has_the_same_figures(
    plain, finished, demo_data, tmp_path, capsys
):
    for given in (plain, plain / "predictions"):
        out = tmp_path / given.name
        oaa(arguments(out, "--predictions", given, "--data.root", demo_data))
        for key in ("metrics", "per_class", "confusion", "measured"):
            assert summary(out)[key] == summary(plain)[key], key
        text = capsys.readouterr().out
        assert f"supervision: label images of {plain / 'predictions'}" in text
        assert f"network of {finished} at step 7; CRF none" in text
        assert text.count("masks were read") == 1
    # The truth itself, ignored outlines and all, in a pool of processes.
    asked = arguments(tmp_path / "truth", "--predictions", demo_data / "SegmentationClass")
    oaa([*asked, "--data.root", str(demo_data), "--data.split", "trainval", "--processes", "2"])
    metrics = summary(tmp_path / "truth")["metrics"]
    assert metrics.pop("segmentation/ignored") == 0
    assert metrics.keys() == {f"segmentation/{n}" for n in ("miou", "boundary_f",
                              "pixel_accuracy", "mean_accuracy")}  # fmt: skip
    assert set(metrics.values()) == {1.0}


def test_two_processes_write_the_same_bytes(finished, demo_data, tmp_path):
    views = ["--views.scales", "[0.75,1.0]", "--views.flip", "--crf", "--save_predictions"]
    for ranks in (1, 2):
        out = tmp_path / f"out{ranks}"
        # An odd number of images: one rank has one less, and nothing is counted twice.
        asked = arguments(out, "--checkpoint", finished, "--data.limit", 7, *views)
        command = alone(*asked) if ranks == 1 else torchrun(2, "-m", "dist_oaa", *asked)
        code, text = run(command, tmp_path / f"log{ranks}")
        assert code == 0, text
        assert text.count("supervision: ") == 1, "more than one rank prints"
        assert "Traceback" not in text
        assert "Warning" not in text
        assert max(map(len, re.findall(r"^[┏┃│└].*$", text, re.MULTILINE))) <= 80
    one, two = tmp_path / "out1", tmp_path / "out2"
    assert files_of(one / "predictions") == files_of(two / "predictions")
    assert (one / "evaluation.json").read_bytes() == (two / "evaluation.json").read_bytes()
    result = summary(one)
    assert result["images"] == 7
    assert result["crf"]["iterations"] == 10
    # The same by hand.
    scorer = Scorer(load_segmenter(finished).network, scales=[0.75, 1.0], flip=True)
    for name in val_list(demo_data)[:2]:
        image = np.array(Image.open(demo_data / "JPEGImages" / f"{name}.jpg"))
        expected = crf_on_present(image, scorer.probabilities(image).numpy(), CrfConfig())
        same = label(one / "predictions" / f"{name}.png") == expected
        assert same.mean() > 0.999, "but for the order of float sums"


def test_a_list_without_masks_and_labels_can_be_submitted(finished, demo_data, tmp_path, capsys):
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    names = val_list(root)
    (root / "ImageSets/Segmentation/test.txt").write_text("\n".join(names[:3]) + "\n")
    for name in names[:2]:
        (root / "SegmentationClass" / f"{name}.png").unlink()
    rows = (root / "labels.csv").read_text().splitlines()
    kept = [row for row in rows if not row.startswith(names[0])]
    (root / "labels.csv").write_text("\n".join(kept) + "\n")
    asked = arguments(tmp_path / "out", "--checkpoint", finished, "--data.root", root)
    asked += ["--data.split", "test"]
    refused(asked, f"2 of 3 images .* no mask.*the first is {names[0]}")
    oaa([*asked, "--submission", str(tmp_path / "send"), "--competition", "comp6"])
    folder = tmp_path / "send/results/VOC2012/Segmentation/comp6_test_cls"
    assert sorted(p.name for p in folder.parent.rglob("*")) == sorted(
        ["comp6_test_cls", *(f"{name}.png" for name in names[:3])]
    )
    assert (summary(tmp_path / "out")["images"], summary(tmp_path / "out")["measured"]) == (3, 1)
    text = capsys.readouterr().out
    assert "2 images have no mask and are not measured" in text
    assert "tar -C" in text


def refused(command: list[str], match: str) -> None:
    with pytest.raises(UserError, match=match) as caught:
        oaa(command)
    assert "\n" not in str(caught.value)


def test_mistakes(finished, plain, demo_data, tmp_path):
    out = tmp_path / "out"
    mine = arguments(out, "--checkpoint", finished)
    folder = arguments(out, "--data.root", demo_data, "--predictions")
    refused(arguments(out), "both are empty")
    refused([*mine, "--predictions", str(plain)], "both are set")
    refused(arguments(out, "--checkpoint", demo_data), "is no run directory")
    refused([*folder, str(tmp_path / "none")], "none is no folder")
    refused([*folder, str(plain), "--crf"], "crf needs a network's probabilities")
    refused([*mine, "--views.combine", "max"], "views.combine is max, expected mean")
    refused([*mine, "--precision", "fp16"], "fp16 needs a GPU")
    refused([*mine, "--overlap", "63", "--tile", "64"], "overlap")
    refused([*mine, "--data.split", "nowhere"], "nowhere.txt does not exist")
    refused(arguments(finished, "--checkpoint", finished), "holds another run .checkpoints/")
    refused(arguments(plain, "--checkpoint", finished), "evaluation.json exists.*never overwritten")
    other = Path(shutil.copytree(demo_data, tmp_path / "other"))
    (other / "classes.txt").write_text("\n".join(CLASSES[::-1]) + "\n")
    refused(
        [*mine, "--data.root", str(other)], "other classes than the checkpoint .*class 0 is 'snail'"
    )
    refused(
        arguments(out, "--data.root", other, "--predictions", plain), "other classes than the label"
    )
    assert not out.exists(), "nothing is begun before all is checked"


def test_masks_and_label_images_that_cannot_be_used(finished, plain, demo_data, tmp_path):
    name = val_list(demo_data)[3]
    good = label(demo_data / "SegmentationClass" / f"{name}.png")
    short, strange = good[:-1], np.where(good == 0, 9, good).astype(np.uint8)
    height, width = good.shape
    given = Path(shutil.copytree(plain / "predictions", tmp_path / "given"))
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    mask, prediction = root / "SegmentationClass" / f"{name}.png", given / f"{name}.png"
    network = arguments(tmp_path / "out", "--checkpoint", finished, "--save_predictions")
    network += ["--data.root", str(root)]
    folder = arguments(tmp_path / "out", "--predictions", given, "--data.root", root)
    write_label(mask, short)
    photo = root / "JPEGImages" / f"{name}.jpg"
    refused(network, f"mask {mask} has {height - 1} x {width} pixels .*{photo}, {height} x {width}")
    write_label(mask, strange)
    refused(network, f"{mask}: truth holds palette value 9, expected 0 to 6, or 255")
    write_label(mask, good)
    write_label(prediction, short)
    refused(folder, f"mask {mask} has {height} x {width} .*{prediction}, {height - 1} x {width}")
    write_label(prediction, strange)
    refused(folder, f"{prediction} and .*: prediction holds palette value 9, expected 0 to 6")
    prediction.unlink()
    refused(folder, f"{prediction} does not exist, expected a label image for each image")
    shutil.copy(photo, prediction)
    refused(folder, f"{prediction} is a JPEG file")
    assert not list((tmp_path / "out").glob("*")), "nothing half-written is left"


def test_an_unreadable_image_is_named(finished, demo_data, tmp_path, capsys):
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    name = val_list(root)[2]
    bad = root / "JPEGImages" / f"{name}.jpg"
    bad.write_bytes(b"")
    asked = arguments(tmp_path / "out", "--checkpoint", finished, "--data.root", root)
    code, text = run(torchrun(2, "-m", "dist_oaa", *asked), tmp_path / "log")
    assert code != 0
    assert text.count("oaa: error:") == 1, text
    assert f"{bad} cannot be read" in text
    assert not (tmp_path / "out/evaluation.json").exists()
    oaa([*asked, "--data.on_bad_image", "skip"])
    result = summary(tmp_path / "out")
    assert (result["images"], list(result["skipped"])) == (7, [name])
    assert f"{bad} cannot be read" in result["skipped"][name]
    assert "1 images were skipped" in capsys.readouterr().out


def slow(finished: Path, out: Path) -> list[str]:
    """Long enough to be interrupted: many views, and a pool."""
    crf = ["--crf", "--processes", "1", "--dense_crf.iterations", "1000"]
    return arguments(out, "--checkpoint", finished, "--save_predictions", *crf)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_cut_off_leaves_no_results_and_no_process(finished, tmp_path, number):
    out = tmp_path / "out"
    started = Running(alone(*slow(finished, out)), tmp_path / "log")
    try:
        started.wait_until(lambda: list(out.glob(".predictions.tmp/*")), 90)
        family = children(started.process.pid)
        os.kill(started.process.pid, number)
        code = started.wait(60)
    finally:
        if started.process.poll() is None:
            started.kill()
    assert family
    wait_until_gone(family, 20)
    if number == signal.SIGTERM:
        assert code == 75, started.text()
        assert "stopped by SIGTERM" in started.text()
        assert list(out.iterdir()) == []
    else:
        assert [p.name for p in out.iterdir()] == [".predictions.tmp"]
    oaa(arguments(out, "--checkpoint", finished, "--save_predictions", "--data.limit", 2))
    assert summary(out)["images"] == 2
    assert not list(out.glob(".*"))


def test_a_worker_that_dies_ends_the_run(finished, tmp_path):
    out = tmp_path / "out"
    started = Running(alone(*slow(finished, out)), tmp_path / "log")
    try:
        started.wait_until(lambda: list(out.glob(".predictions.tmp/*")), 90)
        for pid in children(started.process.pid):
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
                os.kill(pid, signal.SIGKILL)
        code = started.wait(60)
    finally:
        if started.process.poll() is None:
            started.kill()
    assert code == 1, started.text()
    assert "a worker process died" in started.text()
    assert list(out.iterdir()) == []
