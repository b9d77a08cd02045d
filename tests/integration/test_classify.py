"""The main command, as the README gives it, on real photographs where there are any."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_oaa.cli import run as oaa
from processes import REPOSITORY, alone, run, torchrun
from runs import maps_of, settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]

CONFIG = REPOSITORY / "configs" / "voc12" / "oaa_efficientnet_lite0.yaml"


@pytest.fixture(scope="module")
def dozen(request, tmp_path_factory) -> Path:
    """A dozen VOC images, or of the drawn scenes where the photographs are absent."""
    try:
        source = request.getfixturevalue("data_root")("voc2012-dev")
    except pytest.skip.Exception as reason:
        print(f"drawn scenes instead of photographs: {reason}")
        source = request.getfixturevalue("demo_data")
    names = (source / "ImageSets/Segmentation/train.txt").read_text().split()[:12]
    root = tmp_path_factory.mktemp("dozen")
    for folder, suffix in (("JPEGImages", ".jpg"), ("SegmentationClass", ".png")):
        (root / folder).mkdir()
        for name in names:
            shutil.copy(source / folder / (name + suffix), root / folder)
    (root / "ImageSets/Segmentation").mkdir(parents=True)
    (root / "ImageSets/Segmentation/train.txt").write_text("\n".join(names) + "\n")
    for name in ("labels.csv", "classes.txt"):
        if (source / name).exists():
            shutil.copy(source / name, root)
    return root


@pytest.fixture(scope="module")
def finished(dozen, tmp_path_factory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("classify")
    arguments = ["classify", "--config", str(CONFIG), "--data.root", str(dozen)]
    arguments += ["--run_dir", str(folder / "run"), "--optim.epochs", "2", "--data.size", "96"]
    arguments += ["--optim.batch_size", "4", "--optim.accumulate", "2"]
    arguments += ["--runtime.log_every", "1", "--optim.precision", "bf16"]
    # What users do, with nothing imported ahead and a hash seed for each rank.
    command = torchrun(2, "-m", "dist_oaa", *arguments)
    code, text = run(command, folder / "log", seconds=240, fresh=True)
    assert code == 0, text
    return folder / "run", text


def test_what_it_prints(finished):
    _, text = finished
    assert "CAM (final classifier)" in text
    assert "supervision: image-level labels" in text
    assert text.count("12 images") == 1, "more than one rank prints"
    assert "Traceback" not in text
    assert "Warning" not in text


def test_what_it_leaves(finished):
    run_dir, _ = finished
    left = {path.name for path in run_dir.iterdir()}
    assert left == {
        "checkpoints", "classes.txt", "config.yaml", "heartbeat.json", "launchers.json", "leases",
        "metrics.jsonl", "pictures", "store",
        "tensorboard",
    }  # fmt: skip
    config = yaml.safe_load((run_dir / "config.yaml").read_text())
    assert config["optim"]["epochs"] == 2
    assert config["accumulate"]["gate"] == "strict"
    assert {p.name for p in (run_dir / "pictures").glob("*.png")} == {
        "attention.png",
        "evolution.png",
    }
    assert len(weights_of(run_dir)) > 100
    maps = maps_of(run_dir)
    assert len(maps) >= 12
    assert all(accepted > 0 or fallback for _, _, accepted, fallback in maps.values())


def test_metrics_are_the_tensorboard_scalars(finished):
    run_dir, _ = finished
    lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
    epochs = [line for line in lines if line.get("closes_epoch")]
    assert [line["epoch"] for line in epochs] == [0, 1]
    assert {
        "cam/recall", "cam/noise", "cam/seed_miou", "cumulative/recall", "cumulative/noise",
        "cumulative/seed_miou", "accept_rate", "classifier/map", "pairs/coverage",
    } <= epochs[-1].keys()  # fmt: skip
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"images": 0}).Reload()
    for name, value in epochs[-1].items():
        if (
            name in ("stage", "epoch", "step", "closes_epoch")
            or name.startswith("per_class/")
            or value is None
        ):
            continue
        last = events.Scalars(name)[-1]
        assert (last.step, last.value) == (epochs[-1]["step"], pytest.approx(value, rel=1e-6))
    assert {"attention", "evolution"} <= set(events.Tags()["images"])
    compared = events.Scalars("hparam/cumulative/recall")[-1].value
    assert compared == pytest.approx(epochs[-1]["cumulative/recall"], rel=1e-6)


def test_every_setting_of_the_training_step_runs(demo_data, tmp_path):
    """AdamW, average fusion, crops and scales, no masks in sight."""
    root = tmp_path / "unmasked"
    shutil.copytree(demo_data, root)
    shutil.rmtree(root / "SegmentationClass")
    arguments = settings(
        root,
        tmp_path / "run",
        **{
            "optim.optimizer": "adamw",
            "optim.lr": 0.001,
            "optim.epochs": 1,
            "accumulate.fusion": "average",
            "data.augment.crop": 48,
            "data.augment.scale": "[0.8,1.2]",
            "data.resize": "short_side",
            "store.local_dir": tmp_path / "local",
        },
    )
    code, text = run(alone(*arguments), tmp_path / "log")
    assert code == 0, text
    assert "attention quality" not in text
    last = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert "cam/recall" not in last
    assert last["classifier/map"] > 0
    assert len(maps_of(tmp_path / "run")) > 24


def test_uneven_ranks_match_one_rank(demo_data, tmp_path):
    """Three ranks with 24 images in steps of 7 (some ranks without one) follow one rank's loss."""
    losses = {}
    for ranks in (1, 3):
        run_dir = tmp_path / f"run{ranks}"
        arguments = settings(
            demo_data, run_dir, **{"optim.batch_size": 7, "store.shards": 4, "optim.epochs": 2}
        )
        code, text = run(torchrun(ranks, "-m", "dist_oaa", *arguments), tmp_path / f"log{ranks}")
        assert code == 0, text
        lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
        losses[ranks] = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses[1]) == 8
    assert losses[3] == pytest.approx(losses[1], rel=1e-3)


def test_figures_do_not_depend_on_the_world(demo_data, tmp_path):
    """One finished run, continued without learning by one rank and by three."""
    base = tmp_path / "base"
    code, text = run(alone(*settings(demo_data, base)), tmp_path / "log")
    assert code == 0, text
    figures = {}
    for ranks in (1, 3):
        run_dir = Path(shutil.copytree(base, tmp_path / f"world{ranks}"))
        still = {"optim.epochs": 3, "optim.lr": 1e-12, "resume": "true"}
        command = torchrun(ranks, "-m", "dist_oaa", *settings(demo_data, run_dir, **still))
        code, text = run(command, tmp_path / f"log{ranks}")
        assert code == 0, text
        last = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[-1])
        figures[ranks] = {k: v for k, v in last.items() if k.startswith(("cam/", "cumulative/"))}
    assert figures[1]["cumulative/recall"] > 0
    for name, value in figures[1].items():
        # Convolutions of other batch sizes differ in the last bits, which moves a few pixels.
        assert figures[3][name] == pytest.approx(value, abs=0.01), name


def test_micro_batches_add_up_to_the_step(demo_data, tmp_path):
    losses = {}
    for parts in (1, 3):
        run_dir = tmp_path / f"run{parts}"
        oaa(settings(demo_data, run_dir, **{"optim.accumulate": parts}))
        lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
        losses[parts] = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses[1]) == 8
    assert losses[3] == pytest.approx(losses[1], rel=1e-3)


def test_compiled_under_ddp_follows_eager(demo_data, tmp_path):
    losses = {}
    for compiled in ("false", "true"):
        run_dir = tmp_path / compiled
        arguments = settings(demo_data, run_dir, **{"optim.compile": compiled, "optim.epochs": 1})
        code, text = run(torchrun(2, "-m", "dist_oaa", *arguments), tmp_path / "log", seconds=250)
        assert code == 0, text
        lines = [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]
        losses[compiled] = [line["train/loss"] for line in lines if "train/loss" in line]
    assert len(losses["true"]) == 4
    assert losses["true"] == pytest.approx(losses["false"], rel=1e-3)


def test_one_folder_per_class(demo_data, tmp_path):
    """The plain layout: no lists, no masks, names with their folder."""
    with open(demo_data / "labels.csv", newline="") as file:
        for row in csv.DictReader(file):
            folder = tmp_path / "photos" / row["classes"].split()[0]
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copy(demo_data / "JPEGImages" / f"{row['image_id']}.jpg", folder)
    oaa(settings(tmp_path / "photos", tmp_path / "run", **{"optim.epochs": 1}))
    maps = maps_of(tmp_path / "run")
    assert len(maps) == 24, "one class an image"
    assert all("/" in name for name, _ in maps)
    oaa(["store", "export", str(tmp_path / "run"), str(tmp_path / "maps")])
    assert len(list((tmp_path / "maps").glob("*/*.png"))) == 24


def test_a_table_of_paths(demo_data, tmp_path):
    lines = ["path,classes"]
    with open(demo_data / "labels.csv", newline="") as file:
        lines += [f"JPEGImages/{r['image_id']}.jpg,{r['classes']}" for r in csv.DictReader(file)]
    (tmp_path / "table.csv").write_text("\n".join(lines) + "\n")
    table = {"data.table": tmp_path / "table.csv", "optim.epochs": 1}
    oaa(settings(demo_data, tmp_path / "run", **table))
    assert len(maps_of(tmp_path / "run")) > 24
