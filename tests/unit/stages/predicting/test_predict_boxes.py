"""`oaa predict` by a classifier: classes, boxes in the upright image, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from birds import NAMES, classifier_run
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.evaluation.box_pictures import PREDICTION
from dist_oaa.stages.predict import main

ORIENTATION = 0x0112


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    data = DataConfig(root="somewhere", size=64, resize="square")
    return classifier_run(tmp_path_factory.mktemp("run"), data, seed=3)


def photo(path: Path, height: int, width: int, **saving: object) -> None:
    rng = np.random.default_rng(height)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize((width, height), Image.Resampling.BICUBIC).save(path, **saving)


def command(*argv: object) -> int:
    return main("oaa predict", [*map(str, argv), "--runtime.device", "cpu"])


def summary_of(out: Path) -> dict:
    return json.loads((out / "predictions.json").read_text(encoding="utf-8"))


def test_classes_boxes_and_overlays(run_dir, tmp_path, capsys):
    photo(tmp_path / "in/a.png", 75, 90)
    photo(tmp_path / "in/deep/b.png", 40, 33)
    (tmp_path / "in/broken.jpg").write_bytes(b"no image")
    assert command(run_dir, tmp_path / "in", "--out", tmp_path / "out") == 0
    summary = summary_of(tmp_path / "out")
    assert [image["name"] for image in summary["images"]] == ["a", "deep/b"]
    assert len(summary["failed"]) == 1
    for image in summary["images"]:
        classes = [guess["class"] for guess in image["predicted"]]
        assert sorted(classes) == sorted(NAMES)
        x0, y0, x1, y1 = image["predicted"][0]["box"]
        assert 0 <= x0 < x1 <= image["width"]
        assert 0 <= y0 < y1 <= image["height"]
        with Image.open(tmp_path / "out/overlays" / f"{image['name']}.png") as overlay:
            drawn_HW3 = np.asarray(overlay)
        left = (drawn_HW3.shape[1] - image["width"]) // 2
        assert tuple(drawn_HW3[int(y0), int(x0) + left]) == PREDICTION
    assert not (tmp_path / "out/masks").exists()
    text = capsys.readouterr().out
    assert "found in 2 images" in text
    assert "threshold 0.2 of each map's maximum, largest (from box_threshold)" in text


def test_boxes_lie_in_the_upright_image(run_dir, tmp_path):
    photo(tmp_path / "in/a.png", 48, 80)
    with Image.open(tmp_path / "in/a.png") as image:
        exif = Image.Exif()
        exif[ORIENTATION] = 6  # to be turned by a quarter
        image.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "in/b.png", exif=exif)
    command(run_dir, tmp_path / "in", "--out", tmp_path / "out")
    one, other = summary_of(tmp_path / "out")["images"]
    assert (one["height"], one["width"]) == (other["height"], other["width"]) == (48, 80)
    assert one["predicted"] == other["predicted"]


def test_the_frozen_threshold_of_localize(run_dir, tmp_path):
    photo(tmp_path / "a.png", 48, 80)
    record = {
        "thresholds": {"box": 0.9},
        "components": "all",
        "checkpoint": str(run_dir),
    }
    (tmp_path / "boxes.json").write_text(json.dumps(record))
    command(run_dir, tmp_path / "a.png", "--localized", tmp_path, "--out", tmp_path / "high")
    command(run_dir, tmp_path / "a.png", "--box_threshold", 0.0, "--out", tmp_path / "low")
    high, low = (summary_of(tmp_path / name) for name in ("high", "low"))
    assert high["settings"]["threshold"] == 0.9
    assert high["settings"]["components"] == "all"

    def area(summary: dict) -> float:
        x0, y0, x1, y1 = summary["images"][0]["predicted"][0]["box"]
        return (x1 - x0) * (y1 - y0)

    assert area(high) < area(low)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (["--crf"], "crf is for segmentation networks, but checkpoint .* is a classifier"),
        (["--size", "0"], "size 0 is for segmentation networks"),
        (["--box_threshold", "1"], r"box_threshold is 1.0, expected 0 to below 1"),
        (["--localized", "nowhere"], r"localized: nowhere/boxes.json cannot be read, expected"),
    ],
)
def test_refusals(run_dir, tmp_path, change, match):
    photo(tmp_path / "a.png", 32, 32)
    with pytest.raises(UserError, match=match) as caught:
        command(run_dir, tmp_path / "a.png", "--out", tmp_path / "out", *change)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_boxes_of_another_checkpoint(run_dir, tmp_path):
    photo(tmp_path / "a.png", 32, 32)
    record = {"thresholds": {"box": 0.4}, "components": "largest", "checkpoint": "runs/other"}
    (tmp_path / "boxes.json").write_text(json.dumps(record))
    with pytest.raises(UserError, match=r"measured the checkpoint runs/other, expected one of"):
        command(run_dir, tmp_path / "a.png", "--localized", tmp_path, "--out", tmp_path / "out")
