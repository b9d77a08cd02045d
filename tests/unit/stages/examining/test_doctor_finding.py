"""A check can neither end the command nor freeze it."""

import threading
import time

import pytest

from dist_oaa.stages.examining.finding import Finding, guarded, in_time, size_text


def test_findings_come_through():
    one = Finding("disk", "there")
    assert guarded("disk", lambda: one) == [one]
    assert guarded("disk", lambda: [one, one]) == [one, one]
    assert in_time("disk", lambda: one, 5, "") == [one]


def test_a_check_that_crashes_is_a_problem():
    def crash() -> Finding:
        raise ZeroDivisionError("by\nzero")

    (found,) = guarded("disk", crash)
    assert (found.name, found.state) == ("disk", "problem")
    assert found.found == "this check failed: ZeroDivisionError: by zero"
    assert "line" in found.facts["traceback"]
    assert found.advice
    assert in_time("disk", crash, 5, "")[0].found == found.found


def test_a_check_that_hangs_is_a_problem_and_is_left_behind():
    release, start = threading.Event(), time.monotonic()

    def hang() -> Finding:
        release.wait(30)
        return Finding("disk", "late")

    assert in_time("disk", hang, 0.1, "mend it") == [
        Finding("disk", "no answer within 0.1 s", "problem", "mend it")
    ]
    assert time.monotonic() - start < 5
    release.set()


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"), (1023, "1023 bytes"), (64 << 20, "64 MiB"), (3 << 29, "1.5 GiB"),
        (5 << 40, "5.0 TiB"), (3 << 50, "3072.0 TiB"),
    ],
)  # fmt: skip
def test_sizes_for_people(size, text):
    assert size_text(size) == text
