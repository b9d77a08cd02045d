"""Which images are held out: a function of their names."""

import hashlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.data import HoldoutConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.holdout import held_out, kept, split_holdout
from dist_oaa.data.sample import ImageSet, Sample

names = st.lists(st.text(min_size=1, max_size=12), unique=True, max_size=30)
fractions = st.floats(0, 0.99)


def image_set(*ids: str) -> ImageSet:
    samples = tuple(Sample(name, Path(f"/{name}.jpg"), (0,), None) for name in ids)
    return ImageSet(Path("/data"), ("bird",), samples, "labels.csv")


@given(names, fractions, st.integers(0, 5))
def test_the_two_parts_are_the_whole_in_its_order(ids, fraction, seed):
    stay, out = split_holdout(ids, fraction, seed)
    assert sorted(stay + out) == sorted(ids)
    assert stay == [name for name in ids if name in stay]
    assert out == [name for name in ids if name in out]


@given(names, names, fractions, st.integers(0, 5))
def test_the_rest_of_the_list_does_not_matter(ids, others, fraction, seed):
    longer = [*reversed(ids), *(name for name in others if name not in ids)]
    alone, together = split_holdout(ids, fraction, seed), split_holdout(longer, fraction, seed)
    assert set(alone[1]) == set(together[1]) & set(ids)


@given(names, fractions, fractions, st.integers(0, 5))
def test_a_greater_share_holds_out_the_same_and_more(ids, one, other, seed):
    smaller, greater = sorted((one, other))
    first = split_holdout(ids, smaller, seed)[1]
    assert set(first) <= set(split_holdout(ids, greater, seed)[1])


def test_the_share_is_met_and_the_seed_counts():
    ids = [f"bird_{n:04d}" for n in range(4000)]
    parts = [set(split_holdout(ids, 0.2, seed)[1]) for seed in (0, 1)]
    # Four standard deviations of a binomial count.
    assert all(abs(len(part) - 800) < 102 for part in parts)
    assert abs(len(parts[0] & parts[1]) - 160) < 50


def test_the_choice_is_the_documented_hash():
    """A choice that changed would let a threshold be chosen on images that were trained on."""
    ids = [f"{n}" for n in range(50)]

    def draw(name: str) -> float:
        digest = hashlib.blake2b(f"holdout\x1f7\x1f{name}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little") / 2**64

    assert split_holdout(ids, 0.3, 7)[1] == [name for name in ids if draw(name) < 0.3]
    assert split_holdout(ids, 0.0, 7) == (ids, [])


def test_the_parts_of_an_image_set():
    whole = image_set(*(f"{n}" for n in range(20)))
    settings = HoldoutConfig(fraction=0.4, seed=3)
    stay, out = kept(whole, settings), held_out(whole, settings)
    expected = split_holdout([s.id for s in whole.samples], 0.4, 3)
    assert ([s.id for s in stay.samples], [s.id for s in out.samples]) == expected
    assert stay.class_names == out.class_names == whole.class_names
    assert kept(whole, HoldoutConfig()) is whole


def test_an_empty_part_is_refused():
    name = next(n for n in map(str, range(99)) if split_holdout([n], 0.5, 0)[1])
    with pytest.raises(UserError, match=r"holdout\.fraction 0\.5 leaves none of the 1 images"):
        kept(image_set(name), HoldoutConfig(fraction=0.5))
    with pytest.raises(UserError, match=r"holdout\.fraction 0\.0 holds none out of the 1 images"):
        held_out(image_set(name), HoldoutConfig())


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range(fraction):
    with pytest.raises(ValueError, match=r"data\.holdout\.fraction is .*expected 0 to below 1"):
        HoldoutConfig(fraction=fraction)
