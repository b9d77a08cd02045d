"""The fuzzer of the readers: its sound files, its changes, and that it sees a crash."""

import random
import sys

import pytest

from processes import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "tools"))

from fuzz_input import Trial, by_chance, changed
from fuzz_readers import READERS, Reader


@pytest.mark.parametrize("name", [reader.name for reader in READERS])
def test_the_sound_file_is_accepted_and_rubbish_is_refused(name, tmp_path):
    trial = Trial(name, tmp_path / "files", tmp_path / "keep")
    trial(trial.sound)
    assert (trial.counts.accepted, trial.counts.refused) == (1, 0)
    trial(b"\x00 rubbish \xff" * 9)
    assert (trial.counts.refused, trial.counts.crashed) == (1, 0)
    by_chance(trial, seconds=0.3, seed=1)
    assert trial.counts.crashed == 0
    assert trial.counts.tried > 5


def test_a_traceback_is_a_crash_and_its_input_is_kept(tmp_path):
    trial = Trial("mask", tmp_path / "files", tmp_path / "keep")
    trial.reader = Reader("mask", "m.png", lambda folder: 1 / 0)
    trial(b"abc")
    assert trial.counts.crashed == 1
    assert (tmp_path / "keep" / "1-m.png").read_bytes() == b"abc"


def test_changes_repeat_from_the_seed():
    sound = bytes(range(200))
    first, again = ([changed(sound, rng) for _ in range(50)] for rng in map(random.Random, (1, 1)))
    assert first == again
    assert len(set(first)) > 40
