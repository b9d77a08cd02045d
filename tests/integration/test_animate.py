"""A tiny run, its pictures in motion, and TensorBoard's layout as TensorBoard reads it."""

import json
import sys

import cv2
import numpy as np
import pytest
import yaml
from PIL import Image, ImageSequence
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2

from dist_oaa.cli import run
from dist_oaa.config.errors import UserError
from dist_oaa.stages.page.pictures import KeptMaps
from processes import REPOSITORY
from runs import settings

sys.path.insert(0, str(REPOSITORY / "tools"))
import animate

FOLLOWED = "demo_00005"
EPOCHS = 3


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """A finished run of three epochs that follows an image beside its gallery of two."""
    from dist_oaa.data.demo import generate

    base = tmp_path_factory.mktemp("animate")
    generate(str(base / "data"), images=24, seed=3, size=96)
    changes = {"evaluate.follow": f"[{FOLLOWED}]", "optim.epochs": EPOCHS}
    assert run(settings(base / "data", base / "run", **changes)) == 0
    return base / "run"


def classes_of(run_dir, name: str) -> list[str]:
    root = run_dir.parent / "data"
    rows = (root / "labels.csv").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith(f"{name},")]
    names = (run_dir / "classes.txt").read_text().split("\n")
    words = row.split(",")[1].split()
    return sorted(words, key=names.index) if words[0] in names else [names[int(w)] for w in words]


def test_the_run_keeps_the_gallery_and_what_it_follows(run_dir):
    kept = KeptMaps(run_dir)
    assert kept.epochs == list(range(EPOCHS))
    for epoch in kept.epochs:
        names = {key.rpartition(".")[0] for key in kept.keys(epoch)}
        assert FOLLOWED in names
        assert len(names) in (2, 3)  # the gallery may hold it as well


def test_an_image_to_follow_that_is_not_there(run_dir, tmp_path):
    data = run_dir.parent / "data"
    with pytest.raises(
        UserError, match=r"evaluate.follow names 'demo_5', .* nearest name is demo_"
    ):
        run(settings(data, tmp_path / "run", **{"evaluate.follow": "[demo_5]"}))
    assert not (tmp_path / "run").exists()


def test_a_gif_of_every_epoch(run_dir, tmp_path, capsys):
    out = tmp_path / "evolution.gif"
    assert animate.main([str(run_dir), "--image", FOLLOWED, "--out", str(out)]) == 0
    first = classes_of(run_dir, FOLLOWED)[0]
    assert capsys.readouterr().out == f"{out}: {first}, {FOLLOWED}, {EPOCHS} epochs\n"
    with Image.open(out) as picture:
        frames = [
            (np.asarray(f.convert("RGB")), f.info["duration"])
            for f in ImageSequence.Iterator(picture)
        ]
    assert [stay for _, stay in frames] == [800, 800, 2400]
    assert len({frame.tobytes() for frame, _ in frames}) == EPOCHS
    assert [path.name for path in tmp_path.iterdir()] == ["evolution.gif"]


def test_a_film(run_dir, tmp_path):
    out = tmp_path / "evolution.mp4"
    assert animate.main([str(run_dir), "--out", str(out), "--seconds", "0.5"]) == 0
    film = cv2.VideoCapture(str(out))
    assert (film.get(cv2.CAP_PROP_FRAME_COUNT), film.get(cv2.CAP_PROP_FPS)) == (25, 10)
    read, picture_HW3 = film.read()
    film.release()
    assert read
    assert picture_HW3.std() > 20
    assert [path.name for path in tmp_path.iterdir()] == ["evolution.mp4"]


def test_the_maps_are_those_that_were_kept(run_dir):
    names = classes_of(run_dir, FOLLOWED)
    for place, name in enumerate(names):
        story = animate.read_story(run_dir, FOLLOWED, name)
        assert story.title == f"{name}, {FOLLOWED}"
        assert list(story.maps) == ["CAM", "cumulative"]
        for epoch in range(EPOCHS):
            with np.load(run_dir / f"pictures/maps/epoch-{epoch:04d}.npz") as kept:
                expected = kept[f"{FOLLOWED}.cumulative"][place]
            assert np.array_equal(np.rint(255 * story.maps["cumulative"][epoch]), expected)
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    recall = [100 * x["cam/recall"] for x in lines if x.get("closes_epoch")]
    assert story.recall["CAM"] == list(enumerate(recall, start=1))


def test_a_pipeline_stands_for_its_classifier(run_dir):
    plan = {"title": "T", "stages": [{"name": "c", "stage": "classify", "folder": "run"}]}
    (run_dir.parent / "pipeline.json").write_text(json.dumps(plan))
    assert animate.read_story(run_dir.parent, FOLLOWED, "").epochs == list(range(EPOCHS))


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--image", "zzz", "--out", "a.gif"], "kept no maps of 'zzz', expected one of demo_"),
        (["--image", FOLLOWED, "--class", "emu", "--out", "a.gif"], "has no class 'emu', expected"),
        (["--out", "a.avi"], "--out is a.avi, expected a name that ends with .gif or .mp4"),
        (["--out", "a.gif", "--seconds", "0"], "--seconds is 0.0, expected 0.05 to 60"),
        (["--out", "none/a.gif"], "none/a.gif cannot be written: No such file"),
    ],
)
def test_mistakes(run_dir, tmp_path, monkeypatch, capsys, argv, sentence):
    monkeypatch.chdir(tmp_path)
    assert animate.main([str(run_dir), *argv]) == 2
    error = capsys.readouterr().err
    assert error.startswith("animate.py: error: ")
    assert sentence in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_runs_without_maps(run_dir, tmp_path):
    with pytest.raises(UserError, match="is no folder"):
        animate.read_story(tmp_path / "none", "", "")
    (tmp_path / "metrics.jsonl").write_text((run_dir / "metrics.jsonl").read_text())
    with pytest.raises(UserError, match="kept no maps after its epochs"):
        animate.read_story(tmp_path, "", "")


def test_an_image_that_has_gone(run_dir, tmp_path):
    moved = tmp_path / "run"
    (moved / "pictures").mkdir(parents=True)
    (moved / "pictures" / "maps").symlink_to(run_dir / "pictures" / "maps")
    for name in ("metrics.jsonl", "classes.txt"):
        (moved / name).write_text((run_dir / name).read_text())
    tree = yaml.safe_load((run_dir / "config.yaml").read_text())
    tree["data"]["root"] = str(tmp_path / "gone")
    (moved / "config.yaml").write_text(yaml.safe_dump(tree))
    with pytest.raises(UserError, match=r"data.root: .*gone"):
        animate.read_story(moved, FOLLOWED, "")


def test_tensorboard_is_arranged(run_dir):
    reader = EventAccumulator(str(run_dir / "tensorboard"))
    reader.Reload()
    (event,) = reader.Tensors("custom_scalars__config__")
    found = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    layout = {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in found.category
    }
    attention = layout["attention"]
    assert attention["recall per epoch"] == ["cam/recall", "cumulative/recall"]
    assert attention["noise per epoch"] == ["cam/noise", "cumulative/noise"]
    assert {"loss", "pairs"} <= set(layout["training"])
    shown = {tag for charts in layout.values() for tags in charts.values() for tag in tags}
    # In the file also where a figure does not exist, as noise before anything is attended to.
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    logged = {name for line in lines for name in json.loads(line)}
    assert shown <= logged, "a chart of a curve that nobody draws"
    assert {"cam/recall", "cumulative/recall"} <= set(reader.Tags()["scalars"])
