"""The report page: what it shows of runs, that it stands alone, and that it escapes."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.stages.page.contents import gather, shown_command
from dist_oaa.stages.page.pictures import KeptMaps
from dist_oaa.stages.page.runs import open_runs
from dist_oaa.stages.report import main, write_report
from small_table import log_metrics

NAMES = ("cat", "dog <b>")


def photo_set(root: Path) -> None:
    """Two photographs in VOC's layout, the first with a mask."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True)
    for number, name in enumerate("ab"):
        Image.new("RGB", (60, 40), (200, 90 * number, 50)).save(root / f"JPEGImages/{name}.jpg")
    Image.fromarray(np.full((40, 60), 1, np.uint8)).save(root / "SegmentationClass/a.png")
    (root / "ImageSets/Segmentation/train.txt").write_text("a\nb\n")
    (root / "labels.csv").write_text("image_id,classes\na,0\nb,1\n")
    (root / "classes.txt").write_text("\n".join(NAMES))


def run_of(folder: Path, stage: str, config: dict, *epochs: dict[str, float]) -> None:
    """A run directory as a stage leaves it."""
    log_metrics(folder, stage, *epochs)
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "classes.txt").write_text("\n".join(NAMES))


def classify_run(folder: Path, root: Path, epochs: int = 4) -> None:
    """A classifier's run with the maps of its gallery."""
    figures = [
        {
            "cam/recall": 0.2 + e / 10,
            "cumulative/recall": 0.3 + e / 10,
            "per_class/cam/recall/cat": 0.25,
            "per_class/cam/recall/dog <b>": 0.5,
        }
        for e in range(epochs)
    ]
    run_of(folder, "classify", {"data": {"root": str(root)}, "note": "<script>"}, *figures)
    (folder / "pictures" / "maps").mkdir(parents=True)
    for epoch in range(epochs):
        maps_1SS = np.full((1, 5, 5), 40 * epoch, np.uint8)
        np.savez(
            folder / "pictures" / "maps" / f"epoch-{epoch:04d}.npz",
            **{f"{name}.{kind}": maps_1SS for name in "ab" for kind in ("cam", "cumulative")},
        )


@pytest.fixture
def pipeline(tmp_path) -> Path:
    """The folder of a pipeline: a classifier, labels and an evaluation."""
    root, out = tmp_path / "photos", tmp_path / "out"
    photo_set(root)
    classify_run(out / "classify-1", root)
    run_of(out / "labels-1", "pseudo-label", {}, {"labels/miou": 0.625, "labels/ignored": 0.1})
    (out / "labels-1" / "labels").mkdir()
    Image.fromarray(np.zeros((40, 60), np.uint8)).save(out / "labels-1/labels/a.png")
    iou = "per_class/segmentation/iou/cat"
    run_of(out / "seg-1", "segment", {}, {"segmentation/miou": 0.25, iou: 0.125})
    run_of(out / "eval-1", "evaluate", {}, {"segmentation/miou": 0.5, iou: 0.75})
    (out / "eval-1" / "pictures").mkdir()
    Image.new("RGB", (9, 9)).save(out / "eval-1/pictures/confusion.png")
    stages = [("classify", "classify"), ("labels", "pseudo-label")]
    stages += [("seg", "segment"), ("eval", "evaluate")]
    plan = [{"name": n, "stage": s, "folder": f"{n}-1"} for n, s in stages]
    (out / "pipeline.json").write_text(json.dumps({"title": "A & B", "stages": plan}))
    return out


def test_what_the_page_gathers(pipeline):
    page = gather(pipeline)
    assert page.title == "A & B"
    assert page.headline == [
        ("segmentation mIoU", "50.0 %"),
        ("pseudo-label mIoU", "62.5 %"),
        ("recall, cumulative", "60.0 %"),
        ("recall, CAM", "50.0 %"),
    ]
    assert [stage.name for stage in page.stages] == ["classify", "labels", "seg", "eval"]
    both = ["segmentation IoU, seg", "segmentation IoU, eval"]
    assert page.class_columns == ["CAM recall", *both]
    assert page.class_rows == [("cat", ["25.0", "12.5", "75.0"]), ("dog <b>", ["50.0", "", ""])]
    assert [title for title, _ in page.charts] == ["recall of the attention"]
    assert [title for title, _ in page.pictures] == ["Confusion of the classes"]
    assert page.notes == []


def test_an_image_is_shown_from_its_tags_to_its_label(pipeline):
    first, second = gather(pipeline).cards
    assert first.title == "a: cat"
    assert [tile.caption for tile in first.tiles] == [
        *("image", "CAM, epoch 2", "CAM, epoch 3", "CAM, epoch 4"),
        *("cumulative", "pseudo label", "truth"),
    ]
    # Neither a label nor a mask exists for the second one.
    assert [tile.caption for tile in second.tiles][-1] == "cumulative"
    assert all(tile.source.startswith("data:image/jpeg;base64,") for tile in first.tiles)


def test_the_page_stands_alone_and_escapes(pipeline):
    text = write_report(pipeline).read_text()
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "@import" not in text
    assert "<title>A &amp; B</title>" in text
    assert "dog &lt;b&gt;" in text
    assert "<script>" not in text
    assert 'name="viewport"' in text
    assert text.count("<svg") == 1


def test_charts_need_two_epochs(pipeline, tmp_path):
    classify_run(tmp_path / "short", tmp_path / "photos", epochs=1)
    assert gather(tmp_path / "short").charts == []


def test_a_run_whose_images_are_gone_is_shown_without_them(tmp_path):
    classify_run(tmp_path / "run", tmp_path / "nowhere")
    page = gather(tmp_path / "run")
    assert page.cards == []
    assert page.notes[0].startswith("The gallery is left out: data.root: ")
    assert page.title == "run"


def test_a_map_that_an_early_epoch_lacks(tmp_path):
    classify_run(tmp_path / "run", tmp_path / "nowhere")
    path = tmp_path / "run/pictures/maps/epoch-0001.npz"
    np.savez(path, **{"other.cam": np.zeros((1, 5, 5), np.uint8)})
    kept = KeptMaps(tmp_path / "run")
    assert kept.epochs == [0, 1, 2, 3]
    assert kept.spread("cam", "a") == [2, 3]
    assert kept.spread("cam", "other") == [1]


def test_a_stage_that_never_ran_is_left_out(pipeline):
    plan = json.loads((pipeline / "pipeline.json").read_text())
    plan["stages"].append({"name": "x", "stage": "segment", "folder": "../../elsewhere"})
    (pipeline / "pipeline.json").write_text(json.dumps(plan))
    _, runs = open_runs(pipeline)
    assert [run.name for run in runs] == ["classify", "labels", "seg", "eval"]


def test_refusals(pipeline, tmp_path, capsys):
    with pytest.raises(UserError, match=r"has neither pipeline.json nor measurements"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="is no folder"):
        write_report(tmp_path / "none")
    (pipeline / "pipeline.json").write_text('{"title": 1}')
    with pytest.raises(UserError, match=r"pipeline.json is damaged"):
        write_report(pipeline)
    classify_run(tmp_path / "run", tmp_path / "nowhere")
    assert main("oaa report", [str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'run' / 'report.html'}\n"


def test_a_command_as_a_person_types_it():
    launcher = ["/v/python", "-m", "torch.distributed.run", "--standalone", "-m", "dist_oaa", "x"]
    assert shown_command(launcher) == ["torchrun", "--standalone", "-m", "dist_oaa", "x"]
    assert shown_command(["/v/python", "-m", "dist_oaa", "evaluate"]) == ["oaa", "evaluate"]


def test_boxes_are_shown_with_their_figures(tmp_path):
    figures = {"localization/gt_known": 0.625, "localization/top1": 0.5}
    run_of(tmp_path / "run", "localize", {}, figures)
    (tmp_path / "run" / "pictures").mkdir()
    Image.new("RGB", (40, 30), (9, 200, 9)).save(tmp_path / "run/pictures/localization.png")
    page = gather(tmp_path / "run")
    ((title, source),) = page.pictures
    assert title == "Boxes: the truth in red, the prediction in green"
    assert source.startswith("data:image/png;base64,")
    assert page.headline == [("GT-known localisation", "62.5 %"), ("top-1 localisation", "50.0 %")]
    assert ("GT-known", "62.5 %") in page.stages[0].figures
    assert title in write_report(tmp_path / "run").read_text()
