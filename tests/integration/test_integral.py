"""`oaa integral` in whole runs: on any number of ranks, from maps of any form, to its own maps."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.stages.attending import Attender
from processes import run, torchrun
from runs import assert_same_weights, files_of, integral_settings, settings, weights_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]


@pytest.fixture(scope="module")
def classified(demo_data, tmp_path_factory) -> Path:
    """A small classify run whose maps are learnt."""
    run_dir = tmp_path_factory.mktemp("classify") / "run"
    # Its last bias stays where it is: attention would fade before anything is learnt.
    still = {"optim.multipliers": "[1, 2, 10, 0]", "optim.epochs": 1}
    oaa(settings(demo_data, run_dir, **still))
    return run_dir


@pytest.fixture(scope="module")
def on_ranks(demo_data, classified, tmp_path_factory):
    """Run directory and output of the same integral training on one rank and on two."""
    folder, done = tmp_path_factory.mktemp("integral"), {}
    for ranks in (1, 2):
        run_dir = folder / f"run{ranks}"
        views = {"views.scales": "[0.75, 1.0]", "views.flip": "true"}
        flags = integral_settings(demo_data, classified, run_dir, **views)
        code, text = run(torchrun(ranks, "-m", "dist_oaa", *flags), folder / f"log{ranks}")
        assert code == 0, text
        done[ranks] = run_dir, text
    return done


def lines_of(run_dir: Path) -> list[dict]:
    return [json.loads(x) for x in (run_dir / "metrics.jsonl").read_text().splitlines()]


def epochs_of(run_dir: Path) -> list[dict]:
    return [line for line in lines_of(run_dir) if line.get("closes_epoch")]


def test_what_it_prints(on_ranks):
    _, text = on_ranks[2]
    for said in (
        "cumulative (target)",
        "integral (hybrid)",
        "supervision: image-level labels",
        "views: scales 0.75 1, flipped too, mean",
        "maps of 16 x 16 cells from",
    ):
        assert said in text
    assert text.count("24 images, ") == 1, "more than one rank prints"
    assert "Traceback" not in text
    assert "Warning" not in text


def test_what_it_leaves(on_ranks, classified):
    run_dir, _ = on_ranks[2]
    assert {path.name for path in run_dir.iterdir()} == {
        "attention", "checkpoints", "classes.txt", "config.yaml", "heartbeat.json", "leases",
        "launchers.json", "metrics.jsonl", "pictures",
        "tensorboard",
    }  # fmt: skip
    with open(run_dir / "attention" / "pairs.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 42
    for row in rows:
        with Image.open(run_dir / "attention" / row["file"]) as picture:
            assert (picture.mode, picture.size) == ("L", (16, 16))
            assert np.asarray(picture).max() == 255
    names = (classified / "classes.txt").read_text()
    assert (run_dir / "attention" / "classes.txt").read_text() == names
    assert {p.name for p in (run_dir / "pictures").glob("*.png")} == {
        "attention.png",
        "evolution.png",
    }


def test_metrics_and_curves(on_ranks, classified):
    run_dir, _ = on_ranks[2]
    first, last = epochs_of(run_dir)
    assert {"integral/recall", "integral/noise", "integral/seed_miou"} <= first.keys()
    assert "target/recall" not in first
    # The targets are the maps of the classify run: so are their figures.
    for name in ("recall", "noise", "seed_miou"):
        expected = epochs_of(classified)[-1][f"cumulative/{name}"]
        assert last[f"target/{name}"] == pytest.approx(expected, rel=1e-12)
    assert 0 < last["train/attended_cells"] <= 1
    assert last["train/epoch_loss"] < first["train/epoch_loss"]
    events = EventAccumulator(str(run_dir / "tensorboard"), size_guidance={"images": 0}).Reload()
    curve = events.Scalars("integral/recall")
    assert [e.step for e in curve] == [4, 8]
    assert curve[-1].value == pytest.approx(last["integral/recall"], rel=1e-6)
    assert {"attention", "evolution"} <= set(events.Tags()["images"])


def test_two_ranks_follow_one(on_ranks):
    one, two = (on_ranks[ranks][0] for ranks in (1, 2))
    weights, others = weights_of(one), weights_of(two)
    assert weights.keys() == others.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, rtol=1e-3, atol=1e-5, err_msg=name)
    maps, other_maps = (
        {p.name: np.asarray(Image.open(p)).astype(int) for p in (d / "attention").glob("*.png")}
        for d in (one, two)
    )
    assert maps.keys() == other_maps.keys()
    assert max(abs(maps[name] - other_maps[name]).max() for name in maps) <= 2


@pytest.fixture(scope="module")
def one_epoch(demo_data, classified, tmp_path_factory) -> Path:
    """A training of one epoch."""
    run_dir = tmp_path_factory.mktemp("integral") / "one"
    oaa(integral_settings(demo_data, classified, run_dir, **{"optim.epochs": 1}))
    return run_dir


def test_any_form_of_the_maps_gives_the_same(demo_data, classified, one_epoch, tmp_path):
    oaa(["store", "export", str(classified), str(tmp_path / "maps")])
    run_dir = tmp_path / "run"
    oaa(integral_settings(demo_data, tmp_path / "maps", run_dir, **{"optim.epochs": 1}))
    assert_same_weights(run_dir, one_epoch)
    assert files_of(run_dir / "attention") == files_of(one_epoch / "attention")
    maps = [np.asarray(Image.open(p)) for p in (run_dir / "attention").glob("*.png")]
    assert np.median([map_SS.min() for map_SS in maps]) < 250, "flat maps would prove nothing"


def test_from_an_integral_run_and_its_weights(demo_data, on_ranks, tmp_path, capsys):
    """A second round: the maps are those of attention/, the weights those of the first round."""
    first = on_ranks[1][0]
    again = {"integral.init": first, "optim.epochs": 1, "optim.lr": 1e-12}
    oaa(integral_settings(demo_data, first, tmp_path / "run", **again))
    text = capsys.readouterr().out
    assert f"cells from {first / 'attention'}" in text
    assert f"all weights from {first}, step 8" in text
    weights, others = weights_of(first), weights_of(tmp_path / "run")
    model = [name for name in weights if name.startswith("model.")]
    for name in model:
        np.testing.assert_allclose(others[name], weights[name], rtol=0, atol=1e-8)
    last, before = epochs_of(tmp_path / "run")[-1], epochs_of(first)[-1]
    assert last["target/recall"] == pytest.approx(before["integral/recall"], rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"integral.loss": "mce", "optim.accumulate": 3, "optim.optimizer": "sgd"},
        {"integral.loss": "ep", "integral.threshold": 0.3, "data.resize": "short_side"},
        {"integral.normalise": "per_class", "optim.precision": "bf16", "data.augment.crop": 48},
    ],
    ids=lambda changes: " ".join(map(str, changes.values())),
)
def test_every_loss_runs_without_masks(changes, demo_data, classified, tmp_path, capsys):
    root = Path(shutil.copytree(demo_data, tmp_path / "data"))
    shutil.rmtree(root / "SegmentationClass")
    run_dir = tmp_path / "run"
    oaa(integral_settings(root, classified, run_dir, **{"optim.epochs": 1} | changes))
    assert "attention quality" not in capsys.readouterr().out
    (last,) = epochs_of(run_dir)
    assert last["train/epoch_loss"] > 0
    assert "integral/recall" not in last
    assert len(list((run_dir / "attention").glob("*.png"))) == 42


def test_pairs_without_a_map_are_counted_and_left_out(demo_data, classified, tmp_path, capsys):
    oaa(["store", "export", str(classified), str(tmp_path / "export")])
    table = tmp_path / "export" / "pairs.csv"
    header, *lines = table.read_text().splitlines()
    name = lines[0].split(",")[1]
    mine = [line for line in lines if line.split(",")[1] == name]
    for line in mine:
        (tmp_path / "export" / line.split(",")[0]).unlink()
    table.write_text("\n".join([header, *(line for line in lines if line not in mine)]) + "\n")
    oaa(integral_settings(demo_data, tmp_path / "export", tmp_path / "run", **{"optim.epochs": 1}))
    text = " ".join(capsys.readouterr().out.split())
    assert f"targets: {42 - len(mine)} maps" in text
    assert "(1 images have no map at all" in text
    assert len(list((tmp_path / "run" / "attention").glob("*.png"))) == 42


def test_missing_maps_of_a_finished_training_are_made_up(
    demo_data, classified, one_epoch, tmp_path, capsys, monkeypatch
):
    """A signal while the maps are written, then --resume; then --resume once more."""
    whole, cut = one_epoch, tmp_path / "cut"
    once = {"optim.epochs": 1}

    def interrupted(self, out):
        raise Interrupted("stopped by SIGTERM after 3 of 24 images")

    with monkeypatch.context() as patch:
        patch.setattr(Attender, "run", interrupted)
        with pytest.raises(
            Interrupted, match=r"training is complete, but its maps are not.*SIGTERM"
        ):
            oaa(integral_settings(demo_data, classified, cut, **once))
    assert not (cut / "attention").exists()
    resume = integral_settings(demo_data, classified, cut, resume="true", **once)
    oaa(resume)
    assert_same_weights(whole, cut)
    assert files_of(whole / "attention") == files_of(cut / "attention")
    assert epochs_of(cut) == epochs_of(whole)

    shutil.rmtree(cut / "attention")
    oaa(resume)
    assert files_of(whole / "attention") == files_of(cut / "attention")
    capsys.readouterr()
    oaa(resume)
    assert f"{cut} is complete: 1 epochs were done before" in capsys.readouterr().out

    longer = integral_settings(demo_data, classified, cut, resume="true", **{"optim.epochs": 2})
    oaa(longer)
    assert files_of(whole / "attention") != files_of(cut / "attention"), "those of one epoch"


def refused(data: Path, maps: Path, run_dir: Path, match: str, **changes: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        oaa(integral_settings(data, maps, run_dir, **changes))
    assert "\n" not in str(caught.value)
    assert not run_dir.exists()


def test_maps_of_something_else(demo_data, classified, tmp_path):
    run_dir, root = tmp_path / "run", tmp_path / "data"
    refused(demo_data, tmp_path / "nowhere", run_dir, "nowhere is no folder")
    refused(demo_data, "", run_dir, "^maps is empty, expected a run directory")
    some = {"data.limit": 12}
    refused(demo_data, classified, run_dir, "image 'demo_.*not among the 12 images", **some)
    shutil.copytree(demo_data, root)
    table = root / "labels.csv"
    header, first, *rest = table.read_text().splitlines()
    name, classes = first.split(",")
    present = classes.split()
    absent = next(x for x in ("snail", "frog", "robin", "rabbit") if x not in present)
    table.write_text("\n".join([header, f"{name},{absent}", *rest]) + "\n")
    refused(root, classified, run_dir, f"map of image '{name}' and class .*no label of that image")
    table.write_text("\n".join([header, first, *rest]) + "\n")
    names = (root / "classes.txt").read_text().split()
    (root / "classes.txt").write_text("\n".join(reversed(names)) + "\n")
    refused(root, classified, run_dir, f"class 0 is '{names[0]}' there, '{names[-1]}' here")


def test_other_mistakes(demo_data, classified, tmp_path):
    run_dir = tmp_path / "run"
    refused(demo_data, classified, run_dir, "no complete checkpoint", resume="true")
    refused(demo_data, classified, run_dir, "model.variant is acol", model__variant="acol")
    threshold = {"integral.threshold": 1.0}
    refused(demo_data, classified, run_dir, "integral.threshold is 1.0, expected", **threshold)
    refused(demo_data, classified, run_dir, "is no run directory", integral__init=tmp_path)
    other = {"integral.init": classified, "model.head_channels": 8}
    refused(demo_data, classified, run_dir, "holds another network than the settings", **other)
    saliency = {"evaluate.saliency_dir": "nowhere"}
    refused(demo_data, classified, run_dir, "saliency_dir .*nowhere is no folder", **saliency)
    with pytest.raises(UserError, match=r"holds an earlier run"):
        oaa(integral_settings(demo_data, classified, classified))
