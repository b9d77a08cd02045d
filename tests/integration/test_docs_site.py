"""The documentation becomes pages without a warning."""

import os
import subprocess
import sys

import pytest

from processes import REPOSITORY


@pytest.mark.slow
def test_the_site_is_built(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=REPOSITORY,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in (REPOSITORY / "docs").glob("*.md")}
    assert {path.stem for path in tmp_path.glob("*.html")} >= pages
    text = (tmp_path / "quickstart.html").read_text(encoding="utf-8")
    assert "fonts.googleapis" not in text  # a page asks nobody else for anything
