"""Resizing and augmentation: an image whose pixels say where they are shows the true geometry."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.data import AugmentConfig, DataConfig
from dist_oaa.data.augment import prepare, resized_shape, stateless_rng
from dist_oaa.data.geometry import inverse

PLAIN = {"flip": 0.0, "jitter_probability": 0.0}


def config(resize="short_side", size=64, max_aspect=2.5, **augment) -> DataConfig:
    return DataConfig(
        resize=resize,
        size=size,
        max_aspect=max_aspect,
        augment=AugmentConfig(**(PLAIN | augment)),
    )


def ramp(height: int, width: int) -> np.ndarray:
    """Red grows with u and green with v: value = 20 + 200 times the normalised coordinate."""
    u = np.broadcast_to((np.arange(width) + 0.5) / width, (height, width))
    v = np.broadcast_to(((np.arange(height) + 0.5) / height)[:, None], (height, width))
    return np.round(20 + 200 * np.stack([u, v, 0 * u], axis=-1)).astype(np.uint8)


def noise(height: int = 48, width: int = 60) -> np.ndarray:
    return np.random.default_rng(7).integers(0, 256, (height, width, 3), dtype=np.uint8)


def rng_of(name: str = "a", epoch: int = 0, seed: int = 0) -> np.random.Generator:
    return stateless_rng(seed, epoch, name, "augment")


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(st.integers(40, 160), st.integers(40, 160)),
    resize=st.sampled_from(["short_side", "square"]),
    flip=st.sampled_from([0.0, 1.0]),
    crop=st.sampled_from([0, 32, 50, 500]),
    scale=st.sampled_from([[1.0, 1.0], [0.5, 1.5]]),
    multiple=st.sampled_from([1, 8, 16]),
    draw=st.integers(0, 10**6),
)
def test_the_geometry_is_where_the_pixels_really_went(
    shape, resize, flip, crop, scale, multiple, draw
):
    settings_ = config(resize, flip=flip, crop=crop, scale=scale)
    image_HW3, geometry_23 = prepare(ramp(*shape), settings_, multiple, rng_of(epoch=draw))
    height, width = image_HW3.shape[:2]
    assert height % multiple == width % multiple == 0
    if crop:
        assert max(height, width) <= max(multiple, crop)
    assert geometry_23.dtype == np.float32
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    back = inverse(geometry_23.astype(np.float64))
    u, v = back[:, :2] @ np.stack([x.ravel(), y.ravel()]) + back[:, 2:]
    shown = (image_HW3.reshape(-1, 3).astype(float) - 20) / 200
    # A pixel of the source, a pixel of the input (in whole-image units), and grey levels.
    zoom_u, zoom_v = abs(back[0, 0]) / width, abs(back[1, 1]) / height
    assert np.abs(shown[:, 0] - u).max() <= max(1 / shape[1], zoom_u) + 2 / 200
    assert np.abs(shown[:, 1] - v).max() <= max(1 / shape[0], zoom_v) + 2 / 200
    # On average there is no shift at all: a flip or a crop off by one pixel would show here.
    assert abs((shown[:, 0] - u).mean()) < 0.15 * zoom_u + 0.4 / 200
    assert abs((shown[:, 1] - v).mean()) < 0.15 * zoom_v + 0.4 / 200


def test_a_flip_is_exact():
    plain, _ = prepare(noise(), config(), 8, rng_of())
    flipped, geometry_23 = prepare(noise(), config(flip=1.0), 8, rng_of())
    np.testing.assert_array_equal(flipped, plain[:, ::-1])
    assert geometry_23.tolist() == [[-1, 0, 1], [0, 1, 0]]


def test_a_crop_is_a_cut_of_the_resized_image():
    plain, _ = prepare(noise(60, 90), config(), 8, rng_of())
    corners = set()
    for epoch in range(40):
        cut, geometry_23 = prepare(noise(60, 90), config(crop=40), 8, rng_of(epoch=epoch))
        assert cut.shape == (40, 40, 3)
        back = inverse(geometry_23.astype(np.float64))
        left, top = round(back[0, 2] * plain.shape[1]), round(back[1, 2] * plain.shape[0])
        np.testing.assert_array_equal(cut, plain[top : top + 40, left : left + 40])
        corners.add((left, top))
    lefts, tops = zip(*corners, strict=True)
    assert min(lefts) < 10 < 40 < max(lefts) <= plain.shape[1] - 40
    assert min(tops) < 6 < 18 < max(tops) <= plain.shape[0] - 40


def test_measuring_changes_nothing_but_the_size():
    everything = config(flip=1.0, jitter_probability=1.0, crop=32, scale=[0.5, 2.0])
    measured, geometry_23 = prepare(noise(), everything, 8, None)
    plain, _ = prepare(noise(), config(), 8, rng_of())
    np.testing.assert_array_equal(measured, plain)
    assert geometry_23.tolist() == [[1, 0, 0], [0, 1, 0]]


@pytest.mark.parametrize(
    ("shape", "resize", "multiple", "expected"),
    [
        ((100, 200), "short_side", 16, (64, 128)),
        ((200, 100), "short_side", 16, (128, 64)),
        ((100, 170), "short_side", 16, (64, 112)),  # 108.8 pixels are 6.8 cells
        ((100, 1000), "short_side", 16, (64, 160)),  # 2.5 times as long at most
        ((1000, 100), "short_side", 16, (160, 64)),
        ((100, 1000), "square", 16, (64, 64)),
        ((3, 5), "short_side", 1, (64, 107)),
        ((50, 50), "square", 40, (80, 80)),  # 1.6 cells of 40 pixels
        ((50, 50), "square", 200, (200, 200)),  # never less than a cell
    ],
)
def test_shapes_by_hand(shape, resize, multiple, expected):
    assert resized_shape(*shape, config(resize), multiple) == expected
    image_HW3, _ = prepare(noise(*shape), config(resize), multiple, None)
    assert image_HW3.shape == (*expected, 3)


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    size=st.integers(16, 600),
    max_aspect=st.floats(1, 4),
    multiple=st.sampled_from([1, 8, 16, 32]),
    scale=st.floats(0.3, 2),
)
def test_shapes_are_whole_cells_near_the_wanted_size(
    height, width, size, max_aspect, multiple, scale
):
    settings_ = config(size=size, max_aspect=max_aspect)
    sides = resized_shape(height, width, settings_, multiple, scale)
    half_cell = multiple / 2 + 1e-6
    assert all(side % multiple == 0 and side >= multiple for side in sides)
    assert abs(min(sides) - size * scale) <= max(half_cell, multiple - size * scale)
    assert max(sides) <= max(size * scale * max_aspect + half_cell, multiple)
    if max(height, width) <= max_aspect * min(height, width):
        longest = max(height, width) / min(height, width) * size * scale
        assert abs(max(sides) - longest) <= max(half_cell, multiple - longest)


def test_the_same_image_gets_the_same_pixels_in_an_epoch_and_others_in_the_next():
    everything = config(flip=0.5, jitter_probability=0.7, crop=40, scale=[0.8, 1.3])

    def pixels(**key) -> tuple:
        image_HW3, geometry_23 = prepare(noise(), everything, 8, rng_of(**key))
        return image_HW3.tobytes(), geometry_23.tobytes()

    assert pixels(name="x", epoch=3, seed=1) == pixels(name="x", epoch=3, seed=1)
    variants = [
        pixels(name=name, epoch=epoch, seed=seed)
        for name in "xy"
        for epoch in range(3)
        for seed in range(2)
    ]
    assert len(set(variants)) == 12


def test_streams_depend_on_every_part_of_the_key():
    keys = [(0, 0, "a", "p"), (1, 0, "a", "p"), (0, 1, "a", "p"), (0, 0, "b", "p")]
    keys += [(0, 0, "a", "q"), (0, 11, "a", "p"), (1, 1, "a", "p")]
    draws = {stateless_rng(*key).random(4).tobytes() for key in keys}
    assert len(draws) == len(keys)
    # The parts are separated: neither of these pairs may run together.
    assert stateless_rng(1, 12, "a", "p").random() != stateless_rng(11, 2, "a", "p").random()
    assert stateless_rng(0, 0, "b", "a").random() != stateless_rng(0, 0, "ab", "").random()
    first = stateless_rng(0, 0, "a", "p").random(10000)
    assert abs(first.mean() - 0.5) < 0.02


def kind_of_change(augment: AugmentConfig, epoch: int) -> tuple[bool, bool]:
    """Whether the image was flipped and whether its colours were changed."""
    settings_ = dataclasses.replace(config(), augment=augment)
    image_HW3, geometry_23 = prepare(noise(), settings_, 8, rng_of(epoch=epoch))
    plain, _ = prepare(noise(), config(), 8, None)
    flipped = geometry_23[0, 0] < 0
    same = np.array_equal(image_HW3, plain[:, ::-1] if flipped else plain)
    return bool(flipped), not same


def test_exclusive_does_one_of_both_and_never_both():
    changes = [kind_of_change(AugmentConfig(exclusive=True), e) for e in range(60)]
    assert all(flipped != jittered for flipped, jittered in changes)
    assert 15 < sum(flipped for flipped, _ in changes) < 45
    no_jitter = AugmentConfig(exclusive=True, jitter_probability=0.0)
    assert {kind_of_change(no_jitter, e) for e in range(30)} == {(True, False), (False, False)}


def test_independent_changes_happen_with_their_probabilities():
    changes = [
        kind_of_change(AugmentConfig(flip=0.3, jitter_probability=0.6), e) for e in range(99)
    ]
    assert 15 < sum(flipped for flipped, _ in changes) < 45
    assert 40 < sum(jittered for _, jittered in changes) < 78
    assert set(changes) == {(True, True), (True, False), (False, True), (False, False)}


def test_jitter_stays_within_its_strength():
    """Brightness alone scales a grey image by a factor from 0.7 to 1.3."""
    grey = np.full((32, 32, 3), 100, np.uint8)
    settings_ = config(size=32, jitter=[0.3, 0, 0, 0], jitter_probability=1.0)
    levels = [int(prepare(grey, settings_, 8, rng_of(epoch=e))[0][0, 0, 0]) for e in range(60)]
    assert 69 <= min(levels) < 80
    assert 120 < max(levels) <= 130


def test_jitter_of_strength_zero_changes_nothing():
    settings_ = config(jitter=[0, 0, 0, 0], jitter_probability=1.0)
    image_HW3, _ = prepare(noise(), settings_, 8, rng_of())
    np.testing.assert_array_equal(image_HW3, prepare(noise(), config(), 8, None)[0])


def test_the_source_is_left_alone():
    source = noise()
    before = source.copy()
    image_HW3, _ = prepare(source, config(flip=1.0, jitter_probability=1.0), 8, rng_of())
    np.testing.assert_array_equal(source, before)
    assert image_HW3.flags["C_CONTIGUOUS"]
    assert image_HW3.dtype == np.uint8
