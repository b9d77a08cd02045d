"""Evaluation without a trained network or processes: tasks, counting, figures and audit lines."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.evaluate import EvaluatedDataConfig, EvaluationConfig
from dist_oaa.config.labels import CrfConfig
from dist_oaa.data.classes import VOC_CLASSES
from dist_oaa.data.palette import write_label
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.evaluation.boundary import BoundaryScore
from dist_oaa.evaluation.segmentation import Confusion
from dist_oaa.labels.crf import crf_on_present
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.progress import Reporter
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.evaluate import processes_of
from dist_oaa.stages.evaluating.evaluator import Evaluator, Found
from dist_oaa.stages.evaluating.measuring import Measurer, measure_one
from dist_oaa.stages.evaluating.report import MOST_ROWS, Report, as_json
from dist_oaa.stages.evaluating.segmenting import (
    FolderSegmenter,
    NetworkSegmenter,
    probabilities_of,
)
from dist_oaa.stages.evaluating.supervision import recorded

CPU = torch.device("cpu")
ALONE = World(0, 1, 0, CPU)
SIZE = 12


@pytest.fixture
def image_set(tmp_path) -> ImageSet:
    """Five images in a list that is not in the order of their names, the last without a mask."""
    rng = np.random.default_rng(0)
    samples = []
    for name in ("e", "b/1", "a", "d", "c"):
        path, mask = tmp_path / "images" / f"{name}.png", tmp_path / "masks" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        shape = (SIZE, SIZE + len(samples))
        Image.fromarray(rng.integers(0, 256, (*shape, 3), dtype=np.uint8)).save(path)
        write_label(mask, rng.choice(np.array([0, 1, 2, 255], np.uint8), shape))
        samples.append(Sample(name, path, (0,), None if name == "c" else mask))
    return ImageSet(tmp_path, ("cat", "dog", "owl"), tuple(samples), "labels.csv")


@dataclasses.dataclass
class StandIn:
    """As much of a Scorer as is used: label channels that depend on the pixel's red value."""

    labels: int = 4
    precision: str = "fp32"
    shapes: list = dataclasses.field(default_factory=list)
    broken: bool = False

    def probabilities(self, image_HW3: np.ndarray) -> torch.Tensor:
        self.shapes.append(image_HW3.shape[:2])
        red = torch.from_numpy(image_HW3[..., 0].astype(np.float32)) / 256
        # The last label never wins.
        scores = [8 * (red - k / (self.labels - 1)).abs().neg() for k in range(self.labels - 1)]
        probabilities = torch.stack([*scores, torch.full_like(red, -9.0)]).softmax(0)
        return probabilities * float("nan") if self.broken else probabilities


def network(image_set: ImageSet, crf: bool = False, **changes: object) -> NetworkSegmenter:
    values = {"data": EvaluatedDataConfig(), "scorer": StandIn(), "crf": crf} | changes
    return NetworkSegmenter(image_set, **values)


def evaluator(image_set: ImageSet, segmenter, measurer=None, **changes: object) -> Evaluator:
    usual = {"processes": 0, "stop": StopFlag(), "reporter": Reporter(False, 1)} | changes
    return Evaluator(ALONE, image_set, segmenter, measurer or Measurer(3, 0.1), **usual)


def test_every_image_is_measured_once_and_written_in_every_folder(image_set, tmp_path):
    folders = (tmp_path / "one", tmp_path / "two")
    measurer = Measurer(3, 0.1, folders=folders)
    kept = frozenset({1, 4})
    found = evaluator(image_set, network(image_set, kept=kept), measurer).run(lambda found: None)
    confusion, boundary = Confusion(3), BoundaryScore(3, 0.1)
    for sample in image_set.samples:
        image = np.asarray(Image.open(sample.path))
        expected = StandIn().probabilities(image).argmax(0).numpy().astype(np.uint8)
        for folder in folders:
            written = np.asarray(Image.open(folder / f"{sample.id}.png"))
            np.testing.assert_array_equal(written, expected)
        if sample.mask is not None:
            truth = np.asarray(Image.open(sample.mask))
            confusion.update(expected, truth)
            boundary.update(expected, truth)
    np.testing.assert_array_equal(found.confusion.counts, confusion.counts)
    np.testing.assert_array_equal(found.boundary.counts, boundary.counts)
    assert (found.images, found.measured, found.skipped) == (5, 4, {})
    assert found.gallery.keys() == kept


def test_the_order_is_that_of_names(image_set):
    order = evaluator(image_set, network(image_set)).order()
    assert [image_set.samples[i].id for i in order] == ["a", "b/1", "c", "d", "e"]
    two = [dataclasses.replace(ALONE, rank=rank, size=2) for rank in range(2)]
    shares = [
        dataclasses.replace(evaluator(image_set, network(image_set)), world=world).order()
        for world in two
    ]
    assert sorted(shares[0] + shares[1]) == [0, 1, 2, 3, 4]
    tasks = list(network(image_set).segment(order))
    assert [task.index for task in tasks] == order


def test_the_crf_sees_the_labels_that_win_and_the_background(image_set):
    for task in network(image_set, crf=True).segment([0, 2]):
        assert task.label_HW is None
        given = task.to_refine
        assert given.present_J.tolist() == [0, 1, 2], "the last label never wins"
        config = CrfConfig(iterations=3)
        keep = dataclasses.replace(task, keep=True)
        label = measure_one(Measurer(3, 0.1, config), keep).label_HW
        whole = StandIn().probabilities(given.image_HW3).numpy()
        np.testing.assert_array_equal(label, crf_on_present(given.image_HW3, whole, config))
        assert label.dtype == np.uint8


def test_square_images_are_warped_and_brought_back():
    scorer = StandIn()
    image = np.zeros((20, 30, 3), np.uint8)
    probabilities = probabilities_of(scorer, image, DataConfig(resize="square", size=16))
    assert scorer.shapes == [(16, 16)]
    assert probabilities.shape == (4, 20, 30)
    assert torch.allclose(probabilities.sum(0), torch.ones(20, 30))


def test_scores_that_are_not_finite_and_unreadable_images_are_named(image_set):
    with pytest.raises(UserError, match=r"scores for .*e.png are not finite"):
        list(network(image_set, scorer=StandIn(broken=True)).segment([0]))
    image_set.samples[2].path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"a.png cannot be read.*on_bad_image"):
        evaluator(image_set, network(image_set)).run(lambda found: None)
    skipping = network(image_set, data=EvaluatedDataConfig(on_bad_image="skip"))
    found = evaluator(image_set, skipping).run(lambda found: None)
    assert found.skipped.keys() == {2}
    assert (found.images, found.measured) == (4, 3)


def test_a_signal_or_a_failing_end_leaves_no_folder(image_set, tmp_path):
    measurer = Measurer(3, 0.1, folders=(tmp_path / "out",))
    stop = StopFlag()
    stop.reason = "SIGTERM"
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        evaluator(image_set, network(image_set), measurer, stop=stop).run(lambda found: None)
    assert not (tmp_path / "out").exists()

    def fail(found: Found) -> None:
        raise OSError(28, "No space left on device", "evaluation.json")

    with pytest.raises(UserError, match=r"evaluation.json: No space left"):
        evaluator(image_set, network(image_set), measurer).run(fail)
    assert not (tmp_path / "out").exists()


def test_label_images_of_a_folder(image_set, tmp_path):
    for sample in image_set.samples[:4]:
        truth = np.asarray(Image.open(sample.mask))
        write_label(tmp_path / "given" / f"{sample.id}.png", truth)
    measurer = Measurer(3, 0.1, predictions=tmp_path / "given")
    segmenter = FolderSegmenter(image_set)
    with pytest.raises(UserError, match=r"given/c.png does not exist"):
        evaluator(image_set, segmenter, measurer).run(lambda found: None)
    write_label(tmp_path / "given/c.png", np.zeros((3, 3), np.uint8))
    found = evaluator(image_set, segmenter, measurer).run(lambda found: None)
    assert found.confusion.result().miou == 1
    assert found.boundary.result().f == 1
    write_label(tmp_path / "given/d.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(UserError, match=r"mask .*d.png has 12 x 15 pixels .*given/d.png, 3 x 3"):
        evaluator(image_set, segmenter, measurer).run(lambda found: None)


def report_of(names: tuple[str, ...], counts: np.ndarray) -> Report:
    found = Found(Confusion(len(names)), BoundaryScore(len(names)), images=9, measured=9)
    found.confusion.counts[...] = counts
    found.boundary.counts[: len(names), :] = [10, 5, 10, 10]
    samples = (Sample("a", Path("a.jpg"), (), None),)
    image_set = ImageSet(Path("."), names, samples, "none")
    return Report(EvaluationConfig(), image_set, found, ["supervision: none"])


def drawn(report: Report) -> list[str]:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(report.table())
    return console.export_text().splitlines()


def test_the_table_and_the_summary():
    counts = np.eye(21, 22, dtype=np.int64) * 60
    counts[:, 0] += 20
    counts[20], counts[:, 20] = 0, 0
    report = report_of(VOC_CLASSES, counts)
    assert report.absent == ["tvmonitor"]
    lines = drawn(report)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "tvmonitor" not in text
    row = next(line for line in lines if "aeroplane" in line)
    assert [cell.strip() for cell in row.split("│")[2:-1]] == [
        "75.0",
        "75.0",
        "66.7",
        "50.0",
        "100.0",
    ]
    summary = report.summary()
    read = json.loads(as_json(summary))
    assert read["confusion"] == counts.tolist()
    assert read["absent"] == ["tvmonitor"]
    assert read["metrics"]["segmentation/boundary_f"] == pytest.approx(2 / 3)
    assert [row["class"] for row in read["per_class"]] == ["background", *VOC_CLASSES[:-1]]
    assert report.per_class["per_class/segmentation/iou/aeroplane"] == 0.75
    assert as_json(summary).count(b"\n") < 400, "a matrix row takes one line"


def test_of_many_classes_the_table_shows_the_lowest():
    counts = np.zeros((101, 102), np.int64)
    counts[range(101), range(101)] = np.arange(101) + 1
    counts[:, 0] += 50
    lines = drawn(report_of(tuple(f"class {k}" for k in range(100)), counts))
    assert max(map(len, lines)) <= 80
    assert "41 lowest of 101" in lines[0]
    assert sum("class " in line for line in lines[4:]) == MOST_ROWS - ("background" in str(lines))
    assert not any("class 99" in line for line in lines)


def test_what_is_recorded_of_label_images(tmp_path):
    assert recorded(tmp_path) == []
    lines = ["supervision: image-level labels from x; CRF none", "maps y", "masks were read for"]
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels.json").write_text(json.dumps({"supervision": lines}))
    expected = ["image-level labels from x; CRF none", "maps y"]
    assert recorded(tmp_path) == recorded(tmp_path / "labels") == expected
    (tmp_path / "labels.json").write_text("[]")
    assert recorded(tmp_path) == []


def test_processes_share_the_cores(monkeypatch):
    monkeypatch.setattr("dist_oaa.stages.evaluate.threads_per_rank", lambda: 4)
    gpu = dataclasses.replace(ALONE, device=torch.device("cuda", 0))
    network, crf = EvaluationConfig(checkpoint="x"), EvaluationConfig(checkpoint="x", crf=True)
    folder = EvaluationConfig(predictions="x")
    assert [processes_of(c, ALONE, 100) for c in (network, crf, folder)] == [0, 2, 4]
    assert [processes_of(c, gpu, 100) for c in (network, crf)] == [4, 4]
    assert processes_of(dataclasses.replace(crf, processes=3), ALONE, 100) == 3
    assert processes_of(folder, ALONE, 4) == 0
    assert processes_of(dataclasses.replace(folder, processes=1), ALONE, 100) == 0
