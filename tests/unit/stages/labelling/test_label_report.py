"""What is said of labels: phrases, tables of 80 columns, and a summary that is plain JSON."""

import io
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from rich.console import Console

from dist_oaa.config.labels import BackgroundConfig, LabelsConfig
from dist_oaa.config.pseudo_label import PseudoLabelConfig
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.background import SweepChoice
from dist_oaa.stages.labelling.labelling import Found
from dist_oaa.stages.labelling.origin import Origin
from dist_oaa.stages.labelling.report import Report, class_table, figures_table, say_results

NAMES = ("cat", "dog", "an animal with quite a long name", "boat")


def report(labels: LabelsConfig | None = None, measured: int = 2, **changes: object) -> Report:
    """Labels of two images of 8 x 8 pixels: a cat where there is one, and a dog that is none."""
    truth_HW, label_HW = np.zeros((8, 8), np.uint8), np.zeros((8, 8), np.uint8)
    truth_HW[:4] = 1
    label_HW[2:6] = 1
    label_HW[7], label_HW[6] = 255, 2
    dense_HW = np.where(label_HW == 255, 0, label_HW)
    confusions = [Confusion(len(NAMES)) for _ in range(2)]
    for confusion, image_HW in zip(confusions, (label_HW, dense_HW), strict=True):
        for _ in range(measured):
            confusion.update(image_HW, truth_HW)
    found = Found(
        threshold=0.35,
        choice=SweepChoice(0.35, np.zeros(2), np.zeros(2), 7),
        labels=confusions[0],
        dense=confusions[1],
        measured=measured,
        pixels_V=np.bincount(label_HW.ravel(), minlength=256),
        skipped={},
        empty=[],
        without_map=0,
        gallery=[],
    )
    for name, value in changes.items():
        setattr(found, name, value)
    samples = tuple(Sample(f"i{n}", Path(f"i{n}.jpg"), (0,), None) for n in range(9))
    image_set = ImageSet(Path("photos"), NAMES, samples, "labels.csv")
    source = SimpleNamespace(is_store=True, map_size=41, dtype="uint8")
    labelling = SimpleNamespace(image_set=image_set, source=source, saliency_dir="maps/sal")
    labels = labels or LabelsConfig()
    config = PseudoLabelConfig(maps="runs/a", run_dir="runs/b", labels=labels)
    model = {"backbone": "vgg", "weights": "none"}
    return Report(config, labelling, found, Origin("runs/a", {"model": model}))


def test_the_figures():
    # Rows of 8 pixels by hand: truth cat 0-3; label cat 2-5, dog 6, ignored 7.
    per_class = report().per_class
    assert per_class == {
        "per_class/labels/iou/background": pytest.approx(0 / (3 + 2)),
        "per_class/labels/iou/cat": pytest.approx(2 / 6),
        "per_class/labels/iou/dog": 0.0,
    }
    assert report().metrics == {
        "labels/miou": pytest.approx(sum(per_class.values()) / 3),
        "labels/ignored": pytest.approx(1 / 8),
        # Nothing ignored: the last row is background, rightly.
        "labels/dense_miou": pytest.approx((1 / 6 + 2 / 6 + 0) / 3),
    }
    assert report(measured=0).metrics == {}
    assert report().shares == {
        "ignored": 1 / 8, "background": 2 / 8, "cat": 4 / 8, "dog": 1 / 8,
    }  # fmt: skip


def test_supervision_of_every_kind():
    def line(config: LabelsConfig, number: int) -> str:
        return report(config).supervision[number]

    plain = report().supervision
    assert plain[0] == "supervision: image-level labels from labels.csv; CRF none"
    assert plain[1] == "maps runs/a (cumulative maps of a store, 41 x 41 cells, uint8)"
    assert plain[2] == "made by vgg, trunk weights none"
    assert plain[3] == "saliency none"
    assert plain[4] == (
        "background: threshold 0.35 on attention, chosen on 7 images without masks (colour)"
    )
    assert plain[5] == "refinement none"
    assert plain[6] == "masks were read for these figures only"
    assert len(report(measured=0).supervision) == 6
    fixed = LabelsConfig(background=BackgroundConfig(method="fixed", threshold=0.35))
    assert report(fixed, choice=None).supervision[4].endswith("0.35 on attention, as set")
    folder = LabelsConfig(saliency="dir", saliency_dir="x", refine=["pamr", "crf"])
    assert line(folder, 0).endswith("CRF on the labels")
    assert line(folder, 3) == "saliency maps of maps/sal (whatever they were made with counts)"
    assert line(folder, 4) == "background: 1 - saliency"
    assert line(folder, 5) == "refinement PAMR, then dense CRF"
    learned = LabelsConfig(refine=["random_walk"])
    learned.random_walk.affinity, learned.random_walk.checkpoint = "learned", "runs/aff"
    assert line(learned, 5) == (
        "refinement random walk on learned affinities of runs/aff (not recorded)"
    )
    assert "rembg u2netp (trained on" in line(LabelsConfig(saliency="rembg"), 3)
    assert line(LabelsConfig(saliency="spectral"), 3) == "saliency spectral residual (no weights)"


def test_the_summary_is_plain_json():
    summary = report(skipped={"a": "unreadable"}, empty=["b"], without_map=3).summary()
    text = json.dumps(summary, allow_nan=False)
    assert json.loads(text) == summary
    assert summary["skipped"] == {"a": "unreadable"}
    assert summary["threshold"] == 0.35
    assert report(LabelsConfig(saliency="spectral")).summary()["threshold"] is None
    # All pixels ignored: there is no mIoU, and JSON has no nan.
    everything = Confusion(len(NAMES))
    everything.update(np.full((2, 2), 255, np.uint8), np.zeros((2, 2), np.uint8))
    nothing = report(measured=1)
    nothing.found.labels, nothing.labels = everything, everything.result()
    assert (
        json.loads(json.dumps(nothing.summary(), allow_nan=False))["metrics"]["labels/miou"] is None
    )


def test_tables_fit_80_columns():
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(figures_table(report()))
    console.print(class_table(report()))
    text = out.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "pseudo labels of 2 images, %" in text
    assert "quite a" in text
    # Five names in two columns; one is in no label and no mask.
    assert text.count("boat") == 1


def test_what_was_left_out_is_named():
    said: list[str] = []
    reporter = SimpleNamespace(say=said.append, console=SimpleNamespace(print=lambda *_: None))
    found = report(
        skipped={"x": "x.jpg cannot be read"}, empty=[f"e{n}" for n in range(7)], without_map=2
    )
    say_results(reporter, found)
    assert said[0] == "skipped: x.jpg cannot be read"
    assert said[1] == "1 image was skipped: no label"
    assert said[2].startswith("note: 7 images were ignored whole")
    assert said[2].endswith("e0, e1, e2, e3, e4, ...")
    assert said[3].startswith("note: 2 other (image, class) pairs")
    assert "labels: runs/b/labels" in said
    assert "12.5 % of all pixels are ignored, 25.0 % background" in said
