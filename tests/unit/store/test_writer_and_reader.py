"""The store as a whole: writers of any number of ranks, crashes, full disks, readers."""

import contextlib
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_oaa.config.errors import UserError
from dist_oaa.store.manifest import Manifest
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.shard import Shard
from dist_oaa.store.writer import StoreWriter, prepare_store
from store_builders import (
    by_row,
    fill,
    flip,
    make_manifest,
    make_store,
    publish,
    random_rows,
    state,
)


@pytest.fixture
def store(tmp_path):
    """A run directory's store with generation 1 published."""
    folder = tmp_path / "run/store"
    make_store(folder)
    publish(folder, 1)
    return folder


def open_writer(folder, generation, rank=0, world=1, **options) -> StoreWriter:
    return StoreWriter(folder, Manifest.read(folder), rank, world, generation, **options)


def names_of_rows(writer: StoreWriter) -> list:
    """(image name, class) of each bank row, from the documented order of rows."""
    manifest = writer.manifest
    names = {}
    for i, (name, classes) in enumerate(zip(manifest.image_ids, manifest.classes, strict=True)):
        if int(manifest.shard_N[i]) in writer.owned:
            first = int(writer.first_row(np.array([i]))[0])
            names |= {first + k: (name, c) for k, c in enumerate(classes)}
    assert sorted(names) == list(range(writer.rows))
    return [names[row] for row in range(writer.rows)]


# --- Random histories against a plain dictionary -------------------------------------------

steps = st.lists(
    st.tuples(
        st.integers(1, 5),  # ranks
        st.sampled_from(["publish", "publish", "unpublished", "part of the ranks", "part of rank"]),
        st.integers(0, 2**32 - 1),  # what is written
    ),
    max_size=6,
)


@settings(max_examples=12, deadline=None)
@given(steps, st.booleans(), st.booleans())
def test_any_history_of_commits_and_crashes(history, local, standalone):
    """After any crash every world opens at exactly what was published last.

    A store alone has no latest.json: there the newest generation complete on every shard counts.
    """
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "run/store")
        manifest = make_manifest(11, shards=5)
        prepare_store(folder, manifest, resume=False)
        if not standalone:
            publish(folder, 0)
        published, generation = {}, 0
        for world, end, seed in history:
            options = {"local_dir": f"{base}/node{seed % 2}"} if local else {}
            wanted = dict(published)
            for rank in range(world):
                writer = open_writer(folder, generation, rank, world, **options)
                names = names_of_rows(writer)
                found = {names[row]: bits for row, bits in by_row(writer).items()}
                assert found == {n: published[n] for n in names if n in published}
                rng = np.random.default_rng([seed, rank])
                rows = np.flatnonzero(rng.random(writer.rows) < rng.random())
                if end == "part of rank":
                    break_after(writer, rank % 2, rows, generation + 1, seed)
                elif end != "part of the ranks" or rank % 2:
                    new = fill(writer, generation + 1, seed + rank, rows)
                    wanted |= {names[row]: bits for row, bits in new.items()}
                writer.close()
            if end == "publish" or (standalone and end == "unpublished"):
                published, generation = wanted, generation + 1
                if not standalone:
                    publish(folder, generation)
            if generation:
                assert StoreReader(folder).generation == generation
                assert state(folder) == published


def break_after(writer, shards, rows, generation, seed) -> None:
    """A commit that fails when it has reached this many of the rank's five shards."""
    done = []
    one_at_a_time = threading.Lock()

    def failing(shard, *arguments):
        with one_at_a_time:
            if len(done) == shards:
                raise OSError(28, "No space left on device")
            done.append(shard)
        return commit(shard, *arguments)

    commit = Shard.commit
    written = random_rows(writer.manifest, rows, seed)
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(UserError):
        patch.setattr(Shard, "commit", failing)
        writer.commit(generation, written)
    assert len(done) == min(shards, len(writer.owned))


def test_crash_between_shards(store):
    """Shard 0 has reached generation 2, the others have not: generation 1 is what opens."""
    before = state(store)
    writer = open_writer(store, 1, rank=0, world=3)
    fill(writer, 2, seed=9)
    writer.close()
    assert state(store) == before
    writers = [open_writer(store, 1, rank, 2) for rank in range(2)]
    for writer in writers:
        names = names_of_rows(writer)
        assert by_row(writer) == {row: before[name] for row, name in enumerate(names)}
    after = {}
    for writer in writers:
        names = names_of_rows(writer)
        after |= {names[row]: bits for row, bits in fill(writer, 2, seed=writer.rows).items()}
        writer.close()
    assert state(store) == before
    publish(store, 2)
    assert state(store) == after


def test_a_commit_in_the_background(store):
    """Transactions of LMDB belong to the thread that began them."""
    writer = open_writer(store, 1)
    made = []
    thread = threading.Thread(target=lambda: made.append(fill(writer, 2, seed=3)))
    thread.start()
    thread.join()
    assert by_row(writer) == made[0]
    assert fill(writer, 3, seed=4) == by_row(writer)
    writer.close()


@pytest.mark.parametrize("shards", [1, 3, 11])
def test_bytes_of_a_commit(tmp_path, shards):
    manifest = make_manifest(11, shards=shards)
    prepare_store(tmp_path / "store", manifest, resume=False)
    writer = open_writer(tmp_path / "store", 0)
    assert writer.commit(1, random_rows(manifest, np.array([0, 3, 8]), 0)) == 3 * (28 + 50)
    assert writer.commit(2, random_rows(manifest, np.array([], np.int64), 0)) == 0
    writer.close()


# --- Who may open what ---------------------------------------------------------------------


@pytest.mark.parametrize("empty_file", [False, True])
def test_a_run_killed_while_it_opens_its_shards_begins_again(tmp_path, empty_file):
    folder, manifest = tmp_path / "store", make_manifest()
    prepare_store(folder, manifest, resume=False)
    open_writer(folder, 0).close()
    files = sorted(folder.glob("shard-*/data.mdb"))
    assert len(files) == manifest.shards
    if empty_file:  # LMDB makes the file before it writes its first pages
        files[-1].write_bytes(b"")
    again = prepare_store(folder, make_manifest(), resume=False)
    with contextlib.closing(open_writer(folder, 0)) as writer:
        assert list(writer.read()) == []
    assert again == Manifest.read(folder)
    if not empty_file:  # a reader is told
        with pytest.raises(UserError, match="is empty, expected a shard of a store"):
            list(StoreReader(folder).records())


def test_prepare_store(tmp_path):
    manifest = make_manifest()
    with pytest.raises(UserError, match="nothing to resume"):
        prepare_store(tmp_path / "store", manifest, resume=True)
    made = prepare_store(tmp_path / "store", manifest, resume=False)
    # Cut off before anything was committed, and with only some shards committed: begin again.
    assert prepare_store(tmp_path / "store", make_manifest(), resume=False) == made
    for rank in (0, 1):
        writer = StoreWriter(tmp_path / "store", made, rank, world=2, generation=0)
        fill(writer, 1, seed=rank)
        writer.close()
        if rank == 0:
            assert prepare_store(tmp_path / "store", make_manifest(), resume=False) == made
    with pytest.raises(UserError, match="earlier run; continue it with --resume"):
        prepare_store(tmp_path / "store", make_manifest(), resume=False)
    assert prepare_store(tmp_path / "store", make_manifest(), resume=True) == made
    # All shards are committed, but the checkpoint that they belong to was never published.
    assert prepare_store(tmp_path / "store", make_manifest(), resume=False, void=True) == made
    with pytest.raises(UserError, match="map_size"):
        prepare_store(tmp_path / "store", make_manifest(map_size=6), resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/store.*(cannot be written|no store)"):
        prepare_store(tmp_path / "file/store", manifest, resume=False)


def test_nobody_reads_or_writes_beside_a_writer(store):
    writer = open_writer(store, 1, rank=1, world=3)
    with pytest.raises(UserError, match="is being written by a run"):
        StoreReader(store)
    with pytest.raises(UserError, match="is being written by another run"):
        open_writer(store, 1)
    # The refused writer has given back what it held, and other shards are free.
    open_writer(store, 1, rank=0, world=3).close()
    writer.close()
    StoreReader(store)
    open_writer(store, 1).close()


def test_a_run_directory_stands_for_its_store(store):
    assert state(store.parent) == state(store)
    with pytest.raises(UserError, match="is no store"):
        StoreReader(store.parent.parent)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"generation": "x"}'])
def test_damaged_latest(store, text):
    (store.parent / "checkpoints/latest.json").write_text(text)
    with pytest.raises(UserError, match=r"latest\.json is damaged"):
        _ = StoreReader(store).generation


def test_a_missing_or_older_shard_folder(store):
    writer = open_writer(store, 1)
    kept = store.parent / "kept"
    shutil.copytree(store / "shard-0001", kept)
    fill(writer, 2, seed=5)
    writer.close()
    publish(store, 2)
    shutil.rmtree(store / "shard-0001")
    for attempt in (state, lambda f: open_writer(f, 2)):
        with pytest.raises(UserError, match="shard-0001 is missing"):
            attempt(store)
    kept.rename(store / "shard-0001")
    for attempt in (state, lambda f: open_writer(f, 2)):
        with pytest.raises(UserError, match="shard-0001 ends with generation 1, expected 2"):
            attempt(store)


def test_a_shard_of_another_store(store, tmp_path):
    make_store(tmp_path / "other")
    shutil.copy(tmp_path / "other/shard-0002/data.mdb", store / "shard-0002/data.mdb")
    with pytest.raises(UserError, match=r"shard-0002 has store_id .* belongs to another store"):
        state(store)


def test_a_damaged_record_stops_reader_and_writer(store):
    bits = state(store)
    flip(store / "shard-0000/data.mdb", bits[StoreReader(store).manifest.pairs_of_shard(0)[2]][0])
    with pytest.raises(UserError, match="shard-0000, row 2 is damaged"):
        state(store)
    writer = open_writer(store, 1)
    with pytest.raises(UserError, match="shard-0000, row 2 is damaged"):
        by_row(writer)
    writer.close()


# --- Node-local shards ---------------------------------------------------------------------


def test_local_dir(tmp_path):
    folder, manifest = tmp_path / "run/store", make_manifest()
    prepare_store(folder, manifest, resume=False)
    node = tmp_path / "node"
    writer = open_writer(folder, 0, local_dir=str(node))
    for generation in (1, 2):
        fill(writer, generation, seed=generation)
        for shard in range(manifest.shards):
            live = node / manifest.store_id / f"shard-{shard:04d}/data.mdb"
            assert live.read_bytes() == (folder / f"shard-{shard:04d}/data.mdb").read_bytes()
        publish(folder, generation)
    written = by_row(writer)
    writer.close()
    # On another node, whose local folder is empty; then back on the first, whose copy is old.
    for local, generation in (("node2", 3), ("node", 4)):
        writer = open_writer(folder, generation - 1, local_dir=str(tmp_path / local))
        assert by_row(writer) == written
        written |= fill(writer, generation, generation, np.array([0, 3]))
        publish(folder, generation)
        writer.close()
    assert list(state(folder).values()) == [written[row] for row in sorted(written)]


def test_local_dir_that_cannot_be_written(store, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"store\.local_dir: .*file.* cannot be written"):
        open_writer(store, 1, local_dir=str(tmp_path / "file"))
    open_writer(store, 1).close()


# --- A full disk ---------------------------------------------------------------------------

FILL_UP = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from store_builders import *
from dist_oaa.config.errors import UserError

folder, local = Path(sys.argv[1]), sys.argv[3]
manifest = make_manifest(60, map_size=41, shards=2)
prepare_store(folder, manifest, resume=False)
writer = StoreWriter(folder, manifest, 0, 1, 0, local)
fill(writer, 1, seed=1)
writer.close()
publish(folder, 1)
before = state(folder)
writer = StoreWriter(folder, manifest, 0, 1, 1, local)
size = max(file.stat().st_size for file in folder.rglob("data.mdb"))
if sys.argv[4] == "limit":
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 5 * 4096, hard))
for attempt in range(2):
    by_row(writer)
    try:
        fill(writer, 2, seed=2)
        print("not full")
    except UserError as error:
        print(f"{type(error).__name__}: {error}")
writer.close()
if state(folder) != before:
    sys.exit("the published state has changed")
if sys.argv[4] == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    writer = StoreWriter(folder, manifest, 0, 1, 1, local)
    assert len(by_row(writer)) == len(before)
    fill(writer, 2, seed=2)
    writer.close()
    publish(folder, 2)
    assert len(state(folder)) == len(before)
print("intact")
"""


def run_full(folder, local="", how="limit", before=()) -> str:
    done = subprocess.run(
        [*before, sys.executable, "-c", FILL_UP, folder, Path(__file__).parent, local, how],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("local", ["", "node"])
def test_no_room_for_the_next_generation(tmp_path, local):
    local = str(tmp_path / local) if local else ""
    said = run_full(str(tmp_path / "run/store"), local)
    assert said.count("UserError: the maps could not be saved, the last checkpoint stays") == 2
    assert said.count("shard-0000") >= (2 if not local else 0)
    assert said.endswith("intact\n")


def test_full_file_system(tmp_path):
    mounted = tmp_path / "small"
    mounted.mkdir()
    mount = f'mount -t tmpfs -o size=1000k small {mounted} && exec "$0" "$@"'
    before = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount]
    if not shutil.which("unshare") or subprocess.run([*before, "true"], check=False).returncode:
        pytest.skip("a file system of its own cannot be mounted here (unshare, mount)")
    said = run_full(str(mounted / "run/store"), how="disk", before=before)
    assert said.count("UserError: the maps could not be saved") == 2
    assert "No space left" in said
    assert said.endswith("intact\n")
