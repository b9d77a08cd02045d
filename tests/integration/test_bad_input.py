"""A user's mistakes, each through the whole command: one sentence, exit code 2, nothing lost."""

import resource
import shutil
import subprocess
from pathlib import Path

import pytest

from dist_oaa.cli import run as oaa
from dist_oaa.config.errors import RunError, UserError
from processes import Running, alone, environment, run, torchrun
from runs import maps_of, settings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture
def own_data(demo_data, tmp_path) -> Path:
    """A copy of the scenes that a test may damage."""
    return Path(shutil.copytree(demo_data, tmp_path / "data"))


def list_of(root: Path) -> Path:
    return root / "ImageSets" / "Segmentation" / "trainval.txt"


def first_image(root: Path) -> Path:
    return root / "JPEGImages" / f"{list_of(root).read_text().split()[0]}.jpg"


def refused(root: Path, run_dir: Path, match: str, **changes: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        oaa(settings(root, run_dir, **changes))
    assert "\n" not in str(caught.value)


def test_missing_list_entry(own_data, tmp_path):
    with open(list_of(own_data), "a") as file:
        file.write("nowhere\n")
    refused(own_data, tmp_path / "run", "trainval.txt.*nowhere")
    assert not (tmp_path / "run").exists()


def test_unknown_class(own_data, tmp_path):
    path = own_data / "labels.csv"
    path.write_text(path.read_text().replace("snail", "snial", 1))
    refused(own_data, tmp_path / "run", r"labels.csv.*snial.*snail")


def test_image_without_labels(own_data, tmp_path):
    lines = (own_data / "labels.csv").read_text().splitlines()
    name = lines[1].split(",")[0]
    (own_data / "labels.csv").write_text("\n".join([lines[0], *lines[2:]]) + "\n")
    refused(own_data, tmp_path / "run", name)


def test_path_that_leaves_the_root(own_data, tmp_path):
    with open(list_of(own_data), "a") as file:
        file.write("../../secret\n")
    refused(own_data, tmp_path / "run", r"\.\./\.\./secret")


@pytest.mark.parametrize("content", [b"", b"\xff\xd8\xff\xe0 no picture"])
def test_unreadable_jpeg_stops_or_is_skipped(content, own_data, tmp_path):
    bad = first_image(own_data)
    bad.write_bytes(content)
    refused(own_data, tmp_path / "run", f"{bad.name}.*on_bad_image", **{"optim.epochs": 1})
    text_of = settings(
        own_data, tmp_path / "skipping", **{"data.on_bad_image": "skip", "optim.epochs": 1}
    )
    code, text = run(alone(*text_of), tmp_path / "log")
    assert code == 0, text
    assert f"skipped: {bad}" in text
    assert len(maps_of(tmp_path / "skipping")) > 20


def test_bad_image_on_one_rank_stops_all_with_one_sentence(own_data, tmp_path):
    first_image(own_data).write_bytes(b"")
    command = torchrun(2, "-m", "dist_oaa", *settings(own_data, tmp_path / "run"))
    code, text = run(command, tmp_path / "log")
    assert code != 0
    assert text.count("oaa: error:") == 1, text
    assert (
        'Traceback (most recent call last):\n  File "<frozen runpy>'
        not in text.split("oaa: error:")[0]
    )
    assert "exitcode  : 2" in text, text


def test_odd_images_train(own_data, tmp_path):
    """CMYK, grey and 16-bit images are read like any other."""
    import numpy as np
    from PIL import Image

    names = list_of(own_data).read_text().split()[:3]
    for name, mode in zip(names, ("CMYK", "L"), strict=False):
        path = own_data / "JPEGImages" / f"{name}.jpg"
        with Image.open(path) as image:
            image.convert(mode).save(path)
    path = own_data / "JPEGImages" / f"{names[2]}.jpg"
    with Image.open(path) as image:
        grey = np.asarray(image.convert("L")).astype(np.uint16) * 257
    path.unlink()
    Image.fromarray(grey).save(path.with_suffix(".png"))
    oaa(settings(own_data, tmp_path / "run", **{"optim.epochs": 1}))
    assert len(maps_of(tmp_path / "run")) > 24


def test_store_of_other_settings(own_data, tmp_path):
    run_dir = tmp_path / "run"
    oaa(settings(own_data, run_dir, **{"optim.epochs": 1}))
    before = maps_of(run_dir)
    refused(own_data, run_dir, "holds an earlier run; continue it with --resume")
    for changes, match in (
        ({"accumulate.map_size": 20}, "accumulate.map_size 16.*asks for 20"),
        ({"accumulate.dtype": "float16"}, "accumulate.dtype uint8.*float16"),
        ({"store.shards": 5}, "store.shards 6.*5"),
    ):
        refused(own_data, run_dir, match, resume="true", **changes)
    (own_data / "classes.txt").write_text("beetle\nsnail\nrobin\nrabbit\nfrog\nmouse\n")
    refused(own_data, run_dir, "other classes: class 0", resume="true")
    assert maps_of(run_dir) == before


def test_second_writer(own_data, tmp_path):
    run_dir = tmp_path / "run"
    long = settings(own_data, run_dir, **{"optim.epochs": 500})
    first = Running(alone(*long), tmp_path / "first.log")
    try:
        latest = run_dir / "checkpoints" / "latest.json"
        first.wait_until(latest.exists, 100)
        refused(own_data, run_dir, f"being written by another run.*{first.process.pid}",
                resume="true")  # fmt: skip
    finally:
        first.kill()
    assert maps_of(run_dir), "the killed run's maps can be read"


@pytest.mark.parametrize("limit", [40_000, 300_000])
def test_full_disk_keeps_the_last_checkpoint(limit, own_data, tmp_path):
    """The largest file that may be written, in bytes: less than pictures or weights take."""
    run_dir = tmp_path / "run"
    oaa(settings(own_data, run_dir, **{"optim.epochs": 1}))
    before = maps_of(run_dir)

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    arguments = settings(own_data, run_dir, **{"optim.epochs": 2, "resume": "true"})
    result = subprocess.run(
        alone(*arguments), preexec_fn=small_files, env=environment(), capture_output=True,
        text=True, timeout=120, check=False,
    )  # fmt: skip
    assert result.returncode == 2, result.stderr
    assert "stays" in result.stderr
    assert "Traceback" not in result.stderr
    assert maps_of(run_dir) == before
    oaa(settings(own_data, run_dir, **{"optim.epochs": 2, "resume": "true"}))
    assert maps_of(run_dir) != before


def test_non_finite_loss_stops_before_the_step(own_data, tmp_path):
    run_dir = tmp_path / "run"
    with pytest.raises(RunError, match=r"not finite in epoch 1, step .*lower optim.lr"):
        oaa(settings(own_data, run_dir, **{"optim.lr": 1e30}))


def test_too_many_processes(own_data, tmp_path):
    command = torchrun(3, "-m", "dist_oaa", *settings(own_data, tmp_path / "r"))
    code, text = run([*command, "--store.shards", "2"], tmp_path / "log")
    assert code != 0
    assert text.count("3 processes were started, but store.shards is 2") == 1, text


def test_saliency_maps_that_do_not_fit(own_data, tmp_path):
    from PIL import Image

    quick = {"optim.epochs": 1, "evaluate.saliency_dir": "saliency"}
    refused(own_data, tmp_path / "none", "evaluate.saliency_dir .*saliency is no folder", **quick)
    (own_data / "saliency").mkdir()
    refused(own_data, tmp_path / "missing", "saliency map .*png is missing", **quick)
    for name in list_of(own_data).read_text().split():
        Image.new("L", (3, 3)).save(own_data / "saliency" / f"{name}.png")
    refused(own_data, tmp_path / "small", r"has \(3, 3\) pixels", **quick)


def test_a_mask_with_an_unknown_index(own_data, tmp_path):
    import numpy as np
    from PIL import Image

    for path in (own_data / "SegmentationClass").iterdir():
        with Image.open(path) as mask:
            other = Image.fromarray(np.full_like(np.asarray(mask), 77), "P")
        other.putpalette([0, 0, 0] * 256)
        other.save(path)
    refused(own_data, tmp_path / "run", "mask .*png: .*77", **{"optim.epochs": 1})


def test_nothing_would_be_accumulated(own_data, tmp_path):
    changes = {"optim.epochs": 1, "accumulate.start_epoch": 1}
    refused(
        own_data, tmp_path / "run", "accumulate.start_epoch is 1 .* run has 1 epochs", **changes
    )
    assert not (tmp_path / "run").exists()
