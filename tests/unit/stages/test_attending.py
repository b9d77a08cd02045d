"""Attention over a data set: maps held against a plain loop, and a folder that is whole or absent.

The network is a stand-in whose class maps are colours of the image, so that what it sees is known.
"""

import csv
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import Interrupted, UserError
from dist_oaa.config.model import OptimConfig
from dist_oaa.config.run import EvaluateConfig
from dist_oaa.config.views import ViewsConfig
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.models.classifier import Prediction
from dist_oaa.models.normalisation import Normalisation
from dist_oaa.runtime.distributed import World
from dist_oaa.runtime.signals import StopFlag
from dist_oaa.stages.attending import Attender
from dist_oaa.stages.tally import MapTally

STRIDE, SIDE, CELLS = 8, 48, 7
ALONE = World(0, 1, 0, torch.device("cpu"))
BOTH = ViewsConfig(scales=[1.0, 0.5], flip=True)


class Colours(torch.nn.Module):
    """F of class c: the mean of colour c over a cell of 8 x 8 pixels, minus `bias`.

    Args:
        slope: added per cell from left to right, which a mirror image does not mirror.
    """

    def __init__(self, bias: float = 0.3, slope: float = 0.0) -> None:
        super().__init__()
        self.trunk = SimpleNamespace(stride=STRIDE)
        self.normalisation = Normalisation(mean=(0.0,) * 3, std=(1.0,) * 3)
        self.bias, self.slope = bias, slope

    def forward(self, images_B3HW, extent_B2=None):
        cam_BCHW = torch.nn.functional.avg_pool2d(images_B3HW, STRIDE) - self.bias
        cam_BCHW = cam_BCHW + self.slope * torch.arange(cam_BCHW.shape[-1])
        return Prediction(cam_BCHW.mean(dim=(2, 3)), cam_BCHW)


@pytest.fixture
def image_set(tmp_path) -> ImageSet:
    """Seven noise images of different aspects, in no order, all with masks."""
    rng = np.random.default_rng(4)
    samples = []
    for n in (4, 0, 6, 2, 1, 5, 3):
        height, width = SIDE, SIDE + 16 * (n % 3)
        coarse_HW3 = rng.integers(0, 256, (6, 6, 3)).astype(np.uint8)
        path = tmp_path / f"{n}.png"
        Image.fromarray(coarse_HW3).resize((width, height), Image.Resampling.BICUBIC).save(path)
        classes = [(0,), (1, 2), (0, 1, 2)][n % 3]
        mask = tmp_path / f"mask{n}.png"
        mask_HW = rng.choice([0, *(c + 1 for c in classes)], (height, width)).astype(np.uint8)
        Image.fromarray(mask_HW, "L").save(mask)
        samples.append(Sample(f"sub/{n}" if n == 3 else f"{n}", path, classes, mask))
    return ImageSet(tmp_path, ("r", "g", "b"), tuple(samples), "labels.csv")


def attender(image_set, model=None, world=ALONE, views=None, activation="cam", **changes):
    settings = {
        "data": DataConfig(size=SIDE, workers=0),
        "evaluate": EvaluateConfig(thresholds=8, gallery=2),
        "optim": OptimConfig(batch_size=3),
        "map_size": CELLS,
    } | changes
    model, views = model or Colours(), views or ViewsConfig()
    return Attender(
        world, image_set, views=views, model=model, activation=activation, kind="seen", **settings
    )


def maps_in(folder: Path) -> dict[tuple[str, str], np.ndarray]:
    """The files of a folder as pairs.csv lists them."""
    with open(folder / "pairs.csv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row["file"]]
    return {
        (row["image_id"], row["class"]): np.asarray(Image.open(folder / row["file"]))
        for row in rows
    }


def attended(image_set, out: Path, *args, **kwargs) -> dict[tuple[str, str], np.ndarray]:
    attender(image_set, *args, **kwargs).run(out)
    return maps_in(out)


def sampled(map_HW: np.ndarray) -> np.ndarray:
    """At the centres of CELLS x CELLS cells, one by one."""
    height, width = map_HW.shape
    out_SS = np.zeros((CELLS, CELLS))
    for i, j in np.ndindex(CELLS, CELLS):
        y = min(max((i + 0.5) / CELLS * height - 0.5, 0), height - 1)
        x = min(max((j + 0.5) / CELLS * width - 0.5, 0), width - 1)
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
        a, b = y - top, x - left
        upper = (1 - b) * map_HW[top, left] + b * map_HW[top, right]
        lower = (1 - b) * map_HW[bottom, left] + b * map_HW[bottom, right]
        out_SS[i, j] = (1 - a) * upper + a * lower
    return out_SS


def naive(path: Path, c: int, views: ViewsConfig, activation: str, model: Colours) -> np.ndarray:
    """One map by loops; sizes whose halves are multiples of the stride need no rounding."""
    image_HW3 = Image.open(path).convert("RGB")
    seen = []
    for scale in views.scales:
        size = (round(image_HW3.width * scale), round(image_HW3.height * scale))
        pixels = np.asarray(image_HW3.resize(size, Image.Resampling.BOX)) / 255.0
        for mirrored in (False, True)[: 1 + views.flip]:
            view = pixels[:, ::-1, c] if mirrored else pixels[:, :, c]
            height, width = view.shape[0] // STRIDE, view.shape[1] // STRIDE
            f_HW = view.reshape(height, STRIDE, width, STRIDE).mean((1, 3)) - model.bias
            f_HW = f_HW + model.slope * np.arange(width)
            if activation == "cam":
                f_HW = np.maximum(f_HW, 0) / f_HW.max() if f_HW.max() > 0 else f_HW * 0
            else:
                f_HW = 1 / (1 + np.exp(-f_HW))
            map_SS = sampled(f_HW)
            seen.append(map_SS[:, ::-1] if mirrored else map_SS)
    combined = np.max(seen, axis=0) if views.combine == "max" else np.mean(seen, axis=0)
    return 255 * combined / combined.max() if combined.max() > 0 else combined


@pytest.mark.parametrize("activation", ["cam", "sigmoid"])
@pytest.mark.parametrize("views", [ViewsConfig(), BOTH, replace(BOTH, combine="max")])
def test_maps_are_those_of_a_plain_loop(image_set, tmp_path, views, activation):
    model = Colours(slope=0.05)
    maps = attended(image_set, tmp_path / "out", model, views=views, activation=activation)
    assert len(maps) == sum(len(s.classes) for s in image_set.samples)
    for sample in image_set.samples:
        for c in sample.classes:
            found = maps[sample.id, "rgb"[c]].astype(float)
            expected = naive(sample.path, c, views, activation, model)
            # 8-bit pixels and maps, and whichever way their halves are rounded.
            assert np.abs(found - expected).max() <= 3, (sample.id, c)
            assert found.max() == 255


def test_what_lies_in_the_folder(image_set, tmp_path):
    maps = attended(image_set, tmp_path / "out")
    assert (tmp_path / "out" / "classes.txt").read_text() == "r\ng\nb\n"
    names = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.png")}
    expected = {f"{s.id}_{c}.png" for s in image_set.samples for c in s.classes}
    assert names == expected
    assert all(m.dtype == np.uint8 and m.shape == (CELLS, CELLS) for m in maps.values())
    assert not list(tmp_path.glob(".*")), "a temporary folder is left"


def test_a_network_without_a_side_gives_the_same_map_flipped_or_not(image_set, tmp_path):
    plain = attended(image_set, tmp_path / "plain")
    for combine in ("mean", "max"):
        views = ViewsConfig(flip=True, combine=combine)
        flipped = attended(image_set, tmp_path / combine, views=views)
        for pair, map_SS in plain.items():
            assert np.abs(flipped[pair].astype(int) - map_SS).max() <= 1, pair


def test_flipped_views_of_mirror_images_are_mirrored(image_set, tmp_path):
    model, views = Colours(slope=0.1), ViewsConfig(flip=True, combine="max")
    here = attended(image_set, tmp_path / "here", model, views=views)
    one_sided = attended(image_set, tmp_path / "one", model)
    for sample in image_set.samples:
        picture = Image.open(sample.path)
        picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(sample.path)
    there = attended(image_set, tmp_path / "there", model, views=views)
    for pair, map_SS in here.items():
        assert np.abs(there[pair][:, ::-1].astype(int) - map_SS).max() <= 1, pair
    assert any((one_sided[p] != here[p]).any() for p in here), "the network has a side"


def test_the_maximum_of_a_view_with_itself_is_that_view(image_set, tmp_path):
    once = attended(image_set, tmp_path / "once", views=ViewsConfig(combine="max"))
    twice = ViewsConfig(scales=[1.0, 1.0, 1.0], combine="max")
    again = attended(image_set, tmp_path / "again", views=twice)
    assert all(np.array_equal(again[pair], once[pair]) for pair in once)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_every_image_is_in_one_batch_of_one_rank(image_set, size):
    worlds = [World(rank, size, 0, torch.device("cpu")) for rank in range(size)]
    ranks = [attender(image_set, world=world).parts() for world in worlds]
    assert len({len(parts) for parts in ranks}) == 1, "ranks take part in every step"
    batches = [tuple(part) for parts in zip(*ranks, strict=True) for part in parts if len(part)]
    whole = [tuple(part) for part in attender(image_set).parts()]
    assert batches == whole, "the same batches at any world size"
    names = [image_set.samples[i].id for part in whole for i in part]
    assert names == sorted(s.id for s in image_set.samples)


def test_the_batch_is_what_one_forward_pass_holds(image_set):
    for batch, accumulate, images in ((6, 2, 3), (2, 4, 1), (500, 1, 7)):
        optim = OptimConfig(batch_size=batch, accumulate=accumulate)
        assert len(attender(image_set, optim=optim).parts()[0]) == images


def test_the_written_maps_are_what_is_measured(image_set, tmp_path):
    found = attender(image_set, views=BOTH).run(tmp_path / "out")
    evaluate = EvaluateConfig(thresholds=8)
    tally = MapTally(evaluate, "", image_set)
    records = [(i, "rgb".index(c), m) for (i, c), m in maps_in(tmp_path / "out").items()]
    tally.add_records(records)
    assert found.metrics == tally.figures("seen")
    assert found.metrics["seen/recall"] > 0
    assert found.per_class == {"seen": tally.per_class}
    assert len(found.gallery) == 2
    for image in found.gallery:
        for c, map_SS in zip(image.sample.classes, image.maps["seen"], strict=True):
            kept = maps_in(tmp_path / "out")[image.sample.id, "rgb"[c]]
            assert np.array_equal(np.rint(map_SS * 255), kept)


def test_features_that_are_not_finite_give_an_empty_map_and_are_counted(image_set, tmp_path):
    class Broken(Colours):
        def forward(self, images_B3HW, extent_B2=None):
            predicted = super().forward(images_B3HW)
            predicted.cam_BCHW[:, 1, 0, 0] = float("nan")
            return predicted

    for activation in ("cam", "sigmoid"):
        looking = attender(image_set, Broken(), activation=activation)
        looking.run(tmp_path / activation)
        maps = maps_in(tmp_path / activation)
        assert looking.broken == sum(1 in s.classes for s in image_set.samples)
        assert all((map_SS.max() == 0) == (c == "g") for (_, c), map_SS in maps.items())


def test_nothing_attended_is_an_empty_map(image_set, tmp_path):
    maps = attended(image_set, tmp_path / "out", Colours(bias=2.0))
    assert all(not map_SS.any() for map_SS in maps.values())


def test_the_model_goes_on_in_the_mode_it_was_in(image_set, tmp_path):
    model = Colours().train()
    attender(image_set, model).run(tmp_path / "out")
    assert model.training


def nothing_left(folder: Path) -> bool:
    return not [p for p in folder.iterdir() if "out" in p.name]


def test_a_bad_image_stops_or_is_skipped(image_set, tmp_path):
    image_set.samples[0].path.write_bytes(b"")
    with pytest.raises(UserError, match=r"4\.png.*on_bad_image"):
        attender(image_set).run(tmp_path / "out")
    assert nothing_left(tmp_path)
    skipping = DataConfig(size=SIDE, workers=0, on_bad_image="skip")
    looking = attender(image_set, data=skipping)
    found = looking.run(tmp_path / "out")
    assert len(looking.skipped) == 1
    assert ("4", "g") not in maps_in(tmp_path / "out")
    rows = (tmp_path / "out" / "pairs.csv").read_text().splitlines()
    assert [row for row in rows if row.startswith(",")] == [",4,g,0,0", ",4,b,0,0"]
    assert 0 < found.metrics["seen/recall"] < 1


def test_finished_maps_are_never_overwritten(image_set, tmp_path):
    before = attended(image_set, tmp_path / "out")
    with pytest.raises(UserError, match=r"out exists.*never overwritten") as caught:
        attender(image_set, Colours(bias=0.1)).run(tmp_path / "out")
    assert "\n" not in str(caught.value)
    after = maps_in(tmp_path / "out")
    assert all(np.array_equal(after[pair], before[pair]) for pair in before)


def test_what_a_killed_attempt_left_is_replaced(image_set, tmp_path):
    (tmp_path / ".out.tmp").mkdir()
    (tmp_path / ".out.tmp" / "old_0.png").write_bytes(b"half")
    attended(image_set, tmp_path / "out")
    assert not (tmp_path / "out" / "old_0.png").exists()
    assert not (tmp_path / ".out.tmp").exists()


def test_a_signal_leaves_nothing(image_set, tmp_path):
    stop = StopFlag()
    stop.reason = "SIGTERM"
    looking = attender(image_set, stop=stop)
    with pytest.raises(Interrupted, match="stopped by SIGTERM after 3 of 7 images"):
        looking.run(tmp_path / "out")
    assert nothing_left(tmp_path)


def test_what_goes_with_the_maps_is_written_before_they_appear(image_set, tmp_path):
    def conclude(found):
        assert found.metrics
        assert not (tmp_path / "out").exists()
        raise UserError("the disk is full")

    with pytest.raises(UserError, match="the disk is full"):
        attender(image_set).run(tmp_path / "out", conclude)
    assert nothing_left(tmp_path)


def test_fp16_needs_a_gpu(image_set):
    with pytest.raises(UserError, match="fp16 needs a GPU"):
        attender(image_set, optim=OptimConfig(precision="fp16"))
