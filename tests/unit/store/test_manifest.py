"""The manifest: layout of the rows, writing and reading, and what it refuses."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.store.manifest import Manifest, is_storable
from store_builders import NAMES, make_manifest

labels = st.dictionaries(
    st.text(min_size=1, max_size=5).filter(is_storable),
    st.sets(st.integers(0, 2)).map(lambda c: tuple(sorted(c))),
    max_size=12,
)


@given(labels, st.integers(1, 5))
def test_rows_number_the_pairs_of_a_shard(images, shards):
    manifest = make_manifest(images, shards=shards)
    seen = []
    for shard in range(shards):
        pairs = manifest.pairs_of_shard(shard)
        assert len(pairs) == manifest.rows_of_shard[shard]
        for i in np.flatnonzero(manifest.shard_N == shard):
            first = manifest.first_row_N[i]
            own = pairs[first : first + len(manifest.classes[i])]
            assert own == [(manifest.image_ids[i], c) for c in manifest.classes[i]]
        seen += pairs
    assert sorted(seen) == sorted((n, c) for n, classes in images.items() for c in classes)
    assert manifest.pairs == len(seen)


@given(labels)
def test_round_trip(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("store")
    manifest = make_manifest(images)
    manifest.write(folder)
    assert Manifest.read(folder) == manifest


@pytest.mark.parametrize(
    "name", ["", "/a", "../a", "a/../b", "a\tb", "a\nb", "a\rb", "a\0b", "a\udcff"]
)
def test_names_that_a_store_cannot_keep(name):
    with pytest.raises(UserError, match="cannot be kept in a store"):
        make_manifest({name: (0,)})


def test_names_that_it_can_keep(tmp_path):
    # The last ones are line breaks to str.splitlines, though not to a text file.
    images = dict.fromkeys(("a..b", "c/d e", "ü", "a\x0bb", "a\x85b", "a\u2028b"), (1,))
    make_manifest(images).write(tmp_path)
    assert Manifest.read(tmp_path).image_ids == tuple(sorted(images))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"map_size": 6}, r"accumulate\.map_size 5.*asks for 6"),
        ({"dtype": "float32"}, r"accumulate\.dtype uint8.*asks for float32"),
        ({"fusion": "average"}, r"accumulate\.fusion max.*asks for average"),
        ({"shards": 4}, r"store\.shards 3.*asks for 4"),
        ({"class_names": ("cat", "cow", NAMES[2])}, "class 1 is 'dog' there, 'cow' here"),
        ({"class_names": (*NAMES, "cow")}, "other classes: 3 there, 4 here"),
        ({"images": 6}, r"other images or labels \(7 images there, 6 here\)"),
    ],
)
def test_a_store_made_otherwise_is_refused(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence) as caught:
        make_manifest().check(make_manifest(**change), tmp_path)
    assert str(tmp_path) in str(caught.value)
    make_manifest().check(make_manifest(), tmp_path)


def edited(**changes):
    def edit(folder):
        path = folder / "manifest.json"
        fields = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({k: v for k, v in fields.items() if v is not None}))

    return edit


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda f: (f / "manifest.json").unlink(), "is no store: .*manifest.json is missing"),
        (lambda f: (f / "images.tsv").unlink(), "is no store: .*images.tsv is missing"),
        (lambda f: (f / "manifest.json").write_text('{"format": 1'), "manifest.json is damaged"),
        (lambda f: (f / "manifest.json").write_text("[1]"), "format is None, expected 2"),
        (edited(format=1), "format is 1, expected 2"),
        (edited(dtype=None), "damaged: it lacks dtype"),
        (
            lambda f: (f / "images.tsv").write_text("i00\t1\n"),
            "images.tsv does not match the checksum",
        ),
    ],
)
def test_damage(tmp_path, damage, sentence):
    make_manifest().write(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=sentence):
        Manifest.read(tmp_path)


def test_a_file_is_no_store(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be read as a store: Not a directory"):
        Manifest.read(tmp_path / "file")
