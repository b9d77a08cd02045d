"""`oaa store repair`: what is restored from where, what is said of it, and that nothing is lost."""

import contextlib
import shutil

import pytest

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.faults import arm_faults
from dist_oaa.store.folder import shard_name
from dist_oaa.store.inspect import verify
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.repair import repair
from dist_oaa.store.survey import Survey
from dist_oaa.store.writer import StoreWriter
from store_builders import by_row, fill, make_manifest, make_store, publish, state

SHARD = "shard-0001"


@pytest.fixture
def run(tmp_path):
    """A run's store at generation 2, whose rows all differ from those of generation 1; both."""
    store = tmp_path / "run/store"
    before = make_store(store)
    writer = StoreWriter(store, StoreReader(store).manifest, 0, 1, 1)
    fill(writer, 2, seed=2)
    writer.close()
    publish(store, 2)
    return store, before, state(store)


def pairs(store) -> list:
    return StoreReader(store).manifest.pairs_of_shard(1)


def name_of(store, pair) -> str:
    return f"{pair[0]} ({StoreReader(store).manifest.class_names[pair[1]]})"


def flip_map(store, pair, slots=(0, 1)) -> None:
    """Flips a bit of a pair's map in some of its slots, old copies in free pages aside."""
    manifest = StoreReader(store).manifest
    path, size = store / SHARD / "data.mdb", 28 + 2 * manifest.map_size**2
    row = pairs(store).index(pair)
    with contextlib.closing(Survey(path, int(manifest.rows_of_shard[1]), size)) as survey:
        places = [int(survey.at_R2[row, slot]) + 40 for slot in slots]
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 4
    path.write_bytes(data)


def said_by(capsys, code: int, expected: int) -> str:
    assert code == expected
    return " ".join(capsys.readouterr().out.split())


def files(store) -> list[str]:
    return sorted(p.name for p in (store / SHARD).iterdir())


def test_an_intact_store_is_left_alone(run, capsys):
    store, _, now = run
    data = (store / SHARD / "data.mdb").read_bytes()
    assert "nothing to repair" in said_by(capsys, repair(str(store)), 0)
    assert (store / SHARD / "data.mdb").read_bytes() == data
    assert state(store) == now


def test_a_damaged_map_falls_back_to_the_generation_before(run, capsys):
    store, before, now = run
    pair = pairs(store)[1]
    flip_map(store, pair, slots=[1])
    broken = (store / SHARD / "data.mdb").read_bytes()
    said = said_by(capsys, repair(str(store)), 1)
    assert f"{SHARD}: {name_of(store, pair)}: taken from generation 1" in said
    assert "1 older than generation 2, 0 lost" in said
    assert "it will not end bit for bit" in said
    assert state(store) == now | {pair: before[pair]}
    assert verify(str(store)) == 0
    assert (store / SHARD / "data.mdb.damaged").read_bytes() == broken
    assert files(store) == ["data.mdb", "data.mdb.damaged"]


def test_both_slots_damaged_is_a_lost_map(run, capsys):
    store, _before, now = run
    pair = pairs(store)[0]
    flip_map(store, pair)
    said = said_by(capsys, repair(str(store)), 1)
    assert f"{SHARD}: {name_of(store, pair)}: lost" in said
    assert state(store) == {key: bits for key, bits in now.items() if key != pair}
    # Training can go on: the pair begins anew.
    writer = StoreWriter(store, StoreReader(store).manifest, 0, 1, 2)
    assert len(by_row(writer)) == len(now) - 1
    fill(writer, 3, seed=5)
    writer.close()


@pytest.mark.parametrize("place", ["backup", "whole", "local"])
def test_a_copy_restores_bit_for_bit(run, tmp_path, capsys, place):
    store, _, now = run
    manifest = StoreReader(store).manifest
    copy = {"backup": store, "whole": store.parent, "local": store}[place]
    target = tmp_path / place / (manifest.store_id if place == "local" else "")
    shutil.copytree(copy, target)
    flip_map(store, pairs(store)[1], slots=[1])
    shutil.rmtree(store / "shard-0002")
    said = said_by(capsys, repair(str(store), copy=str(tmp_path / place)), 0)
    assert said.count("restored, ") == 2
    assert "bit for bit as if nothing had been" in said
    assert state(store) == now
    assert verify(str(store)) == 0


def test_an_older_copy_is_used_and_said_to_be_older(run, tmp_path, capsys):
    store, _before, now = run
    older = tmp_path / "older"
    make_store(older, manifest=StoreReader(store).manifest)
    pair = pairs(store)[2]
    flip_map(store, pair)
    said = said_by(capsys, repair(str(store), copy=str(older)), 1)
    assert "taken from generation 1" in said
    assert state(store) == now | {pair: state(older)[pair]}


def test_a_broken_tree_is_rebuilt_from_the_records(run, capsys):
    store, _, now = run
    path = store / SHARD / "data.mdb"
    data = bytearray(path.read_bytes())
    for page in (0, 1):  # both pages that say where the trees begin
        data[4096 * page : 4096 * page + 200] = bytes(200)
    path.write_bytes(data)
    assert "bit for bit as of generation 2" in said_by(capsys, repair(str(store)), 0)
    assert state(store) == now


def test_a_missing_shard_without_a_copy_is_an_empty_one(run, capsys):
    store, _, now = run
    gone = set(pairs(store))
    shutil.rmtree(store / SHARD)
    said = said_by(capsys, repair(str(store)), 1)
    assert "the file no longer says which other maps" in said
    assert state(store) == {key: bits for key, bits in now.items() if key not in gone}


def test_the_unpublished_generation_is_not_taken(run, capsys):
    """A commit that was never published does not stand in for a damaged map."""
    store, before, now = run
    writer = StoreWriter(store, StoreReader(store).manifest, 0, 1, 2)
    fill(writer, 3, seed=9)
    writer.close()
    pair = pairs(store)[1]
    flip_map(store, pair, slots=[1])  # generations 3 and 2
    assert f"{name_of(store, pair)}: " in said_by(capsys, repair(str(store)), 1)
    found = state(store)
    assert {key: bits for key, bits in found.items() if key != pair} == {
        key: bits for key, bits in now.items() if key != pair
    }
    assert found.get(pair) in (None, before[pair])


def test_a_second_repair_keeps_both_damaged_files(run):
    store, _, _ = run
    pair = pairs(store)[1]
    for slot in (1, 0):  # a repaired shard has its records in the first slots
        flip_map(store, pair, slots=[slot])
        assert repair(str(store)) == 1
    assert files(store) == ["data.mdb", "data.mdb.damaged", "data.mdb.damaged-2"]


@pytest.mark.parametrize("fault", ["store.repair.write=enospc", "store.repair.swap=eio"])
def test_a_full_disk_leaves_the_damaged_file_as_it_was(run, monkeypatch, fault):
    store, _, _now = run
    flip_map(store, pairs(store)[1], slots=[1])
    broken = (store / SHARD / "data.mdb").read_bytes()
    monkeypatch.setenv("OAA_FAULT", fault)
    arm_faults()
    with pytest.raises(UserError, match=r"could not be repaired, it is as it was.*bytes to write"):
        repair(str(store))
    monkeypatch.delenv("OAA_FAULT")
    arm_faults()
    assert (store / SHARD / "data.mdb").read_bytes() == broken
    assert ".repair" not in files(store)
    assert repair(str(store)) == 1


def test_what_repair_refuses(run, tmp_path):
    store, _, _now = run
    flip_map(store, pairs(store)[1], slots=[1])
    with pytest.raises(UserError, match="is the store itself"):
        repair(str(store), copy=str(store))
    with pytest.raises(UserError, match="has no shard-0001"):
        repair(str(store), copy=str(tmp_path))
    make_store(tmp_path / "foreign", manifest=make_manifest())
    with pytest.raises(UserError, match="expected shard 1 of"):
        repair(str(store), copy=str(tmp_path / "foreign"))
    writer = StoreWriter(tmp_path / "foreign", make_manifest_of(tmp_path / "foreign"), 0, 1, 1)
    with pytest.raises(UserError, match="is being written by a run"):
        repair(str(tmp_path / "foreign"))
    writer.close()


def make_manifest_of(folder):
    return StoreReader(folder).manifest


def test_no_shard_says_its_generation(tmp_path):
    make_store(tmp_path / "store")
    for index in range(3):
        (tmp_path / "store" / shard_name(index) / "data.mdb").write_bytes(b"x" * 9000)
    with pytest.raises(UserError, match=r"no shard of .* says which generation"):
        repair(str(tmp_path / "store"))
