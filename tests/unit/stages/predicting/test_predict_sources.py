"""Which images are found, and that no two of them share a name."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.stages.predicting.sources import distinct_names, find_sources


def tree(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def test_folders_are_searched_in_name_order_and_files_taken_as_they_are(tmp_path):
    tree(tmp_path, "photos/b.jpg", "photos/a.PNG", "photos/deep/c.tif", "photos/notes.txt")
    tree(tmp_path, "photos/.hidden.jpg", "photos/.cache/d.jpg", "scan")
    found = find_sources([str(tmp_path / "scan"), str(tmp_path / "photos")])
    assert [source.name for source in found] == ["scan", "a", "b", "deep/c"]
    assert found[1].path == tmp_path / "photos" / "a.PNG"


def test_an_image_reached_twice_counts_once(tmp_path, monkeypatch):
    tree(tmp_path, "photos/a.jpg", "photos/b.jpg")
    monkeypatch.chdir(tmp_path)
    found = find_sources(["photos/b.jpg", "photos", str(tmp_path / "photos/a.jpg"), "./photos"])
    assert [source.name for source in found] == ["b", "a"]


def test_same_names_are_told_apart(tmp_path):
    tree(tmp_path, "one/cat.jpg", "two/cat.jpg", "two/dog.jpg", "two/cow.png", "two/cow.jpg")
    found = find_sources([str(tmp_path / "one"), str(tmp_path / "two")])
    assert [s.name for s in found] == ["one/cat", "two/cat", "cow.jpg", "cow.png", "dog"]


@pytest.mark.parametrize(
    ("make", "given_names", "sentence"),
    [
        ([], [], "no image is given"),
        ([], ["nowhere"], "nowhere does not exist, expected an image or a folder of images"),
        (["texts/a.txt"], ["texts"], "texts holds no image, expected files ending in .jpg"),
    ],
)
def test_mistakes(tmp_path, monkeypatch, make, given_names, sentence):
    monkeypatch.chdir(tmp_path)
    tree(tmp_path, *make)
    with pytest.raises(UserError, match=sentence):
        find_sources(given_names)


PART = st.sampled_from(["a", "A", "b", "x.y"])
FILE = st.tuples(
    st.lists(PART, max_size=3), PART, st.sampled_from([".jpg", ".png", ".JPG", ""])
).map(lambda parts: Path("/", *parts[0], parts[1] + parts[2]))


@settings(max_examples=100, deadline=None)
@given(st.lists(FILE, max_size=8, unique=True), st.data())
def test_names_are_distinct_where_case_does_not_count(files, data):
    depths = [data.draw(st.integers(1, len(file.parts) - 1)) for file in files]
    names = distinct_names(list(zip(files, depths, strict=True)))
    assert len({name.casefold() for name in names}) == len(files)
    for file, name in zip(files, names, strict=True):
        # The end of the path is always in it, so that people find it again.
        assert name.split("/")[-1].startswith(file.with_suffix("").name)
        assert ".." not in name.split("/")
        assert not name.startswith("/")
