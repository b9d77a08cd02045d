"""Cells that a spreadsheet would run are written so that it shows them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.runtime.csv_cells import guarded, unguarded

texts = st.text(alphabet="=+-@'\t\r\n1.e a|", max_size=8) | st.text(max_size=8)


@pytest.mark.parametrize(
    "text", ["=1+1", "=cmd|' /C calc'!A0", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "-", "-x"]
)
def test_formulas_begin_with_an_apostrophe(text):
    assert guarded(text) == "'" + text


@pytest.mark.parametrize("cell", ["-1", "+1.5", "-.5e-3", "1=1", "a@b", "", "'tis", -1, None, 2.5])
def test_other_cells_stay_what_they_are(cell):
    assert guarded(cell) is cell


@given(texts)
def test_no_text_begins_as_a_formula_unless_it_is_a_number(text):
    written = guarded(text)
    if written[:1] in tuple("=+-@\t\r\n"):
        float(written)


@given(texts)
def test_every_text_comes_back(text):
    assert unguarded(guarded(text)) == text
