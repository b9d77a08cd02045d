"""Documentation: links lead somewhere, and the helper that runs pages runs what it should."""

import subprocess

import pytest

from documents import (
    anchors_of,
    blocks_of,
    broken_links,
    links_of,
    missing_sources,
    run_page,
    shell_text,
)
from processes import REPOSITORY

PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        REPOSITORY / "configs/README.md",
    ]
)

PAGE = """# A `code` title: [link](x.md)
see [one](other.md), [two](other.md#part-two), [three](#again-1), `[no](link.md)`,
[site](https://example.org/a_(b)), ![picture](a.png) and [gone](none.md), [bad](other.md#part-9)

```python
x = 1  # [not](a-link.md)
```

## Again
## Again

```console
$ echo "a b" \\
    | tr a c
c b
$ echo second
second
```

```
[shown](only.md)
```
"""


@pytest.fixture
def page(tmp_path):
    (tmp_path / "other.md").write_text("# Part Two\n")
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "page.md"
    path.write_text(PAGE)
    return path


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_links_lead_somewhere(path):
    assert broken_links(path) == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_tests_and_programs_that_are_named_exist(path):
    assert missing_sources(path, REPOSITORY) == []


def test_missing_ones_are_found(tmp_path):
    (tmp_path / "tests/unit").mkdir(parents=True)
    (tmp_path / "tests/unit/test_here.py").touch()
    page = tmp_path / "page.md"
    page.write_text(
        "`tests/unit/test_here.py`, `test_here.py`, `tests/test_here.py`, `test_gone.py`, "
        "`tools/gone.py`, `runs/mine/tools/own.py`"
    )
    assert missing_sources(page, tmp_path) == [
        "tests/test_here.py",
        "tools/gone.py",
        "test_gone.py",
    ]


def test_links_are_found(page):
    assert links_of(page) == [
        *("x.md", "other.md", "other.md#part-two", "#again-1", "a.png"),
        *("none.md", "other.md#part-9"),
    ]
    assert broken_links(page) == ["x.md", "none.md", "other.md#part-9"]
    assert anchors_of(page) == {"a-code-title-link", "again", "again-1"}


def test_blocks_are_found(page):
    python, console, plain = blocks_of(page)
    assert (python.language, python.text, python.line) == (
        "python",
        "x = 1  # [not](a-link.md)\n",
        6,
    )
    assert (console.language, plain.language, plain.text) == ("console", "", "[shown](only.md)\n")
    done = subprocess.run(["bash", "-c", shell_text(console)], capture_output=True, text=True)
    assert done.stdout == "c b\nsecond\n"


def test_a_page_runs_in_order_with_shared_names(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "```python\nx = 2\n```\n```bash\necho 3 > n\n```\n```text\nnot run\n```\n"
        "```python\nprint(x + int(open('n').read()))\n```\n"
    )
    assert run_page(page, tmp_path, 60).splitlines() == ["# line 2", "# line 5", "# line 11", "5"]


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("```bash\necho a\nfalse\necho b\n```\n", "the block of line 2 ends with exit code 1"),
        ("text\n\n```python\n1 / 0\n```\n", 'File "page.md", line 4'),
    ],
)
def test_a_page_that_fails_says_where(tmp_path, block, words):
    page = tmp_path / "page.md"
    page.write_text(block)
    with pytest.raises(AssertionError) as failed:
        run_page(page, tmp_path, 60)
    assert words in str(failed.value)


def test_a_page_without_blocks_proves_nothing(tmp_path):
    (tmp_path / "page.md").write_text("words\n")
    with pytest.raises(AssertionError, match="has no block"):
        run_page(tmp_path / "page.md", tmp_path, 5)
