"""The table of measures as a reader sees it in a terminal of 80 columns."""

import io

import pytest
from rich.console import Console

from dist_oaa.evaluation.table import quality_table


def rendered(table) -> str:
    console = Console(width=80, file=io.StringIO(), color_system=None)
    console.print(table)
    return console.file.getvalue()


def row_of(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if name in line]
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_full_table():
    full = {"recall": 0.36749, "noise": 0.3275, "seed_miou": 0.5, "seed_threshold": 0.24}
    text = rendered(
        quality_table(
            {
                "CAM (final classifier)": full | {"labels_miou": 0.583},
                "cumulative (OAA)": full | {"recall": 1.0, "noise": float("nan")},
            },
            title="attention",
            caption="supervision: image labels",
        )
    )
    assert row_of(text, "CAM") == ["CAM (final classifier)", "36.7", "32.8", "50.0 at 0.24", "58.3"]
    assert row_of(text, "OAA") == ["cumulative (OAA)", "100.0", "-", "50.0 at 0.24", "-"]
    assert max(map(len, text.splitlines())) <= 80
    for word in ("recall", "noise", "seed mIoU", "tuned on masks", "labels", "attention"):
        assert word in text
    assert "supervision: image labels" in text
    assert "…" not in text


def test_a_measure_that_no_row_has_gets_no_column():
    text = rendered(quality_table({"CAM": {"recall": 0.0, "noise": 1.0}}))
    assert row_of(text, "CAM") == ["CAM", "0.0", "100.0"]
    assert "mIoU" not in text


def test_a_seed_without_a_figure_shows_no_threshold():
    nan = float("nan")
    text = rendered(quality_table({"CAM": {"seed_miou": nan, "seed_threshold": nan}}))
    assert row_of(text, "CAM") == ["CAM", "-"]


def test_a_long_name_folds_rather_than_widening_the_table():
    full = dict.fromkeys(("recall", "noise", "seed_miou", "seed_threshold", "labels_miou"), 1.0)
    text = rendered(quality_table({"cumulative attention of a run " * 4: full}))
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert text.count("attention") == 4


def test_an_unknown_measure_is_refused():
    with pytest.raises(ValueError, match=r"no column for \['miou'\]"):
        quality_table({"CAM": {"miou": 0.5}})
