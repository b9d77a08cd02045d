"""Tables as YAML: what is read, where it is found, and the sentence for every mistake."""

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.stages.launching.trees import flatten
from dist_oaa.stages.reproducing import files
from dist_oaa.stages.reproducing.files import find_table
from dist_oaa.stages.reproducing.tables import read_table
from small_table import SMALL, write


def test_what_is_read(tmp_path):
    write(tmp_path, {"x": 1}, "voc/base.yaml")
    tree = SMALL | {
        "caption": "two\n lines",
        "scales": {"cpu": {"classify": {"config": "voc/base.yaml"}}, "big": {"seeds": [3, 4]}},
        "rows": [
            {"name": "CAM", "run": "oaa", "maps": "cam", "paper": {"recall": None}},
            {"name": "model", "run": "model", "group": "g", "x": 0.5},
        ],
        "plot": {"kind": "sweep", "columns": ["recall"], "groups": {"g": "label"}},
    }
    table = read_table(write(tmp_path, tree))
    assert (table.name, table.title, table.caption) == ("small", "Small", "two lines")
    assert table.scales["cpu"].stages["classify"].config == tmp_path / "voc" / "base.yaml"
    assert (table.scales["cpu"].seeds, table.scales["big"].seeds) == ((0,), (3, 4))
    assert [row.maps for row in table.rows] == ["cam", "attention"]
    assert table.rows[0].paper == {"recall": None}
    assert (table.rows[1].group, table.rows[1].x) == ("g", 0.5)
    assert table.plot.groups == {"g": "label"}


def test_nested_and_dotted_settings_are_the_same():
    assert flatten({"a": {"b": 1, "c": {"d": [2]}}, "e.f": 3}) == {"a.b": 1, "a.c.d": [2], "e.f": 3}


def test_inheriting_adds_to_scales_and_runs_and_replaces_the_rest(tmp_path):
    write(tmp_path, {}, "voc.yaml")
    base = SMALL | {"scales": {"cpu": {"classify": {"config": "../voc.yaml"}}, "full": {}}}
    write(tmp_path, base, "one/base.yaml")
    child = {
        "inherits": "one/base.yaml",
        "title": "Child",
        "paper_columns": None,
        "scales": {"cpu": {"seeds": [7]}},
        "runs": {"drop": {"stage": "classify", "settings": {"drop.where": "input"}}},
        "rows": [{"name": "drop", "run": "drop"}],
    }
    table = read_table(write(tmp_path, child))
    assert (table.title, table.columns, table.paper_columns) == ("Child", ("recall",), {})
    # The path stands in the other file, in another folder.
    assert table.scales["cpu"].stages["classify"].config == tmp_path / "voc.yaml"
    assert (table.scales["cpu"].seeds, list(table.scales)) == ((7,), ["cpu", "full"])
    assert list(table.runs) == ["oaa", "model", "drop"]
    assert [row.name for row in table.rows] == ["drop"]


MISTAKES = [
    ({"title": None}, "has no title"),
    ({"rows": []}, "has no rows"),
    ({"colums": []}, "unknown key colums in .*; the nearest valid key is columns"),
    ({"columns": "recall"}, "columns in .* is 'recall', expected a list"),
    ({"runs": {"oaa": {"stage": "clasify"}}}, r"stage of runs.oaa in .* is 'clasify'"),
    ({"runs": {"oaa": {"stage": "attend"}}}, "has no `of`: attend reads the result"),
    ({"runs": {"oaa": {"stage": "classify", "of": "x"}}}, "classify reads no other run"),
    ({"runs": {"oaa": {"stage": "attend", "of": "x"}}}, "runs.oaa in .* is x, which runs lacks"),
    (
        {"runs": {"oaa": {"stage": "attend", "of": "b"}, "b": {"stage": "attend", "of": "oaa"}}},
        "wait for each other: oaa of b of oaa",
    ),
    ({"runs": {"oaa": {"stage": "attend", "of": "oaa"}}}, "wait for each other: oaa of oaa"),
    (
        {"runs": {"oaa": {"stage": "classify", "maps": "store"}}},
        "maps of runs.oaa in .* is 'store', expected a folder within",
    ),
    (
        {"runs": SMALL["runs"] | {"i": {"stage": "integral", "of": "oaa", "maps": "../x"}}},
        "maps of runs.i in .* is '../x', expected a folder within",
    ),
    ({"rows": [{"name": "a"}]}, "row 1 of rows in .* has no run"),
    ({"rows": [{"name": "a", "run": "oa"}]}, "is oa, which runs does not name; the nearest.* oaa"),
    ({"rows": [{"name": "a", "run": "oaa"}] * 2}, "names 'a' twice"),
    (
        {"rows": [{"name": "a", "run": "oaa", "paper": {"recall": "36"}}]},
        "paper.recall of row 1 of .* is '36', expected a number or null",
    ),
    (
        {"rows": [{"name": "a", "run": "oaa", "paper": {"noise": 1.0}}]},
        "paper.noise of row a in .* has no line in paper_columns",
    ),
    ({"scales": {"cpu": {"seeds": ["a"]}}}, r"seeds of scales.cpu in .* expected integers"),
    ({"scales": {"cpu": {"seeds": []}}}, r"seeds of scales.cpu in .* expected integers"),
    ({"scales": {"cpu": {"clasify": {}}}}, "unknown key clasify in scales.cpu"),
    ({"scales": {"cpu": {"classify": {"config": "no.yaml"}}}}, "no.yaml of classify.* not exist"),
    ({"scales": {"cpu": {"classify": 3}}}, "classify of scales.cpu in .* expected lines of"),
    ({"plot": {"kind": "pie"}}, "kind of plot in .* is 'pie', expected epochs or sweep"),
    (
        {
            "plot": {"kind": "sweep", "columns": ["recall"]},
            "rows": [{"name": "a", "run": "oaa", "group": "g"}],
        },
        "group of row a in .* is g, which plot.groups does not name",
    ),
    ({"inherits": "small.yaml"}, "inherits from itself"),
    ({"inherits": "none.yaml"}, "none.yaml cannot be read"),
]


@pytest.mark.parametrize(("change", "sentence"), MISTAKES)
def test_a_mistake_is_one_sentence_with_its_file(change, sentence, tmp_path):
    path = write(tmp_path, SMALL | change)
    with pytest.raises(UserError, match=sentence) as caught:
        read_table(path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "- 1\n", "just words"])
def test_a_file_that_is_no_table(text, tmp_path):
    path = tmp_path / "t.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"t\.yaml is"):
        read_table(path)


def test_a_table_is_found_here_first_then_beside_the_package(tmp_path, monkeypatch):
    shipped = find_table("table11")
    assert shipped.name == "table11.yaml"
    monkeypatch.chdir(tmp_path)
    assert find_table("table11") == shipped
    own = write(tmp_path, SMALL, "configs/reproduce/table11.yaml")
    assert find_table("table11") == own
    assert find_table(str(own)) == own
    assert find_table("configs/reproduce/table11.yaml") == own


def test_a_table_that_is_not_found(tmp_path, monkeypatch):
    with pytest.raises(
        UserError, match=r"no table tabel11, expected one of figure11, .*table10, tab"
    ):
        find_table("tabel11")
    with pytest.raises(UserError, match="oaa reproduce needs a table, expected one of figure11"):
        find_table("")
    with pytest.raises(UserError, match=r"the table x/no.yaml does not exist"):
        find_table("x/no.yaml")
    monkeypatch.setattr(files, "folders", lambda: [tmp_path / "a", tmp_path / "b"])
    with pytest.raises(UserError, match=r"neither .*/a nor .*/b holds any; give the path"):
        find_table("table11")
