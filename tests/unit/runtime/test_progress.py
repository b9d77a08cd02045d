"""Progress lines of a log: every so many steps, and at the latest after a minute."""

import pytest

from dist_oaa.runtime import progress
from dist_oaa.runtime.progress import LINE_EVERY_S, Reporter


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test sets."""

    class Time:
        now = 0.0

        @classmethod
        def monotonic(cls):
            return cls.now

    monkeypatch.setattr(progress, "time", Time)
    return Time


def test_quick_steps_are_told_of_every_so_often(clock, capsys):
    reporter = Reporter(True, 10)
    reporter.start(25, 0)
    for step in range(1, 26):
        clock.now += 1
        reporter.step(0, step, 8, {"loss": 0.5})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == ["10/25", "20/25", "25/25"]
    assert all("8.0 img/s" in line for line in lines)


def test_slow_steps_are_told_of_at_the_latest_after_a_minute(clock, capsys):
    reporter = Reporter(True, 1000)
    reporter.start(500, 0)
    for step in range(1, 9):
        clock.now += LINE_EVERY_S / 3
        reporter.step(0, step, 8, {})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3] for line in lines] == ["3/500", "6/500"]


def test_other_ranks_are_silent(clock, capsys):
    reporter = Reporter(False, 1)
    reporter.start(2, 0)
    reporter.step(0, 1, 8, {})
    assert capsys.readouterr().out == ""
