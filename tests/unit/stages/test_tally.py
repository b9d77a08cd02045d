"""Counting maps against masks, held against pixel-by-pixel loops."""

import numpy as np
import pytest
import torch
from PIL import Image

from dist_oaa.config.errors import UserError
from dist_oaa.config.run import EvaluateConfig
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.stages.tally import MapTally, drawn_images, listed_images, measured_images

CLASSES = ("cat", "dog", "bird")
EVALUATE = EvaluateConfig(thresholds=8)


@pytest.fixture
def image_set(tmp_path) -> ImageSet:
    """Five images of different sizes; the last one has no mask."""
    rng = np.random.default_rng(1)
    samples = []
    for n, (height, width) in enumerate([(12, 17), (20, 9), (8, 8), (15, 15), (10, 10)]):
        classes = [(0,), (0, 2), (1,), (0, 1), (2,)][n]
        values = [0, *(c + 1 for c in classes), 255]
        mask_HW = rng.choice(values, size=(height, width)).astype(np.uint8)
        path = tmp_path / f"{n}.png"
        Image.fromarray(mask_HW, "L").save(path)
        samples.append(Sample(f"i{n}", tmp_path / f"{n}.jpg", classes, path if n < 4 else None))
    return ImageSet(tmp_path, CLASSES, tuple(samples), "labels.csv")


@pytest.fixture
def maps(image_set) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {
        s.id: rng.integers(0, 256, size=(len(s.classes), 6, 6)).astype(np.float32) / np.float32(255)
        for s in image_set.samples
    }


def counted(image_set, maps, evaluate=EVALUATE) -> MapTally:
    tally = MapTally(evaluate, str(image_set.root), image_set)
    for sample in image_set.samples:
        tally.add(sample, maps[sample.id])
    return tally


def spread(map_SS, height, width) -> np.ndarray:
    """At the mask's size and divided by its maximum, through PyTorch's resizing."""
    map_HW = torch.nn.functional.interpolate(
        torch.from_numpy(map_SS)[None, None], (height, width), mode="bilinear", align_corners=False
    )[0, 0].numpy()
    return map_HW / map_HW.max() if map_HW.max() > 0 else map_HW


def naive(image_set, maps, thresholds) -> dict[str, float]:
    """All figures by loops over pixels."""
    hit, false, missed = (np.zeros(len(CLASSES)) for _ in range(3))
    overlap = np.zeros((thresholds, len(CLASSES) + 1, 3))  # intersection, predicted, true
    for sample in image_set.samples:
        if sample.mask is None:
            continue
        mask_HW = np.asarray(Image.open(sample.mask))
        large = [spread(m, *mask_HW.shape) for m in maps[sample.id]]
        for y, x in np.ndindex(*mask_HW.shape):
            truth = mask_HW[y, x]
            if truth == 255:
                continue
            for c, map_HW in zip(sample.classes, large, strict=True):
                attended = map_HW[y, x] >= 0.5
                hit[c] += attended and truth == c + 1
                false[c] += attended and truth != c + 1
                missed[c] += not attended and truth == c + 1
            best = int(np.argmax([map_HW[y, x] for map_HW in large]))
            for t in range(thresholds):
                above = large[best][y, x] > t / thresholds
                label = sample.classes[best] + 1 if above else 0
                overlap[t, label, 1] += 1
                overlap[t, truth, 2] += 1
                overlap[t, truth, 0] += label == truth
    miou = [
        np.mean([i / (p + t - i) for i, p, t in overlap[t] if p + t > 0]) for t in range(thresholds)
    ]
    return {
        "recall": np.mean(hit / (hit + missed)),
        "noise": np.mean(false / (hit + false)),
        "f_score": np.mean(2 * hit / (2 * hit + false + missed)),
        "seed_miou": max(miou),
        "seed_threshold": int(np.argmax(miou)) / thresholds,
    }


def test_the_figures_are_those_of_a_naive_loop(image_set, maps):
    tally = counted(image_set, maps)
    expected = naive(image_set, maps, EVALUATE.thresholds)
    figures = tally.figures("x")
    assert figures.keys() == {f"x/{name}" for name in expected}
    for name, value in expected.items():
        assert figures[f"x/{name}"] == pytest.approx(value, abs=2e-3), name
    recalls = [recall for recall, _ in tally.per_class.values()]
    assert list(tally.per_class) == [0, 1, 2]
    assert np.mean(recalls) == pytest.approx(figures["x/recall"])


def test_only_the_images_of_the_list_are_measured(image_set, maps):
    (image_set.root / "few.txt").write_text("i2\r\n\ni0\n")
    listed = EvaluateConfig(thresholds=8, list="few.txt")
    figures = counted(image_set, maps, listed).figures("x")
    few = ImageSet(image_set.root, CLASSES, (image_set.samples[0], image_set.samples[2]), "")
    assert figures == counted(few, maps).figures("x")
    assert figures != counted(image_set, maps).figures("x")
    names = listed_images(listed, image_set)
    assert measured_images(image_set, 0, names).tolist() == [0, 2]
    assert len(measured_images(image_set, 1, names)) == 1
    assert measured_images(image_set, 0).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("i0\nother\n", "names 'other', which is not among the 5 images read"),
        ("\n", "names none among"),
        (None, "cannot be read: .*No such file"),
    ],
)
def test_a_wrong_list_is_refused(image_set, text, message):
    if text is not None:
        (image_set.root / "few.txt").write_text(text)
    with pytest.raises(UserError, match=f"evaluate.list .*few.txt {message}"):
        MapTally(EvaluateConfig(list="few.txt"), "", image_set)


def test_what_needs_no_mask_is_measured_on_images_without_one(image_set, maps):
    rng = np.random.default_rng(3)
    for sample in image_set.samples:
        shape = (10, 10) if sample.mask is None else np.asarray(Image.open(sample.mask)).shape
        image_HW3 = rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
        Image.fromarray(image_HW3).save(sample.path, "PNG")
    free = EvaluateConfig(thresholds=8, label_free=True)
    figures = counted(image_set, maps, free).figures("x")
    without = {key: value for key, value in figures.items() if key != "x/colour"}
    assert without == counted(image_set, maps).figures("x")
    assert 0 < figures["x/colour"] < 1
    last = ImageSet(image_set.root, CLASSES, image_set.samples[4:], "")
    alone = counted(last, maps, free).figures("x")
    assert list(alone) == ["x/colour"]
    one, other = (MapTally(free, "", image_set) for _ in range(2))
    for n, sample in enumerate(image_set.samples):
        (one, other)[n % 2].add(sample, maps[sample.id])
    one.colour.counts += other.colour.counts
    assert one.colour.result() == figures["x/colour"]


def test_any_split_over_ranks_gives_the_same(image_set, maps):
    whole = counted(image_set, maps)
    one, other = (MapTally(EVALUATE, "", image_set) for _ in range(2))
    for n, sample in enumerate(image_set.samples):
        (one, other)[n % 2].add(sample, maps[sample.id])
    assert one.figures("x") != whole.figures("x")
    theirs = iter([other.images_1, *(each.counts for each in other._measures())])

    class Two:
        def sum(self, values):
            return values + next(theirs)

    one.sum(Two())
    assert one.figures("x") == whole.figures("x")
    assert one.per_class == whole.per_class


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_records_in_any_order_are_the_same_maps(image_set, maps, dtype):
    def stored(map_SS):
        return map_SS if dtype == "float32" else np.rint(map_SS * 255).astype(np.uint8)

    records = [
        (sample.id, c, stored(map_SS))
        for sample in image_set.samples
        for c, map_SS in zip(sample.classes, maps[sample.id], strict=True)
    ]
    tally = MapTally(EVALUATE, "", image_set)
    tally.add_records(records[::-1])
    assert tally.figures("x") == counted(image_set, maps).figures("x")


def test_a_pair_without_a_map_attends_to_nothing(image_set, maps):
    records = [("i0", 0, maps["i0"][0])]
    tally = MapTally(EVALUATE, "", image_set)
    tally.add_records(records)
    empty = {name: np.zeros_like(m) for name, m in maps.items()} | {"i0": maps["i0"]}
    assert tally.figures("x") == counted(image_set, empty).figures("x")
    assert tally.per_class[1][0] == 0.0


def test_a_map_of_a_foreign_image_is_refused(image_set):
    with pytest.raises(UserError, match=r"image 'elsewhere'.*5 images"):
        MapTally(EVALUATE, "", image_set).add_records([("elsewhere", 0, np.zeros((2, 2)))])


def test_without_masks_there_are_no_figures(image_set, maps):
    tally = MapTally(EVALUATE, "", image_set)
    tally.add(image_set.samples[4], maps["i4"])
    assert tally.figures("x") == {}


def test_with_saliency_the_labels_are_measured_too(image_set, maps):
    evaluate = EvaluateConfig(thresholds=8, saliency_dir="saliency")
    with pytest.raises(UserError, match=r"evaluate.saliency_dir .*saliency is no folder"):
        counted(image_set, maps, evaluate)
    folder = image_set.root / "saliency"
    folder.mkdir()
    with pytest.raises(UserError, match=r"i0\.png is missing"):
        counted(image_set, maps, evaluate)
    for sample in image_set.samples[:4]:
        mask_HW = np.asarray(Image.open(sample.mask))
        Image.fromarray(((mask_HW > 0) * 255).astype(np.uint8)).save(folder / f"{sample.id}.png")
    figures = counted(image_set, maps, evaluate).figures("x")
    # The saliency is the truth: what it calls background is background.
    assert 0 < figures["x/dense_label_miou"] <= 1
    assert 0 <= figures["x/label_ignored"] < 1
    plain = counted(image_set, maps).figures("x")
    assert {k: figures[k] for k in plain} == plain
    Image.new("L", (3, 4)).save(folder / "i2.png")
    with pytest.raises(UserError, match=r"i2\.png has \(4, 3\) pixels.*\(8, 8\)"):
        counted(image_set, maps, evaluate)


def test_a_mask_with_an_unknown_index_names_its_file(image_set, maps):
    Image.new("L", (8, 8), 77).save(image_set.samples[2].mask)
    with pytest.raises(UserError, match=r"mask .*2\.png: .*77"):
        counted(image_set, maps)


def test_images_to_follow_are_drawn_beside_the_gallery(image_set):
    gallery = drawn_images(image_set, EvaluateConfig(gallery=2)).tolist()
    assert len(gallery) == 2
    followed = drawn_images(image_set, EvaluateConfig(gallery=2, follow=["i4", "i4"])).tolist()
    assert followed == sorted({*gallery, 4}), "the last one has no mask, so no gallery has it"
    alone = EvaluateConfig(gallery=0, follow=["i3", "i0"])
    assert drawn_images(image_set, alone).tolist() == [0, 3]
    assert drawn_images(image_set, EvaluateConfig(gallery=0)).tolist() == []


def test_an_image_to_follow_that_is_not_there(image_set):
    sentence = "evaluate.follow names 'i44', which is not among the 5 images read; the nearest"
    with pytest.raises(UserError, match=sentence):
        drawn_images(image_set, EvaluateConfig(follow=["i1", "i44"]))
