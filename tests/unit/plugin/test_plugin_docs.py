"""Every block of docs/plugin.md runs, one after the other, in an empty folder."""

import re
import subprocess
import sys

import pytest

from dist_oaa import plugin
from processes import REPOSITORY, environment

PAGE = REPOSITORY / "docs" / "plugin.md"
STUBS = REPOSITORY / "tests" / "stubs"
# Stand-ins come last on the path: packages that are installed are taken instead.
RUN_LATE = f"import sys; sys.path.append({str(STUBS)!r})\n"


@pytest.mark.slow
def test_the_blocks_run(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 6
    script = tmp_path / "page.py"
    script.write_text(RUN_LATE + "\n".join(blocks))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert "of the last batch's pairs were accepted" in done.stdout
    assert (tmp_path / "store" / "manifest.json").exists()


def test_the_page_names_the_whole_api():
    table = PAGE.read_text().split("## The whole API")[1]
    missing = [name for name in plugin.__all__ if name not in table]
    assert not missing


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)]+)\)", PAGE.read_text()):
        assert (PAGE.parent / target).exists(), target
