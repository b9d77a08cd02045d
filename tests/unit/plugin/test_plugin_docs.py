"""Every block of docs/plugin.md runs, one after the other, in an empty folder."""

import pytest

from dist_oaa import plugin
from documents import blocks_of, run_page
from processes import REPOSITORY

PAGE = REPOSITORY / "docs" / "plugin.md"


@pytest.mark.slow
def test_the_blocks_run(tmp_path):
    assert len([block for block in blocks_of(PAGE) if block.language == "python"]) > 6
    printed = run_page(PAGE, tmp_path, 200, only=("python",))
    assert "of the last batch's pairs were accepted" in printed
    assert (tmp_path / "store" / "manifest.json").exists()


def test_the_page_names_the_whole_api():
    table = PAGE.read_text().split("## The whole API")[1]
    missing = [name for name in plugin.__all__ if name not in table]
    assert not missing
