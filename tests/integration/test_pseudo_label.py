"""`oaa pseudo-label` and `oaa saliency`: the same files however they are made, measured rightly."""

import json
import os
import shutil
import signal
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from dist_oaa.cli import run as oaa
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import RunError, UserError
from dist_oaa.config.labels import LabelsConfig
from dist_oaa.config.run import EvaluateConfig
from dist_oaa.data.images import read_image, read_mask
from dist_oaa.data.sources import open_image_set
from dist_oaa.labels.label_image import label_both
from dist_oaa.stages.labelling.labeller import at_image_size
from dist_oaa.stages.tally import MapTally, unit
from dist_oaa.store.interchange import write_tables
from dist_oaa.store.mapfile import write_map
from dist_oaa.store.maps import open_maps
from processes import Running, alone, descendants, run, torchrun, wait_until_gone
from runs import files_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500)]

SIZE = 16


@pytest.fixture(scope="module")
def maps(demo_data, tmp_path_factory) -> Path:
    """Maps as a good network would make them: the objects, blurred on a coarse grid."""
    folder = tmp_path_factory.mktemp("labels") / "maps"
    image_set = open_image_set(DataConfig(root=str(demo_data), split="trainval"))
    rows = []
    for sample in image_set.samples:
        mask_HW = read_mask(sample.mask)
        for c in sample.classes:
            object_HW = (mask_HW == c + 1).astype(np.float32)
            map_SS = cv2.blur(
                cv2.resize(object_HW, (SIZE, SIZE), interpolation=cv2.INTER_AREA), (3, 3)
            )
            file = f"{sample.id}_{c}.png"
            write_map(folder / file, np.minimum(map_SS / max(map_SS.max(), 1e-6), 1))
            rows.append((sample.id, c, file, 1, 0))
    write_tables(folder, rows, image_set.class_names)
    return folder


@pytest.fixture(scope="module")
def saliency(demo_data, tmp_path_factory) -> Path:
    """Saliency as a good network would make it: all objects, blurred."""
    folder = tmp_path_factory.mktemp("saliency")
    for mask in (demo_data / "SegmentationClass").glob("*.png"):
        mask_HW = read_mask(mask)
        objects_HW = ((mask_HW > 0) & (mask_HW < 255)).astype(np.uint8) * 255
        Image.fromarray(cv2.blur(objects_HW, (5, 5))).save(folder / mask.name)
    return folder


def arguments(maps: Path, root: Path, out: Path, *more: object) -> list[str]:
    values = {
        "maps": maps, "run_dir": out, "data.root": root, "data.split": "trainval",
        "runtime.device": "cpu", "runtime.log_every": 1, "runtime.timeout_s": 60, "gallery": 2,
    }  # fmt: skip
    flags = [str(x) for key, value in values.items() for x in (f"--{key}", value)]
    return ["pseudo-label", *flags, "--processes", "1", *map(str, more)]


def last(run_dir: Path) -> dict:
    return json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])


def test_any_number_of_ranks_and_processes_makes_the_same_files(demo_data, maps, tmp_path):
    more = ["--labels.refine", "[random_walk]", "--labels.random_walk.steps", "4"]
    code, text = run(
        alone(*arguments(maps, demo_data, tmp_path / "one", *more)), tmp_path / "1", 240
    )
    assert code == 0, text
    asked = arguments(maps, demo_data, tmp_path / "two", *more, "--processes", "2")
    code, text = run(torchrun(2, "-m", "dist_oaa", *asked), tmp_path / "2", 240)
    assert code == 0, text
    assert text.count("supervision: ") == 1, "more than one rank prints"
    assert "Traceback" not in text
    assert "Warning" not in text
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    different = [name for name in one if one[name] != two.get(name)]
    assert {name.split("/")[0] for name in different} <= {"config.yaml", "tensorboard"}
    assert {name.split("/")[0] for name in one} == {
        "labels", "labels.json", "config.yaml", "classes.txt", "metrics.jsonl", "pictures",
        "tensorboard",
    }  # fmt: skip
    summary = json.loads(one["labels.json"])
    assert 0 < summary["threshold"] < 1
    assert any("without masks (colour)" in line for line in summary["supervision"])
    assert (
        max(map(len, text[text.index("pseudo labels of") : text.index("full:")].split("\n"))) < 80
    )
    assert summary["metrics"]["labels/dense_miou"] > 0.4


def test_labels_and_figures_are_those_of_other_code(demo_data, maps, saliency, tmp_path, capsys):
    """Every label by `label_both`, every figure by the tally that measures maps."""
    given = ["--labels.saliency", "dir", "--labels.saliency_dir", saliency]
    oaa(arguments(maps, demo_data, tmp_path / "out", *given))
    image_set = open_image_set(DataConfig(root=str(demo_data), split="trainval"))
    source = open_maps(maps)
    config = LabelsConfig(saliency="dir", saliency_dir=str(saliency))
    total = known = 0
    for sample in image_set.samples:
        kept = {c: unit(map_SS) for _, c, map_SS in source.of([sample.id])}
        image_HW3 = read_image(sample.path, 1.0)
        saliency_HW = read_mask(saliency / f"{sample.id}.png")
        maps_KHW = at_image_size([kept[c] for c in sample.classes], *image_HW3.shape[:2])
        label_HW, _ = label_both(image_HW3, sample.classes, maps_KHW, saliency_HW, config, 0.0)
        found_HW = read_mask(tmp_path / f"out/labels/{sample.id}.png")
        assert np.array_equal(found_HW, label_HW), sample.id
        truth_HW = read_mask(sample.mask)
        known += (truth_HW != 255).sum()
        total += ((found_HW == 255) & (truth_HW != 255)).sum()
    metrics = last(tmp_path / "out")
    assert metrics["labels/ignored"] == pytest.approx(total / known)
    tally = MapTally(EvaluateConfig(saliency_dir=str(saliency)), str(demo_data), image_set)
    tally.add_records(source.records)
    figures = tally.figures("x")
    assert metrics["labels/miou"] == figures["x/label_miou"]
    assert metrics["labels/ignored"] == figures["x/label_ignored"]
    assert metrics["labels/dense_miou"] == figures["x/dense_label_miou"]
    text = capsys.readouterr().out
    assert f"{100 * metrics['labels/miou']:.1f}" in text
    assert "saliency maps of" in text
    assert "masks were read for these figures only" in text


def without(maps: Path, folder: Path, names: list[str]) -> Path:
    """A copy of the maps that lacks those of some images."""
    shutil.copytree(maps, folder)
    rows = (folder / "pairs.csv").read_text().splitlines()
    kept = [row for row in rows if row.split(",")[1] not in names]
    for row in set(rows) - set(kept):
        (folder / row.split(",")[0]).unlink()
    (folder / "pairs.csv").write_text("\n".join(kept) + "\n")
    return folder


def refused(command: list[str], match: str, kind: type[Exception] = UserError) -> None:
    with pytest.raises(kind, match=match) as caught:
        oaa(command)
    assert "\n" not in str(caught.value)


def test_mistakes_are_found_before_anything_is_written(demo_data, maps, tmp_path):
    out = tmp_path / "out"
    refused(["pseudo-label", "--run_dir", str(out)], "maps is empty, expected")
    refused(["pseudo-label", "--maps", str(maps), "--run_dir", str(out)], "does not say which")
    refused(arguments(tmp_path / "no", demo_data, out), "no is no folder, expected a store")
    given = ["--labels.saliency", "dir", "--labels.saliency_dir"]
    refused(arguments(maps, demo_data, out, *given, "nowhere"), "nowhere is no folder")
    other = Path(shutil.copytree(demo_data, tmp_path / "other"))
    names = (other / "classes.txt").read_text().splitlines()
    (other / "classes.txt").write_text("\n".join(names[::-1]) + "\n")
    refused(arguments(maps, other, out), "has other classes than the maps .* class 0 is")
    assert not out.exists()
    (out / "labels").mkdir(parents=True)
    refused(arguments(maps, demo_data, out), "labels exists, and finished files are never")
    assert list(out.iterdir()) == [out / "labels"]
    listed = (demo_data / "ImageSets/Segmentation/val.txt").read_text().split()
    apart = without(maps, tmp_path / "apart", listed)
    asked = [*arguments(apart, demo_data, tmp_path / "none"), "--data.split", "val"]
    refused(asked, r"none of the \d+ images of .* \(data.split 'val'\) has a map in")


def test_an_unreadable_image_among_many(demo_data, maps, tmp_path):
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    bad = sorted((root / "JPEGImages").iterdir())[-1]
    bad.write_bytes(b"")
    asked = arguments(maps, root, tmp_path / "out")
    code, text = run(torchrun(2, "-m", "dist_oaa", *asked), tmp_path / "log", 240)
    assert code != 0
    assert text.count("oaa: error:") == 1, text
    assert f"{bad} cannot be read" in text
    assert list((tmp_path / "out").iterdir()) == []
    oaa([*asked, "--data.on_bad_image", "skip"])
    summary = json.loads((tmp_path / "out/labels.json").read_text())
    assert list(summary["skipped"]) == [bad.stem]
    assert len(list((tmp_path / "out/labels").glob("*.png"))) == summary["images"] - 1


def test_masks_and_saliency_that_do_not_fit_stop_it(demo_data, maps, saliency, tmp_path):
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    mask = sorted((root / "SegmentationClass").iterdir())[3]
    good = mask.read_bytes()
    Image.new("P", (9, 9)).save(mask)
    refused(arguments(maps, root, tmp_path / "a"), rf"{mask.name} has \(9, 9\) pixels")
    with Image.open(root / "JPEGImages" / f"{mask.stem}.jpg") as image:
        Image.fromarray(np.full((image.height, image.width), 99, np.uint8)).save(mask)
    refused(arguments(maps, root, tmp_path / "b"), rf"{mask.name}: truth holds palette value 99")
    mask.write_bytes(good)
    folder = Path(shutil.copytree(saliency, tmp_path / "saliency"))
    (folder / mask.name).unlink()
    given = ["--labels.saliency", "dir", "--labels.saliency_dir", folder]
    refused(arguments(maps, root, tmp_path / "c", *given), f"{mask.name} is missing")
    for name in "abc":
        assert list((tmp_path / name).iterdir()) == []


def test_images_without_attention_are_ignored_whole_and_named(demo_data, maps, tmp_path, capsys):
    names = sorted(p.name.rsplit("_", 1)[0] for p in maps.glob("*.png"))
    zero, gone = names[0], names[-1]
    changed = without(maps, tmp_path / "maps", [gone])
    for path in changed.glob(f"{zero}_*.png"):
        write_map(path, np.zeros((SIZE, SIZE), np.uint8))
    oaa(arguments(changed, demo_data, tmp_path / "out"))
    summary = json.loads((tmp_path / "out/labels.json").read_text())
    assert summary["empty"] == sorted([zero, gone])
    for name in (zero, gone):
        assert (read_mask(tmp_path / f"out/labels/{name}.png") == 255).all()
    text = capsys.readouterr().out
    assert "note: 2 images were ignored whole, without any attention: " in text
    assert zero in text


def test_saliency_maps_once_for_several_runs(demo_data, maps, tmp_path):
    def command(out: Path, *more: object) -> list[str]:
        flags = ["--data.root", demo_data, "--data.split", "trainval", "--runtime.device", "cpu"]
        return ["saliency", "--run_dir", str(out), *map(str, flags), "--gallery", "2", *more]

    oaa(command(tmp_path / "one", "--processes", "1"))
    asked = command(tmp_path / "two", "--processes", "1")
    code, text = run(torchrun(2, "-m", "dist_oaa", *asked), tmp_path / "log", 240)
    assert code == 0, text
    assert files_of(tmp_path / "one/saliency") == files_of(tmp_path / "two/saliency")
    assert (tmp_path / "one/saliency.json").read_text() == (
        tmp_path / "two/saliency.json"
    ).read_text()
    assert (tmp_path / "one/pictures/saliency.png").exists()
    refused(command(tmp_path / "one"), "saliency exists, and finished files are never")
    # From the run, and made on the way: the same labels.
    given = ["--labels.saliency", "dir", "--labels.saliency_dir", tmp_path / "one"]
    oaa(arguments(maps, demo_data, tmp_path / "dir", *given))
    oaa(arguments(maps, demo_data, tmp_path / "here", "--labels.saliency", "spectral"))
    assert files_of(tmp_path / "dir/labels") == files_of(tmp_path / "here/labels")


def slow(maps: Path, root: Path, out: Path) -> list[str]:
    """Long enough to be interrupted."""
    more = ["--labels.refine", "[crf]", "--labels.crf.iterations", "300", "--processes", "2"]
    more += ["--labels.background.method", "fixed"]
    return arguments(maps, root, out, *more)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_cut_off_leaves_no_labels_and_no_process(demo_data, maps, tmp_path, number):
    out = tmp_path / "out"
    started = Running(alone(*slow(maps, demo_data, out)), tmp_path / "log")
    try:
        started.wait_until(lambda: any(out.glob(".labels.tmp/*.png")), 240)
        family = descendants(started.process.pid)
        assert len(family) >= 2
        # As a terminal or a scheduler sends it: to the whole group.
        os.kill(started.process.pid, number) if number == signal.SIGKILL else os.killpg(
            started.process.pid, number
        )
        code = started.wait(120)
        wait_until_gone(family, 60)
    finally:
        if started.process.poll() is None:
            started.kill()
    if number == signal.SIGKILL:
        assert [p.name for p in out.iterdir()] == [".labels.tmp"]
    else:
        assert code == 75, started.text()
        assert f"stopped by {number.name} after" in started.text()
        assert list(out.iterdir()) == []
    oaa(arguments(maps, demo_data, out))
    assert not list(out.glob(".*"))
    assert (out / "labels.json").exists()


def test_a_worker_that_is_killed_ends_the_run(demo_data, maps, tmp_path):
    out = tmp_path / "out"
    started = Running(alone(*slow(maps, demo_data, out)), tmp_path / "log")
    try:
        started.wait_until(lambda: any(out.glob(".labels.tmp/*.png")), 240)
        family = descendants(started.process.pid)
        os.kill(family[-1], signal.SIGKILL)
        assert started.wait(120) == RunError.exit_code, started.text()
        wait_until_gone(family, 60)
    finally:
        if started.process.poll() is None:
            started.kill()
    assert "oaa: error: a worker process died" in started.text()
    assert list(out.iterdir()) == []


def test_the_run_of_the_maps_says_which_images(demo_data, maps, tmp_path):
    run_dir = tmp_path / "earlier"
    shutil.copytree(maps, run_dir / "attention")
    (run_dir / "config.yaml").write_text(
        f"data:\n  root: {demo_data}\n  split: val\n  size: 64\n"
        "model:\n  backbone: lite0\n  weights: none\n"
    )
    out = tmp_path / "out"
    flags = ["--run_dir", str(out), "--runtime.device", "cpu", "--processes", "1"]
    oaa(["pseudo-label", "--maps", str(run_dir), *flags])
    listed = (demo_data / "ImageSets/Segmentation/val.txt").read_text().split()
    assert {p.stem for p in (out / "labels").glob("*.png")} == set(listed)
    assert json.loads((out / "labels.json").read_text())["trunks"] == ["lite0, trunk weights none"]
    assert "split: val" in (out / "config.yaml").read_text()
    refused(
        ["pseudo-label", "--maps", str(run_dir), "--run_dir", str(run_dir)],
        r"holds another run \(attention/\)",
    )
