"""`oaa localize`: figures that a brute force repeats, on one and on two processes, and refusals."""

import json
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import ndimage

from birds import NAMES, classifier_run, make_cub
from dist_oaa.cli import run as oaa
from dist_oaa.config.data import DataConfig, HoldoutConfig
from dist_oaa.config.errors import UserError
from processes import Running, alone, run, torchrun

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return make_cub(tmp_path_factory.mktemp("data") / "cub", train=16, test=11)


@pytest.fixture(scope="module")
def checkpoint(root, tmp_path_factory) -> Path:
    # A padded batch: images of one batch differ in size, which the figures must not depend on.
    data = DataConfig(root=str(root), size=64, workers=0, holdout=HoldoutConfig(fraction=0.4))
    return classifier_run(tmp_path_factory.mktemp("run") / "run", data, seed=3)


def arguments(checkpoint: Path, out: Path, *more: object) -> list[str]:
    quick = ["--map_size", "16", "--data.workers", "0", "--runtime.log_every", "1"]
    quick += ["--runtime.timeout_s", "60", "--runtime.device", "cpu", "--batch_size", "3"]
    start = ["localize", "--checkpoint", str(checkpoint), "--run_dir", str(out)]
    return [*start, *quick, *map(str, more)]


def boxes(out: Path) -> dict:
    return json.loads((out / "boxes.json").read_text())


def last(out: Path) -> dict:
    return json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])


def iou(one: list[float], other: list[float]) -> float:
    """Of (x0, y0, x1, y1)."""
    width = max(0.0, min(one[2], other[2]) - max(one[0], other[0]))
    height = max(0.0, min(one[3], other[3]) - max(one[1], other[1]))
    shared = width * height
    area = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other))
    return shared / (area - shared)


def test_the_figures_are_those_of_the_boxes(root, checkpoint, tmp_path, capsys):
    oaa(arguments(checkpoint, tmp_path / "out"))
    found, metrics = boxes(tmp_path / "out"), last(tmp_path / "out")
    assert (metrics["stage"], metrics["step"]) == ("localize", 9)
    assert len(found["images"]) == 11
    top1 = top5 = known = right = 0
    for image in found["images"]:
        (truth,), (true,) = image["truth"], image["true"]
        first = image["predicted"][0]
        hits = [
            guess["class"] == truth["class"] and iou(guess["box"], truth["box"]) >= 0.5
            for guess in image["predicted"]
        ]
        top1, top5 = top1 + hits[0], top5 + any(hits)
        known += iou(true["box"], truth["box"]) >= 0.5
        right += first["class"] == truth["class"]
        assert true["iou"] == pytest.approx(iou(true["box"], truth["box"]), abs=1e-6)
        probabilities = [guess["probability"] for guess in image["predicted"]]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        x0, y0, x1, y1 = true["box"]
        assert 0 <= x0 < x1 <= image["width"]
        assert 0 <= y0 < y1 <= image["height"]
    assert known > 0
    for name, count in (("top1", top1), ("top5", top5), ("gt_known", known)):
        assert metrics[f"localization/{name}"] == pytest.approx(count / 11), name
    assert metrics["localization/max_box_acc"] <= metrics["localization/max_box_acc_swept"]
    assert metrics["localization/max_box_acc_v2"] <= metrics["localization/max_box_acc_v2_swept"]
    assert metrics["classifier/top1"] == pytest.approx(right / 11)
    assert metrics["classifier/top5"] == 1
    assert "localization/pxap" not in metrics
    text = capsys.readouterr().out
    for phrase in ("validation list, frozen", "this list: an upper bound", "needs none"):
        assert phrase in text
    assert "supervision: image-level labels from image_class_labels.txt" in text
    assert "boxes from bounding_boxes.txt were read for these figures only" in text
    with Image.open(tmp_path / "out/pictures/localization.png") as picture:
        assert picture.height > 11 * 60


def test_the_threshold_is_the_best_of_the_validation_list(root, checkpoint, tmp_path):
    oaa(arguments(checkpoint, tmp_path / "out", "--threshold.count", 10))
    chosen = boxes(tmp_path / "out")
    # Each threshold by itself, fixed, on the held-out images as the reported list.
    held = [line.split()[0] for line in held_out_lines(root, checkpoint)]
    other = Path(shutil.copytree(root, tmp_path / "cub"))
    flags = (other / "train_test_split.txt").read_text().split("\n")
    lines = [f"{line.split()[0]} {int(line.split()[0] not in held)}" for line in flags if line]
    (other / "train_test_split.txt").write_text("\n".join(lines))
    scores = {}
    for threshold in np.arange(10) / 10:
        out = tmp_path / f"fixed-{threshold}"
        fixed = ["--threshold.choose", "fixed", "--threshold.value", threshold]
        oaa(arguments(checkpoint, out, *fixed, "--data.root", other, "--gallery", 0))
        assert len(boxes(out)["images"]) == len(held)
        scores[threshold] = last(out)["localization/gt_known"]
    best = [t for t, score in scores.items() if score == max(scores.values())]
    assert chosen["thresholds"]["box"] == best[len(best) // 2]
    assert chosen["validation"]["images"] == len(held)
    assert chosen["validation"]["metrics"]["gt_known"] == max(scores.values())


def held_out_lines(root: Path, checkpoint: Path) -> list[str]:
    """Lines of images.txt that the training held out."""
    from dist_oaa.data.holdout import split_holdout

    fraction = yaml.safe_load((checkpoint / "config.yaml").read_text())["data"]["holdout"]
    train = [
        line.split()[0]
        for line in (root / "train_test_split.txt").read_text().splitlines()
        if line.endswith(" 1")
    ]
    lines = [x for x in (root / "images.txt").read_text().splitlines() if x.split()[0] in train]
    ids = {line.split()[1].removesuffix(".jpg"): line for line in lines}
    return [ids[name] for name in split_holdout(list(ids), **fraction)[1]]


def test_two_processes_give_the_same_files(checkpoint, tmp_path):
    # As many threads a process: other sums in a convolution differ in the last bits.
    more = [
        "--runtime.threads",
        1,
        "--views.flip",
        "--crops.kind",
        "ten",
        "--crops.resize",
        96,
        "--crops.size",
        64,
    ]
    oaa(arguments(checkpoint, tmp_path / "one", *more))
    # Eleven images in batches of three: four batches, so that the last rank has a smaller share.
    two = arguments(checkpoint, tmp_path / "two", *more)
    code, text = run(torchrun(2, "-m", "dist_oaa", *two), tmp_path / "log")
    assert code == 0, text
    assert "2 processes" in text
    one, other = boxes(tmp_path / "one"), boxes(tmp_path / "two")
    assert [image["id"] for image in other["images"]] == [image["id"] for image in one["images"]]
    assert other == one
    assert last(tmp_path / "two") == last(tmp_path / "one")


def test_pixels_are_measured_where_there_are_masks(root, tmp_path):
    table = tmp_path / "table"
    rows, box_rows = ["path,classes,mask"], []
    images = (root / "images.txt").read_text().splitlines()
    corners = (root / "bounding_boxes.txt").read_text().splitlines()
    for line, corner in list(zip(images, corners, strict=True))[:6]:
        path = line.split()[1]
        x, y, width, height = (int(float(text)) for text in corner.split()[1:])
        (table / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / "images" / path, table / path)
        with Image.open(table / path) as image:
            mask_HW = np.zeros((image.height, image.width), np.uint8)
        name = path.split("/")[0]
        mask_HW[y : y + height, x : x + width] = NAMES.index(name) + 1
        mask = path.replace(".jpg", ".png")
        Image.fromarray(mask_HW).save(table / mask)
        rows.append(f"{path},{name},{mask}")
        # The tight box of the mask, found by another library.
        (found,) = ndimage.find_objects((mask_HW > 0).astype(int))
        box_rows.append(f"{path},{found[1].start},{found[0].start},{found[1].stop},{found[0].stop}")
    (table / "classes.txt").write_text("\n".join(NAMES))
    (table / "list.csv").write_text("\n".join(rows))
    (table / "boxes.csv").write_text("\n".join(box_rows))
    data = DataConfig(root=str(table), table="list.csv", size=64, boxes="boxes.csv")
    multi = classifier_run(tmp_path / "run", data, labels="multi")
    fixed = ["--threshold.choose", "fixed", "--threshold.value", 0.35]
    oaa(arguments(multi, tmp_path / "out", *fixed, "--components", "all"))
    metrics, found = last(tmp_path / "out"), boxes(tmp_path / "out")
    assert 0 < metrics["localization/pxap"] < 1
    assert found["thresholds"] == {
        "how": "fixed",
        "box": 0.35,
        "max_box_acc": 0.35,
        "max_box_acc_v2": {"0.3": 0.35, "0.5": 0.35, "0.7": 0.35},
    }
    assert "note: the checkpoint was trained on 6 of these 6 images" in found["supervision"]


def test_bad_images_stop_or_are_counted(root, checkpoint, tmp_path, capsys):
    own = Path(shutil.copytree(root, tmp_path / "cub"))
    test = (own / "images.txt").read_text().splitlines()[-1].split()[1]
    (own / "images" / test).write_bytes(b"no image")
    with pytest.raises(UserError, match=f"{Path(test).name} cannot be read.*on_bad_image"):
        oaa(arguments(checkpoint, tmp_path / "stop", "--data.root", own))
    assert not (tmp_path / "stop").exists()
    skip = ["--data.root", own, "--data.on_bad_image", "skip"]
    oaa(arguments(checkpoint, tmp_path / "skip", *skip))
    assert len(boxes(tmp_path / "skip")["images"]) == 10
    assert "1 images were skipped and are not measured" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        (["--threshold.split", "train"], "the checkpoint was trained on"),
        (["--threshold.split", "test"], "the reported list has too"),
        (["--data.split", "val"], "'val', expected train, test, all"),
        (["--crops.size", "999"], "crops.size is 999 and crops.resize 256"),
        (["--threshold.value", "1.5"], "threshold.value is 1.5, expected 0 to below 1"),
        (["--precision", "fp16"], "fp16 needs a GPU"),
        (["--data.boxes", "nowhere.csv"], "nowhere.csv does not exist"),
    ],
)
def test_refusals(checkpoint, tmp_path, changes, match):
    with pytest.raises(UserError, match=match) as caught:
        oaa(arguments(checkpoint, tmp_path / "out", *changes))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_exit_code_and_one_sentence_on_two_processes(root, checkpoint, tmp_path):
    own = Path(shutil.copytree(root, tmp_path / "cub"))
    text = (own / "bounding_boxes.txt").read_text()
    (own / "bounding_boxes.txt").write_text(text.replace("27 ", "99 ", 1))
    flags = arguments(checkpoint, tmp_path / "out", "--data.root", own)
    code, said = run(alone(*flags), tmp_path / "log")
    assert code == 2, said
    assert said.count("oaa: error:") == 1
    assert "bounding_boxes.txt, line 27: the image 99 is not in images.txt" in said
    code, said = run(torchrun(2, "-m", "dist_oaa", *flags), tmp_path / "log2")
    assert code != 0
    assert said.count("oaa: error:") == 1
    assert "Traceback" not in said.split("oaa: error:")[0]


def test_finished_boxes_and_training_runs_are_not_overwritten(checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/boxes.json").write_text("{}")
    with pytest.raises(UserError, match="never overwritten"):
        oaa(arguments(checkpoint, tmp_path / "out"))
    with pytest.raises(UserError, match="holds a training run"):
        oaa(arguments(checkpoint, checkpoint))


def test_a_signal_leaves_nothing(checkpoint, tmp_path):
    flags = arguments(checkpoint, tmp_path / "out", "--batch_size", 1)
    running = Running(alone(*flags), tmp_path / "log")
    running.wait_until(lambda: "step 1/" in running.text(), seconds=60)
    os.kill(running.process.pid, signal.SIGTERM)
    assert running.wait(60) == 75
    assert "nothing was left behind, start it again" in running.text()
    assert not (tmp_path / "out").exists()
