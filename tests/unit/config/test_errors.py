"""What a library has said, in one line of ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.config.errors import in_one_line


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("short", "short"),
        (ValueError("two\n  lines\t"), "two lines"),
        ("exactly sixteen.", "exactly sixteen."),
        ("a sentence that goes on", "a sentence ..."),
        ("/one/word/longer/than/that", "/one/word/lo ..."),
        ("", ""),
    ],
)
def test_lines_end_with_a_whole_word(words, line):
    assert in_one_line(words, 16) == line


@given(words=st.text(max_size=400), limit=st.integers(8, 200))
def test_no_line_is_too_long_or_two(words, limit):
    line = in_one_line(words, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    plain = " ".join(words.split())
    assert line == plain or (line.endswith(" ...") and plain.startswith(line[:-4]))
