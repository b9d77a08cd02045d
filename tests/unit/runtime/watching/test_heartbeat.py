"""Words of ranks that are played here, over a real store; what the watch says, and when."""

import datetime
import json
import re
import threading
import time

import pytest
import torch.distributed as dist

from dist_oaa.config.run import RuntimeConfig
from dist_oaa.runtime.watching.heartbeat import RECORD, Heartbeat, Watch, open_heartbeat
from dist_oaa.runtime.watching.pulse import LOADING, TRAINING, WAITING, WARM_UP, Pulse


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, 1, True, timeout=datetime.timedelta(seconds=5))


def ranks_of(store, clock, size, quiet_s=60.0):
    """Heartbeats and watches of all ranks, and the sentences that each of them says."""
    beats = [Heartbeat(Pulse(rank, clock=clock), size, store.clone(), 5.0) for rank in range(size)]
    said = [[] for _ in beats]
    return (
        beats,
        [Watch(beat, quiet_s, log.append) for beat, log in zip(beats, said, strict=True)],
        said,
    )


def live(clock, seconds, beats, watches, stopped=()):
    """Lets time pass, in which all ranks but the stopped ones exchange words and look around."""
    for second in range(seconds):
        clock.now += 1
        for rank, (beat, watch) in enumerate(zip(beats, watches, strict=True)):
            if rank not in stopped:
                if second % 5 == 0:
                    beat.exchange(watch.quiet)
                watch.look()


def test_ranks_hear_of_each_other(store, clock):
    beats, watches, _ = ranks_of(store, clock, 3)
    with beats[2].pulse.doing(TRAINING), beats[2].pulse.doing(LOADING):
        live(clock, 11, beats, watches)
    own, first, second = beats[0].heard()
    assert [each.word.rank for each in (own, first, second)] == [0, 1, 2]
    assert second.word.doing == [TRAINING, LOADING]
    assert second.word.host == beats[2].pulse.host
    assert second.ago_s <= 5
    # The others have nothing to listen for while steps are made.
    assert [each.word.rank for each in beats[1].heard()] == [1]


def test_a_run_that_moves_says_nothing(store, clock):
    beats, watches, said = ranks_of(store, clock, 2)
    with beats[0].pulse.doing(TRAINING), beats[1].pulse.doing(TRAINING):
        for step in range(30):
            live(clock, 59, beats, watches)
            for beat in beats:
                beat.pulse.step_done(0, step, 1)
    assert said == [[], []]


def test_a_hanging_rank_is_named_every_minute_by_one_rank_only(store, clock):
    beats, watches, said = ranks_of(store, clock, 3)
    hint = "batch 1 of 2, data worker 0 (pid 9) has not answered"
    beats[2].pulse.hint = lambda: hint
    with (
        beats[0].pulse.doing(WAITING),
        beats[1].pulse.doing(WAITING),
        beats[2].pulse.doing(LOADING),
    ):
        live(clock, 125, beats, watches)
        host = beats[2].pulse.host
        for text, seconds in zip(said[0], (60, 120), strict=True):
            start = f"no step for {seconds} s: waiting for rank 2 ({host}), loading images for "
            assert text.startswith(start)
        assert all(text.endswith(hint) for text in said[0])
        for beat in beats:
            beat.pulse.step_done(0, 1, 1)
        live(clock, 5, beats, watches)
    assert said[0][2:] == ["it goes on, after 125 s"]
    assert said[1:] == [[], []]


def test_a_stopped_rank_is_named_by_its_silence(store, clock):
    beats, watches, said = ranks_of(store, clock, 2)
    with beats[0].pulse.doing(WAITING), beats[1].pulse.doing(TRAINING):
        live(clock, 20, beats, watches)
        live(clock, 41, beats, watches, stopped=[1])
    (text,) = said[0]
    assert text.startswith(f"no step for 60 s: waiting for rank 1 ({beats[1].pulse.host}), whose")
    assert re.search(r"whose last word was (39|4[0-5]) s ago, computing$", text)


def test_another_rank_speaks_where_the_first_is_silent(store, clock):
    beats, watches, said = ranks_of(store, clock, 3)
    with (
        beats[0].pulse.doing(TRAINING),
        beats[1].pulse.doing(WAITING),
        beats[2].pulse.doing(WAITING),
    ):
        live(clock, 10, beats, watches)
        live(clock, 65, beats, watches, stopped=[0])
    assert said[0] == said[2] == []
    assert "waiting for rank 0" in said[1][0]


def test_a_rank_that_was_stopped_itself_blames_nobody(store, clock):
    beats, watches, said = ranks_of(store, clock, 2)
    with beats[0].pulse.doing(WAITING), beats[1].pulse.doing(TRAINING):
        live(clock, 40, beats, watches)  # from 30 s on, rank 1 listens too
        live(clock, 200, beats, watches, stopped=[1])
        watches[1].look()
    assert said[1] == []


def test_a_rank_cut_off_from_the_store_speaks_for_itself(store, clock):
    beats, watches, said = ranks_of(store, clock, 2)
    with beats[0].pulse.doing(WAITING), beats[1].pulse.doing(WAITING):
        live(clock, 40, beats, watches)

        class CutOff:
            def set(self, *_):
                raise RuntimeError("connection reset")

        beats[1]._store = CutOff()
        for _ in range(30):
            clock.now += 1
            with pytest.raises(RuntimeError):
                beats[1].exchange(True)
            watches[1].look()
    assert "waiting for rank 0" in said[1][0]


def test_a_slow_rank_is_named_by_rank_0(store, clock):
    beats, watches, said = ranks_of(store, clock, 3)
    for step in range(40):
        for rank, beat in enumerate(beats):
            start = clock.now
            clock.now += 2.1 if rank == 1 else 0.8
            beat.pulse.step_done(0, step, 4)
            clock.now = start  # ranks work side by side
            beat.pulse.restart()
        live(clock, 6, beats, watches)
        for beat in beats:
            beat.pulse.restart()
        if step < WARM_UP + 14:
            assert said[0] == []
    host = beats[1].pulse.host
    assert said[0] == [f"rank 1 ({host}) is slow: 2.1 s a step of its own work, the others 0.8 s"]
    assert said[1:] == [[], []]


def test_the_record_tells_an_outsider_what_each_rank_does(store, clock, tmp_path):
    beats, watches, _ = ranks_of(store, clock, 2)
    with beats[0].pulse.doing(TRAINING), beats[1].pulse.doing(LOADING):
        deadline, entry = time.monotonic() + 20, {"ranks": []}
        while len(entry["ranks"]) < 2:  # a word takes its time on a busy machine
            assert time.monotonic() < deadline, entry
            live(clock, 7, beats, watches)
            for beat in beats:
                beat.run_dir = tmp_path
                beat.record("running")
            entry = json.loads((tmp_path / RECORD).read_text())
    assert entry["state"] == "running"
    assert abs(entry["time"] - time.time()) < 60
    assert [(r["rank"], r["doing"]) for r in entry["ranks"]] == [(0, [TRAINING]), (1, [LOADING])]
    assert [r["pid"] for r in entry["ranks"]] == [beats[0].pulse.pid] * 2
    assert [path.name for path in tmp_path.iterdir()] == [RECORD]
    beats[0].run_dir = tmp_path / "gone"
    beats[0].record("running")  # a disk that fails is not this file's affair


def named_threads():
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("oaa-"))


def test_threads_speak_of_a_real_standstill_and_end(tmp_path, capsys):
    config = RuntimeConfig(quiet_s=0.3)
    with open_heartbeat(config, 0, 1) as heartbeat:
        heartbeat.run_dir = tmp_path
        with heartbeat.pulse.doing(TRAINING), heartbeat.pulse.doing("measuring after epoch 1"):
            assert named_threads() == ["oaa-heartbeat", "oaa-watch"]
            deadline, text = time.monotonic() + 20, ""
            while text.count("no step") < 2:
                assert time.monotonic() < deadline, text
                time.sleep(0.05)
                text += capsys.readouterr().out
            assert json.loads((tmp_path / RECORD).read_text())["state"] == "running"
    assert "s: measuring after epoch 1 for " in text
    assert json.loads((tmp_path / RECORD).read_text())["state"] == "ended"
    assert named_threads() == []


def test_without_watching_there_are_no_threads(tmp_path):
    with open_heartbeat(RuntimeConfig(watch=False), 0, 1) as heartbeat:
        heartbeat.run_dir = tmp_path
        assert named_threads() == []
        assert not heartbeat.pulse.timed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quiet_s", [0, -1, float("nan")])
def test_a_senseless_time_is_refused(quiet_s):
    with pytest.raises(ValueError, match=r"runtime\.quiet_s"):
        RuntimeConfig(quiet_s=quiet_s)
