"""The demo data set: its files, its scenes, and the property that makes it worth accumulating."""

import csv
import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.data import demo
from dist_oaa.data.demo import generate, in_val, primary_class, voc_palette
from dist_oaa.data.demo_creatures import (
    CLASSES,
    PALETTES,
    PREFERRED,
    TORSO_AREA,
    TORSOS,
    creature,
    draw_look,
    polygon_area,
    torso_outline,
)
from dist_oaa.data.demo_scene import IGNORE, Placed, arrange, paint, render, silhouettes
from dist_oaa.data.demo_textures import BACKGROUNDS, COATS, background

SMALL = 64


@pytest.fixture(scope="module")
def data_set(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("demo") / "data"
    generate(str(root), images=18, seed=3, size=SMALL)
    return root


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def read_list(root: Path, split: str) -> list[str]:
    return (root / "ImageSets" / "Segmentation" / f"{split}.txt").read_text("utf-8").split()


def read_labels(root: Path) -> dict[str, list[str]]:
    with open(root / "labels.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert set(rows[0]) == {"image_id", "classes"}
    return {row["image_id"]: row["classes"].split(" ") for row in rows}


def centred(label: int, seed: int, side: int = 200) -> Placed:
    """Return a creature in the middle of an empty square, unrotated."""
    look = draw_look(np.random.default_rng(seed), CLASSES[label])
    scale = side / 5
    affine = np.array([[scale, 0, side / 2], [0, scale, side / 2]])
    return Placed(label, look, creature(CLASSES[label], look), affine, scale)


# Files


def test_same_arguments_give_the_same_bytes_and_another_seed_others(data_set, tmp_path):
    generate(str(tmp_path / "again"), images=18, seed=3, size=SMALL)
    first, again = digests(data_set), digests(tmp_path / "again")
    assert first == again
    assert len(first) == 18 * 2 + 3 + 3

    generate(str(tmp_path / "other"), images=18, seed=4, size=SMALL)
    other = digests(tmp_path / "other")
    assert not [n for n in first if n.endswith(".jpg") and first[n] == other[n]]


def test_an_image_does_not_depend_on_how_many_there_are(data_set, tmp_path):
    generate(str(tmp_path / "few"), images=4, seed=3, size=SMALL)
    first, few = digests(data_set), digests(tmp_path / "few")
    pictures = [name for name in few if name.endswith((".jpg", ".png"))]
    assert len(pictures) == 8
    assert all(few[name] == first[name] for name in pictures)


def test_labels_are_exactly_the_classes_in_the_masks(data_set):
    names = (data_set / "classes.txt").read_text("utf-8").splitlines()
    assert names == list(CLASSES)
    labels = read_labels(data_set)
    assert list(labels) == read_list(data_set, "trainval")
    for image_id, classes in labels.items():
        with Image.open(data_set / "SegmentationClass" / f"{image_id}.png") as mask:
            values = set(np.asarray(mask).flat)
            assert mask.mode == "P"
            assert mask.getpalette() == voc_palette().flatten().tolist()
            mask_size = mask.size
        assert {names.index(c) + 1 for c in classes} == values - {0, IGNORE}
        assert IGNORE in values
        with Image.open(data_set / "JPEGImages" / f"{image_id}.jpg") as image:
            assert image.mode == "RGB"
            assert image.size == mask_size


def test_lists_split_two_to_one_with_every_class_in_both(data_set):
    train, val = read_list(data_set, "train"), read_list(data_set, "val")
    labels = read_labels(data_set)
    assert (len(train), len(val)) == (12, 6)
    assert set(train) | set(val) == set(labels)
    assert not set(train) & set(val)
    for split in (train, val):
        assert {c for image_id in split for c in labels[image_id]} == set(CLASSES)


def test_summary_counts_what_the_files_say(tmp_path):
    summary = generate(str(tmp_path / "d"), images=7, seed=1, size=SMALL)
    labels = read_labels(tmp_path / "d")
    assert (summary.images, summary.train, summary.val) == (7, 5, 2)
    assert sum(summary.images_per_class.values()) == sum(len(c) for c in labels.values())
    assert summary.images_per_class == {
        name: sum(name in classes for classes in labels.values()) for name in CLASSES
    }
    readme = (tmp_path / "d" / "README.md").read_text("utf-8")
    assert "--images 7 --seed 1 --size 64" in readme
    assert str(tmp_path) not in readme


def test_primary_classes_come_in_turn_in_each_list():
    for member in (in_val, lambda index: not in_val(index)):
        sequence = [primary_class(i) for i in range(180) if member(i)]
        assert sequence == [k % len(CLASSES) for k in range(len(sequence))]


def test_palette_is_that_of_voc():
    palette = voc_palette()
    # Background, aeroplane, bicycle, person, tvmonitor and the contour, as VOC's files have them.
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        15: (192, 128, 128),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    assert {index: tuple(palette[index].tolist()) for index in known} == known


# Refusals and failures


def test_a_folder_with_content_is_refused_and_force_replaces_demo_data_only(tmp_path):
    out = tmp_path / "d"
    out.mkdir()
    generate(str(out), images=3, size=SMALL)  # an empty folder is fine
    before = digests(out)
    with pytest.raises(UserError, match="not empty"):
        generate(str(out), images=3, seed=9, size=SMALL)
    assert digests(out) == before

    generate(str(out), images=3, seed=9, size=SMALL, force=True)
    assert digests(out) != before
    assert [p.name for p in tmp_path.iterdir()] == ["d"]

    before = digests(out)
    (out / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(UserError, match="not demo data"):
        generate(str(out), images=3, size=SMALL, force=True)
    assert digests(out).keys() == before.keys() | {"holiday.jpg"}


def test_force_does_not_take_a_stranger_with_the_same_folders(tmp_path):
    (tmp_path / "voc" / "JPEGImages").mkdir(parents=True)
    with pytest.raises(UserError, match="not demo data"):
        generate(str(tmp_path / "voc"), images=3, size=SMALL, force=True)
    assert (tmp_path / "voc" / "JPEGImages").is_dir()


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_file_in_the_way_is_a_user_error(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="out: "):
        generate(str(tmp_path / name), images=3, size=SMALL)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        ({"images": 2}, "images"),
        ({"seed": -1}, "seed"),
        ({"size": 63}, "size"),
        ({"out": ""}, "out"),
    ],
)
def test_arguments_out_of_range_name_the_key(tmp_path, wrong, key):
    with pytest.raises(UserError, match=rf"^{key} is "):
        generate(**({"out": str(tmp_path / "d")} | wrong))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_behind_and_spares_what_was_there(tmp_path, monkeypatch, failure):
    out = tmp_path / "d"
    generate(str(out), images=3, size=SMALL)
    before = digests(out)

    def failing(seed, index, size, primary):
        if index == 2:
            raise failure
        return render(seed, index, size, primary)

    monkeypatch.setattr(demo, "render", failing)
    with pytest.raises(failure):
        generate(str(tmp_path / "new"), images=3, seed=5, size=SMALL)
    with pytest.raises(failure):
        generate(str(out), images=3, seed=5, size=SMALL, force=True)
    assert [p.name for p in tmp_path.iterdir()] == ["d"]
    assert digests(out) == before


def test_a_failed_move_puts_the_old_data_back(tmp_path):
    old, missing = tmp_path / "old", tmp_path / "missing"
    old.mkdir()
    (old / "content").write_text("kept")
    with pytest.raises(FileNotFoundError):
        demo._swap(missing, old, tmp_path / "replaced")
    assert (old / "content").read_text() == "kept"


# Creatures


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_the_part_that_tells_the_class_is_small(label):
    for seed in range(8):
        whole, head = silhouettes(centred(label, seed), 200, 200)
        assert not (head & ~whole).any()
        assert 0.08 <= head.sum() / whole.sum() <= 0.15


def test_bodies_are_shared_between_the_classes():
    for name in CLASSES:
        rng = np.random.default_rng(11)
        looks = [draw_look(rng, name) for _ in range(500)]
        torsos, coats = (Counter(getattr(k, key) for k in looks) for key in ("torso", "coat"))
        assert set(torsos) == set(TORSOS)
        assert set(coats) == set(COATS)
        torso, coat = PREFERRED[name]
        # 500 draws at 0.6 have a standard deviation of 0.022.
        assert 0.5 < torsos[torso] / 500 < 0.7
        assert 0.5 < coats[coat] / 500 < 0.7
        mains = np.array([p[0] for p in PALETTES])
        nearest = [int(np.abs(mains - k.main).sum(axis=1).argmin()) for k in looks]
        assert np.bincount(nearest, minlength=len(PALETTES)).min() > 0.17 * 500


def test_no_two_classes_prefer_the_same_body():
    assert len(set(PREFERRED.values())) == len(CLASSES)


def test_away_from_the_head_a_body_is_the_same_whatever_the_class():
    one = centred(0, seed=2)
    bodies, heads = [], []
    for name in CLASSES:
        same = replace(one, patches=creature(name, one.look))
        canvas = np.full((200, 200, 3), -1, np.float32)
        paint(canvas, same)
        bodies.append(canvas)
        heads.append(silhouettes(same, 200, 200)[1] > 0)
    away = ~np.logical_or.reduce(heads)
    assert (bodies[0][away] >= 0).sum() > 9_000  # values: most of the torso was compared
    for body in bodies[1:]:
        np.testing.assert_array_equal(body[away], bodies[0][away])
    assert len({body.tobytes() for body in bodies}) == len(CLASSES)


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_paint_touches_exactly_the_silhouette(label):
    one = centred(label, seed=label)
    canvas = np.full((200, 200, 3), -1, np.float32)
    paint(canvas, one)
    np.testing.assert_array_equal((canvas >= 0).all(axis=2), silhouettes(one, 200, 200)[0] > 0)


@given(st.sampled_from(TORSOS), st.floats(0.9, 1.1))
def test_torsos_have_one_area(kind, stretch):
    outline = torso_outline(kind, stretch)
    oracle = cv2.contourArea(outline.astype(np.float32))
    assert polygon_area(outline) == pytest.approx(oracle, rel=1e-4)
    assert oracle == pytest.approx(TORSO_AREA, rel=1e-4)


# Scenes


def test_scenes_show_their_creatures_well():
    counts = Counter()
    for index in range(40):
        scene = render(0, index, SMALL, index % 6)
        sizes = np.bincount(scene.instance_HW.ravel())[1:]
        assert index % 6 + 1 in scene.mask_HW
        assert sizes.max() >= 0.04 * scene.mask_HW.size
        for number in range(1, len(sizes) + 1):
            head = scene.part_HW & (scene.instance_HW == number)
            assert 0.07 < head.sum() / sizes[number - 1] < 0.20
        counts[len(sizes)] += 1
    assert set(counts) == {1, 2, 3}


def test_the_contour_is_exactly_the_pixels_at_a_border():
    scene = render(7, 1, SMALL, 2)
    height, width = scene.mask_HW.shape
    for y in range(height):
        for x in range(width):
            around = [(y, x), (y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            owners = {
                scene.instance_HW[v, u] for v, u in around if 0 <= v < height and 0 <= u < width
            }
            assert (scene.mask_HW[y, x] == IGNORE) == (len(owners) > 1), (y, x)


def test_inside_the_contour_one_creature_has_one_class():
    for index in range(12):
        scene = render(1, index, SMALL, index % 6)
        for number in range(scene.instance_HW.max() + 1):
            values = set(scene.mask_HW[scene.instance_HW == number].tolist()) - {IGNORE}
            assert len(values) == 1
            assert (values == {0}) == (number == 0)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_the_background_does_not_know_the_class(index):
    first, second = (render(5, index, SMALL, primary) for primary in (0, 3))
    assert first.image_HW3.shape == second.image_HW3.shape
    taken = (first.instance_HW > 0) | (second.instance_HW > 0)
    away = cv2.distanceTransform((~taken).astype(np.uint8), cv2.DIST_L2, 5) > 0.2 * SMALL
    np.testing.assert_array_equal(first.image_HW3[away], second.image_HW3[away])


def test_sizes_stay_near_the_nominal_one():
    shapes = {render(0, index, 96, 0).mask_HW.shape for index in range(24)}
    assert shapes == {(96, 96), (80, 96), (96, 80), (80, 104)}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), min_size=1, max_size=3))
def test_arrange_always_places_the_first_creature(seed, labels):
    placed = arrange(np.random.default_rng(seed), labels, 192, 160)
    assert placed[0].label == labels[0]
    assert len(placed) <= len(labels)


# Textures


@given(st.sampled_from(sorted(COATS)), st.floats(0, 1), st.floats(-1.2, 1.2), st.floats(-1.2, 1.2))
def test_coats_weigh_between_nothing_and_all(coat, phase, x, y):
    weight = COATS[coat](np.array([[x]]), np.array([[y]]), phase)
    assert weight.shape == (1, 1)
    assert 0 <= weight.item() <= 1


@pytest.mark.parametrize("coat", sorted(COATS))
def test_coats_have_a_pattern(coat):
    x, y = np.meshgrid(np.linspace(-1, 1, 80), np.linspace(-0.7, 0.7, 60))
    weight = COATS[coat](x, y, 0.3)
    assert 0.15 < weight.mean() < 0.75
    assert weight.std() > 0.3


@pytest.mark.parametrize("name", sorted(BACKGROUNDS))
def test_backgrounds_fill_the_canvas_with_colours(name):
    canvas = BACKGROUNDS[name](np.random.default_rng(1), 120, 90)
    assert canvas.shape == (120, 90, 3)
    assert canvas.min() > 0
    assert canvas.max() < 1.2
    assert canvas.std() > 0.01


def test_background_is_a_fair_draw(monkeypatch):
    drawn = Counter()
    for name in BACKGROUNDS:

        def painter(rng, height, width, name=name):
            drawn[name] += 1
            return np.zeros((height, width, 3))

        monkeypatch.setitem(BACKGROUNDS, name, painter)
    for seed in range(700):
        assert background(np.random.default_rng(seed), 2, 2).dtype == np.float32
    # 100 expected of each, standard deviation 9.
    assert set(drawn) == set(BACKGROUNDS)
    assert min(drawn.values()) > 60
    assert max(drawn.values()) < 140
