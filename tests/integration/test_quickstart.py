"""Every command of docs/quickstart.md runs, in order, with fewer epochs and pictures."""

import shutil

import pytest

from documents import blocks_of, run_page
from processes import REPOSITORY

PAGE = REPOSITORY / "docs" / "quickstart.md"
SMALLER = {
    "--optim.epochs 10": "--optim.epochs 3",
    "--optim.batch_size 8": "--optim.batch_size 4",
    "--images 60 --size 128": "--images 24 --size 96",
    "--data.size 128": "--data.size 96",
}
NOT_RUN = {
    "pip install": "tests/integration/test_wheel.py installs the package",
    "tensorboard --logdir": "serves until it is stopped; its files are looked for below",
}


def test_what_is_not_run_is_known():
    shown = [block.text for block in blocks_of(PAGE) if not block.language]
    assert len(shown) == len(NOT_RUN)
    assert all(any(text.startswith(start) for start in NOT_RUN) for text in shown)


@pytest.mark.slow
def test_the_page_works(tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    for said, smaller in SMALLER.items():
        assert said in text
        text = text.replace(said, smaller)
    page = tmp_path / PAGE.name
    page.write_text(text, encoding="utf-8")
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    printed = run_page(page, tmp_path, seconds=300, only=["bash"])
    assert "cumulative (max)" in printed
    assert list(tmp_path.glob("runs/first/tensorboard/events.*"))
    assert len(list((tmp_path / "segmented/masks").glob("*.png"))) == 24
    assert (tmp_path / "runs/first/pictures/attention.png").exists()
    assert (tmp_path / "runs/first/report.html").stat().st_size > 10_000
    shutil.rmtree(tmp_path / "runs")
