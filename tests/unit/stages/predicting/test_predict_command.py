"""`oaa predict` from the command line's words to the files, with a network of random weights."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.run import RuntimeConfig
from dist_oaa.config.segment import SegmentDataConfig
from dist_oaa.data.palette import voc_palette
from dist_oaa.models.segmentation.scoring import Scorer
from dist_oaa.runtime.distributed import open_world
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.predict import as_seen, main, parse, predict
from dist_oaa.stages.trained_segmenter import load_segmenter
from segmenters import NAMES, segmenter_run

ORIENTATION = 0x0112
SUPERVISION = ("supervision: label images of labels", "saliency none")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return segmenter_run(tmp_path_factory.mktemp("run"), supervision=SUPERVISION)


def photo(path: Path, height: int, width: int, seed: int = 0) -> np.ndarray:
    """Patches of colour, without loss where the suffix is .png."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    image.save(path)
    return np.array(image)


def command(*argv: object) -> int:
    return main("oaa predict", [*map(str, argv), "--runtime.device", "cpu"])


def summary_of(out: Path) -> dict:
    return json.loads((out / "predictions.json").read_text(encoding="utf-8"))


def test_masks_overlays_and_areas(tmp_path, run_dir, capsys):
    image_HW3 = photo(tmp_path / "one/a.png", 75, 90)
    photo(tmp_path / "two/a.png", 40, 33, seed=1)
    photo(tmp_path / "two/deep/b.bmp", 41, 60, seed=2)
    (tmp_path / "two/broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no more")
    out = tmp_path / "new/out"
    assert command(run_dir, tmp_path / "one", tmp_path / "two", "--out", out) == 0
    summary = summary_of(out)
    assert [image["name"] for image in summary["images"]] == ["one/a", "two/a", "deep/b"]
    assert summary["classes"] == ["background", *NAMES]
    assert summary["supervision"][-1] == "saliency none"
    assert [Path(f["source"]).name for f in summary["failed"]] == ["broken.jpg"]
    for record in summary["images"]:
        with Image.open(out / "masks" / f"{record['name']}.png") as mask:
            assert mask.mode == "P"
            assert mask.getpalette()[: 3 * 256] == voc_palette().ravel().tolist()
            label_HW = np.array(mask)
        assert label_HW.shape == (record["height"], record["width"])
        counts = {c["label"]: c["pixels"] for c in record["classes"]}
        assert counts == {v: int((label_HW == v).sum()) for v in np.unique(label_HW)}
        assert sum(c["share"] for c in record["classes"]) == pytest.approx(1, abs=1e-5)
        with Image.open(out / "overlays" / f"{record['name']}.png") as overlay:
            assert overlay.height > record["height"]
    # What the network says, without the command around it.
    scores_LHW = Scorer(load_segmenter(run_dir).network).probabilities(image_HW3).numpy()
    with Image.open(out / "masks/one/a.png") as mask:
        assert (np.array(mask) == scores_LHW.argmax(0)).all()
        assert len(np.unique(mask)) > 1
    text = capsys.readouterr().out
    assert "broken.jpg cannot be read as an image" in text
    assert "1 of 4 images were skipped" in text
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]


def test_exif_rotation_is_applied(tmp_path, run_dir):
    photo(tmp_path / "upright.png", 48, 96)
    with Image.open(tmp_path / "upright.png") as upright:
        # 6: to be turned by a quarter clockwise to be seen upright.
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    out = tmp_path / "out"
    assert command(run_dir, tmp_path / "upright.png", tmp_path / "turned.png", "--out", out) == 0
    one, other = summary_of(out)["images"]
    assert (other["height"], other["width"]) == (48, 96)
    assert one["classes"] == other["classes"]


def test_a_network_that_sees_one_class_everywhere(tmp_path, capsys):
    run_dir = segmenter_run(tmp_path / "run", always=2)
    photo(tmp_path / "a.png", 30, 50)
    options = ("--overlays", "false", "--crf", "--out", tmp_path / "out")
    assert command(run_dir, tmp_path / "a.png", *options) == 0
    (record,) = summary_of(tmp_path / "out")["images"]
    expected = {"class": "dining table", "label": 2, "pixels": 1500, "share": 1.0}
    assert record["classes"] == [expected]
    assert not (tmp_path / "out/overlays").exists()
    assert summary_of(tmp_path / "out")["settings"]["crf"]["iterations"] == 10
    text = capsys.readouterr().out
    assert "CRF dense" in text
    assert max(map(len, text.splitlines())) < 140


def test_unreadable_images_that_stop(tmp_path, run_dir):
    photo(tmp_path / "photos/a.png", 32, 32)
    (tmp_path / "photos/b.jpg").write_bytes(b"")
    options = ("--on_bad_image", "stop", "--out", tmp_path / "out")
    with pytest.raises(UserError, match=r"b\.jpg cannot be read as an image: the file is empty"):
        command(run_dir, tmp_path / "photos", *options)
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_nothing_but_unreadable_images(tmp_path, run_dir):
    for name in "ab":
        (tmp_path / f"{name}.jpg").write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the 2 images can be used, first: .*a\.jpg"):
        command(run_dir, tmp_path, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    photo(tmp_path / "large.png", 100, 100)
    options = ("--pixel_limit", "0.001", "--out", tmp_path / "out")
    with pytest.raises(UserError, match=r"large\.png .* and pixel_limit is 0.001 megapixels"):
        command(run_dir, tmp_path / "large.png", *options)


def test_earlier_results_are_not_overwritten(tmp_path, run_dir):
    photo(tmp_path / "a.png", 32, 32)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(UserError, match="nothing is ever overwritten"):
        command(run_dir, tmp_path / "a.png", "--out", tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_a_signal_leaves_nothing_behind(tmp_path, run_dir):
    photo(tmp_path / "a.png", 32, 32)
    config = parse("oaa predict", [str(run_dir), str(tmp_path / "a.png"), "--out", "x"])
    config.out = str(tmp_path / "out")
    stop = StopFlag()
    stop.reason = "SIGTERM"
    with (
        open_world(RuntimeConfig(device="cpu")) as world,
        pytest.raises(Interrupted, match="stopped by SIGTERM after 0 of 1 images"),
    ):
        predict(config, world, stop)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        ([], "no checkpoint is given, expected oaa predict CHECKPOINT IMAGE_OR_FOLDER..."),
        (["run"], "no image is given"),
        (["run", "a.jpg", "--tile", "8"], "tile is 8 and overlap 128 pixels"),
        (["run", "a.jpg", "--view.flip", "true"], "the nearest valid key is views.flip"),
        (["run", "a.jpg", "--views.combine", "max"], "views.combine is max, expected mean"),
        (["run", "a.jpg", "--size", "3"], "size is 3 pixels"),
    ],
)
def test_mistakes_on_the_command_line(argv, sentence):
    with pytest.raises(UserError, match=sentence.replace(".", r"\.")):
        parse("oaa predict", argv)


def test_words_and_settings():
    config = parse(
        "oaa predict", ["run", "a.jpg", "--crf", "b c.jpg", "--views.scales", "0.5", "1"]
    )
    assert (config.checkpoint, config.images) == ("run", ["a.jpg", "b c.jpg"])
    assert config.crf
    assert config.views.scales == [0.5, 1.0]
    assert parse("oaa predict", ["--checkpoint", "run", "a.jpg"]).images == ["a.jpg"]


@pytest.mark.parametrize(
    ("size", "trained", "seen"),
    [
        (-1, ("keep", 224), ("keep", 224)),
        (-1, ("short_side", 160), ("short_side", 160)),
        (-1, ("square", 160), ("square", 160)),
        (0, ("short_side", 160), ("keep", 160)),
        (500, ("keep", 224), ("short_side", 500)),
    ],
)
def test_size(tmp_path, size, trained, seen):
    data = SegmentDataConfig(resize=trained[0], size=trained[1])
    run_dir = segmenter_run(tmp_path / "run", data=data)
    config = parse("oaa predict", [str(run_dir), "a.jpg", "--size", str(size)])
    found: DataConfig = as_seen(config, load_segmenter(run_dir))
    assert (found.resize, found.size) == seen


@pytest.mark.slow
def test_processes_change_nothing(tmp_path, run_dir):
    for number in range(5):
        photo(tmp_path / f"photos/{number}.png", 40 + number, 50, seed=number)
    (tmp_path / "photos/2b.png").write_bytes(b"")
    found = {}
    for processes in (1, 2):
        out = tmp_path / f"out{processes}"
        options = ("--crf", "--processes", processes, "--out", out)
        assert command(run_dir, tmp_path / "photos", *options) == 0
        summary = summary_of(out)
        for record in summary["images"]:
            record.pop("seconds")
        files = {p.relative_to(out): p.read_bytes() for p in out.rglob("*.png")}
        found[processes] = (summary, files)
    assert found[1] == found[2]
    assert len(found[1][1]) == 10
