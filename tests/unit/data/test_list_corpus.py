"""Names, lists, tables and annotations of every kind: the right labels, or one sentence."""

import csv
import io
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_trees import annotation, make_voc, write_image
from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import read_label_file
from dist_oaa.data.paths import is_printable
from dist_oaa.data.problems import CollectedProblems, Problems
from dist_oaa.data.sources import open_image_set

BOM = b"\xef\xbb\xbf"


def opened(root, **settings) -> dict[str, set[str]]:
    """{image id: class names} of a data set."""
    image_set = open_image_set(DataConfig(root=str(root), **settings))
    return {s.id: {image_set.class_names[c] for c in s.classes} for s in image_set.samples}


def refusal(root, **settings) -> str:
    with pytest.raises(UserError) as caught:
        open_image_set(DataConfig(root=str(root), **settings))
    sentence = str(caught.value)
    assert sentence.isprintable(), ascii(sentence)
    return sentence


def folder_of(root, *names: str | bytes):
    """A data set of one folder a class, with an image for each name."""
    picture = write_image(root.parent / "picture.png").read_bytes()
    for name in names:
        path = os.path.join(os.fsencode(root), os.fsencode(name))
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(picture)
    return root


@pytest.mark.parametrize(
    "name",
    ["a b.jpg", "ü ñ.jpg", "😀.png", "日本/写真.jpg", "a...b.jpg", "=1+1.jpg", "-rf.jpg", "'.jpg",
     "a,b.jpg", '"q".jpg', "a;b$(ls).jpg", "%2e%2e%2f.jpg", "x" * 240 + ".jpg"],
)  # fmt: skip
def test_names_that_are_odd_but_names(tmp_path, name):
    root = folder_of(tmp_path / "root", f"polar bear/{name}", "cat/x.jpg")
    image_id = f"polar bear/{name.rsplit('.', 1)[0]}"
    assert opened(root) == {"cat/x": {"cat"}, image_id: {"polar bear"}}


@pytest.mark.parametrize(
    "name", ["a\nb", "a\tb", "a\rb", "\x1b[2J", "a\u2028b", "a\x85b", "a\x0bb", b"\xff"]
)  # fmt: skip
def test_names_that_would_break_a_line_or_a_terminal(tmp_path, name):
    root = folder_of(tmp_path / "root", f"cat/{os.fsdecode(name)}.jpg", "cat/x.jpg")
    assert "line break, a control character" in refusal(root)
    problems = CollectedProblems()
    left = open_image_set(DataConfig(root=str(root)), problems)
    assert [sample.id for sample in left.samples] == ["cat/x"]
    assert [problem.kind for problem in problems.found] == ["outside"]


@pytest.mark.parametrize("name", ["ca\nt", "cat ", " cat", "c\x00t", "c\tt", b"c\xff", "c\u2029t"])
def test_class_names_that_a_list_would_not_give_back(tmp_path, name):
    """One line each in classes.txt: `ca` and `t` would be two classes, and every index wrong."""
    name = os.fsdecode(name)
    if "\0" not in name:
        assert "cannot be used" in refusal(folder_of(tmp_path / "root", f"{name}/a.jpg", "d/b.jpg"))
    root = folder_of(tmp_path / "other", "a/a.jpg")
    with pytest.raises(UserError, match="cannot be used"):
        open_image_set(DataConfig(root=str(root), classes=["a", name]))


def test_links_and_pipes_in_a_class_folder(tmp_path):
    root = folder_of(tmp_path / "root", "cat/a.jpg")
    secret = write_image(tmp_path / "secret.jpg")
    for target in (secret, "../../secret.jpg", "/etc/passwd", ".."):
        link = root / "cat" / "link.jpg"
        link.symlink_to(target)
        if target == "..":
            (root / "cat" / "link.jpg").rename(root / "cat" / "dogs")
            assert "symbolic link to a folder" in refusal(root)
        else:
            assert "leads out of the data-set root" in refusal(root)
            link.unlink()


def list_bytes(lines: list[str], ending: str, bom: bool, last: bool) -> bytes:
    text = ending.join(lines) + (ending if last else "")
    return (BOM if bom else b"") + text.encode()


formats = st.tuples(st.sampled_from(["\n", "\r\n", "\r"]), st.booleans(), st.booleans())
CLASSES = ("gnu", "yak", "zebra")


@settings(max_examples=120, deadline=None)
@given(
    labels=st.tuples(*[st.lists(st.sampled_from(CLASSES), min_size=1, max_size=4)] * 4),
    list_format=formats,
    label_format=formats,
    quoted=st.booleans(),
    padded=st.booleans(),
    shuffled=st.permutations(range(4)),
    kind=st.sampled_from(["csv", "txt"]),
)  # fmt: skip
def test_labels_survive_every_way_of_writing_them(
    voc, labels, list_format, label_format, quoted, padded, shuffled, kind
):
    """Line ends, byte-order marks, quotes, padding, order and repeated classes."""
    names, space = ["a", "b b", "ü", "d"], "  " if padded else ""
    if kind == "txt":
        names[1] = "b_b"  # a list separates by spaces
    quote = '"' if quoted and kind == "csv" else ""
    separator = "," if kind == "csv" else " "
    lines = ["image_id,classes"] if kind == "csv" else []
    lines += [
        f"{quote}{names[i]}{quote}{separator}{quote}{space}{' '.join(labels[i])}{space}{quote}"
        for i in shuffled
    ]
    (voc / f"own.{kind}").write_bytes(list_bytes(lines, *label_format))
    (voc / "ImageSets/Segmentation/train.txt").write_bytes(list_bytes(names, *list_format))
    found = opened(voc, labels=f"own.{kind}", classes=list(CLASSES))
    assert found == {name: set(label) for name, label in zip(names, labels, strict=True)}
    assert list(found) == names


@pytest.fixture(scope="module")
def voc(tmp_path_factory):
    labels = dict.fromkeys(["a", "b b", "b_b", "ü", "d"], "yak")
    return make_voc(tmp_path_factory.mktemp("voc"), labels)


GOOD_CSV = b'image_id,classes\na,gnu yak\n"b b","zebra"\nd,yak\n'


@settings(max_examples=300, deadline=None)
@given(
    edits=st.lists(st.tuples(st.integers(0, len(GOOD_CSV) - 1), st.integers(0, 255)), max_size=4),
    cut=st.integers(0, len(GOOD_CSV)),
    bom=st.booleans(),
)
def test_a_damaged_table_gives_what_it_says_or_a_sentence(edits, cut, bom, tmp_path_factory):
    data = bytearray(GOOD_CSV)
    for place, value in edits:
        data[place] = value
    path = tmp_path_factory.getbasetemp() / "labels.csv"
    path.write_bytes((BOM if bom else b"") + data[:cut])
    try:
        rows = read_label_file(path, Problems())
    except UserError as error:
        if str(path) not in str(error):
            raise
        return
    # What is read is what the csv module sees in the text, line by line.
    text = io.StringIO(
        data[:cut].decode().replace("\r\n", "\n").replace("\r", "\n").removeprefix("\ufeff")
    )
    header, *lines = [line for line in csv.reader(text) if line]
    at = [[name.strip() for name in header].index(name) for name in ("image_id", "classes")]
    expected = {line[at[0]].strip(): tuple(line[at[1]].split()) for line in lines}
    assert {name: row.classes for name, row in rows.items()} == {
        name.rpartition(".")[0] if name.lower().endswith((".jpg", ".png")) else name: classes
        for name, classes in expected.items()
    }


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ("image_id,classes,classes\na,yak,gnu\n", "names a column twice"),
        ("image_id,classes,image_id\na,yak,d\n", "names a column twice"),
        ("image_id,classes\na,yak\na,gnu\n", "twice"),
        ("image_id,classes\na,yak\na.JPG,gnu\n", "twice"),
        ("image_id,classes\na,yak,gnu\n", "another number of cells"),
        ("image_id;classes\na;yak\n", "no column 'image_id'"),
        ('image_id,classes\n"a,yak\n', "not valid CSV"),
        ("image_id,classes\na," + "yak " * 40_000 + "\n", "not valid CSV"),
        ("image_id,classes\na,yak\u200b\n", "unknown class"),
        ("image_id,classes\na,\ufeffyak\n", "unknown class"),
        ("image_id,classes\na,-1\n", "unknown class"),
        ("image_id,classes\na," + "9" * 5000 + "\n", "indices 0 to 2"),
        ("image_id,classes\na,3\n", "indices 0 to 2"),
        ("image_id,classes\na,\n", "has no class"),
        ("image_id,classes\nb,yak\n", "has no label"),
        ("", "an empty file"),
    ],
)
def test_tables_that_are_refused(tmp_path, labels, expected):
    root = make_voc(tmp_path / "root", {"a": "yak"})
    (root / "labels.csv").write_text(labels, encoding="utf-8")
    sentence = refusal(root, classes=list(CLASSES))
    assert expected in sentence
    assert "labels.csv" in sentence


@pytest.mark.parametrize("line", ["../x", "a/../../x", "/etc/passwd", "a\0", "a\x0bb", "x" * 300])
def test_lists_that_name_what_is_no_image_of_the_root(tmp_path, line):
    root = make_voc(tmp_path / "root", {"a": "yak"})
    path = root / "ImageSets/Segmentation/train.txt"
    path.write_text(f"a\n{line}\n", encoding="utf-8")
    assert "train.txt, line 2" in refusal(root)


@pytest.mark.parametrize("split", ["x" * 300, "../../etc/passwd", "a\0b", "a\nb"])
def test_splits_that_are_no_file_names(tmp_path, split):
    refusal(make_voc(tmp_path / "root", {"a": "yak"}), split=split)


ENTITIES = (
    '<!DOCTYPE a [<!ENTITY x "lol">{}]><annotation><object><name>&{};</name></object></annotation>'
)
LAUGHS = "".join(f'<!ENTITY x{i} "{f"&x{i - 1 if i else str()};" * 10}">' for i in range(9))


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\0\xff", annotation("yak")[:40], "<annotation/>", ENTITIES.format(LAUGHS, "x8"),
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name>'
        "</object></annotation>",
        '<?xml version="1.0" encoding="nonsense"?><annotation/>',
        '<?xml version="1.0" encoding="utf-7"?><annotation/>',
        "<annotation>" + "<a>" * 200_000 + "</a>" * 200_000 + "</annotation>",
        annotation("ya\nk"), annotation(""),
    ],
)  # fmt: skip
def test_annotations_that_are_refused(tmp_path, text):
    root = make_voc(tmp_path / "root", {"a": "yak", "b": "yak"})
    (root / "labels.csv").unlink()
    (root / "Annotations").mkdir()
    (root / "Annotations/b.xml").write_text(annotation("yak"))
    data = text if isinstance(text, bytes) else text.encode()
    (root / "Annotations/a.xml").write_bytes(data)
    assert "a.xml" in refusal(root, classes=list(CLASSES))


@given(st.text(max_size=20))
def test_a_printable_name_stays_on_one_line(text):
    if is_printable(text):
        assert len(f"x{text}x".splitlines()) == 1
        text.encode()
