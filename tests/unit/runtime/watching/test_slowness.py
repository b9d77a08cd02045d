"""Who is slow, and whom all wait for, from words that are written here by hand."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_oaa.runtime.watching.pulse import CHECKPOINT, LOADING, TRAINING, WAITING
from dist_oaa.runtime.watching.slowness import STEPS, Heard, Stragglers, Word, awaited


def word(rank=0, doing=(TRAINING,), hint="", own_s=0.8, loading_s=0.1, images=4.0, **changes):
    given = Word(
        rank, f"node{rank}", 70 + rank, 1, 2, 30, list(doing), 62.0, hint, 20, own_s, loading_s,
        0.0, images,
    )  # fmt: skip
    return replace(given, **changes)


def heard(*words, ago_s=()):
    ages = dict(ago_s)
    return [Heard(each, ages.get(each.rank, 0.0)) for each in words]


def test_a_run_alone_says_what_it_does():
    hint = "batch 3 of 9, data worker 0 (pid 77) has not answered"
    said = awaited(heard(word(doing=[TRAINING, LOADING], hint=hint)), 1, 15)
    assert said == f"loading images for 62 s: {hint}"
    assert awaited(heard(word()), 1, 15) == "computing for 62 s"
    where = [TRAINING, "measuring after epoch 2", LOADING]
    said = awaited(heard(word(doing=where, hint="batch 3 of 9")), 1, 15)
    assert said == "measuring after epoch 2, loading images for 62 s: batch 3 of 9"
    said = awaited(heard(word(doing=[TRAINING, CHECKPOINT], hint="batch 3 of 9")), 1, 15)
    assert said == "writing a checkpoint for 62 s"


def test_a_silent_rank_is_awaited_whatever_the_others_do():
    waiting, silent = word(0, [TRAINING, WAITING]), word(2, [TRAINING, LOADING])
    busy = word(1, [TRAINING, LOADING])
    said = awaited(heard(waiting, busy, silent, ago_s={2: 75}.items()), 3, 15)
    assert said == "waiting for rank 2 (node2), whose last word was 75 s ago, loading images"


def test_a_rank_that_never_spoke_is_awaited_by_number():
    said = awaited(heard(word(0, [WAITING]), word(1, [WAITING])), 4, 15)
    assert said == (
        "waiting for rank 2, which has not been heard of; rank 3, which has not been heard of"
    )


def test_those_that_do_not_wait_are_awaited():
    hint = "batch 1 of 2, data worker 1 (pid 9) has not answered"
    late = word(2, [TRAINING, LOADING], hint)
    said = awaited(heard(word(0, [TRAINING, WAITING]), word(1, [TRAINING, WAITING]), late), 3, 15)
    assert said == f"waiting for rank 2 (node2), loading images for 62 s: {hint}"
    said = awaited(heard(word(0), word(1, [TRAINING, WAITING])), 2, 15)
    assert said == "waiting for rank 0 (node0), computing for 62 s"


def test_many_are_counted():
    words = [word(0, [TRAINING, WAITING]), *(word(rank) for rank in range(1, 9))]
    said = awaited(heard(*words), 9, 15)
    assert said.startswith("waiting for rank 1 (node1), computing for 62 s; rank 2 (node2), ")
    assert said.endswith("; and 5 more")


def test_where_all_work_or_all_wait_nobody_is_blamed():
    measuring = [TRAINING, "measuring after epoch 2"]
    said = awaited(heard(word(0, measuring), word(1, measuring)), 2, 15)
    assert said == "measuring after epoch 2 for 62 s"
    said = awaited(heard(word(0, [WAITING]), word(1, [WAITING])), 2, 15)
    assert said.startswith("all ranks wait for each other")


def test_a_straggler_is_named_once_and_once_when_it_recovers():
    judge = Stragglers()
    usual = [word(rank) for rank in range(3)]
    assert judge.judge([*usual, word(3)]) == []
    assert judge.judge([*usual, word(3, own_s=2.1)]) == [
        "rank 3 (node3) is slow: 2.1 s a step of its own work, the others 0.8 s"
    ]
    assert judge.judge([*usual, word(3, own_s=2.5)]) == []
    assert judge.judge([*usual, word(3, own_s=1.1)]) == []  # between the two bounds: no flapping
    assert judge.judge([*usual, word(3, own_s=0.9, step=530)]) == [
        "rank 3 (node3) is no longer slow, after 500 steps: 0.9 s a step of its own work, the "
        "others 0.8 s"
    ]
    assert judge.judge([*usual, word(3, own_s=1.1)]) == []
    assert len(judge.judge([*usual, word(3, own_s=2.1)])) == 1


def test_of_two_ranks_the_slower_one_is_found():
    assert Stragglers().judge([word(0, own_s=2.0), word(1)]) == [
        "rank 0 (node0) is slow: 2 s a step of its own work, the others 0.8 s"
    ]


def test_slow_images_are_told_of():
    (said,) = Stragglers().judge([word(0), word(1, own_s=3.0, loading_s=2.4)])
    assert said.endswith("the others 0.8 s; 2.4 s of it go into loading images")


@pytest.mark.parametrize(
    "words",
    [
        [word(0), word(1, own_s=9.0, steps=STEPS - 1)],  # too early
        [word(0, steps=STEPS - 1), word(1, own_s=9.0)],
        [word(0, own_s=0.002), word(1, own_s=0.02)],  # ten times, but what of it
        [word(0), word(1, own_s=1.5, images=8.0)],  # it has twice the images
        [word(0), word(1, own_s=1.1)],
        [word(0, own_s=9.0)],
    ],
)
def test_no_straggler(words):
    assert Stragglers().judge(words) == []


def test_a_rank_without_images_is_no_straggler_and_no_measure():
    words = [word(0, own_s=0.1, images=0.0), word(1), word(2)]
    assert Stragglers().judge(words) == []


@given(st.lists(st.floats(0.8, 1.15), min_size=2, max_size=6), st.integers(1, 30))
def test_a_spread_of_a_third_makes_nobody_slow(times, rounds):
    judge = Stragglers()
    for _ in range(rounds):
        assert judge.judge([word(rank, own_s=t) for rank, t in enumerate(times)]) == []


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=60))
def test_what_begins_ends_before_it_begins_again(times):
    judge, said = Stragglers(), []
    for own_s in times:
        said += [s for s in judge.judge([word(0), word(1), word(2, own_s=own_s)]) if "2)" in s]
    kinds = ["no longer" in each for each in said]
    assert kinds == [bool(n % 2) for n in range(len(kinds))]
