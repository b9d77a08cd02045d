"""One store out of the folders in which several nodes have kept its shards."""

import contextlib
import shutil
from pathlib import Path

import pytest

from dist_oaa.cli import run
from dist_oaa.config.errors import UserError
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.writer import StoreWriter, prepare_store
from store_builders import by_row, fill, flip, make_manifest, publish, random_rows, state


def nodes_of(folder: Path, world: int = 3, generations: int = 2) -> list[Path]:
    """Run directories of a run without shared storage: only rank 0's has the manifest."""
    manifest = make_manifest(images=11, shards=5)
    stores = [folder / f"node{rank}" / "store" for rank in range(world)]
    prepare_store(stores[0], manifest, resume=False)
    for rank, store in enumerate(stores):
        with contextlib.closing(StoreWriter(store, manifest, rank, world, 0)) as writer:
            for generation in range(1, generations + 1):
                fill(writer, generation, seed=10 * rank + generation)
    return [store.parent for store in stores]


def gather(nodes: list[Path], out: Path) -> int:
    return run(["store", "gather", *map(str, nodes), str(out)])


def refused(nodes: list[Path], out: Path) -> str:
    before = sorted(out.parent.iterdir())
    with pytest.raises(UserError) as caught:
        gather(nodes, out)
    assert sorted(out.parent.iterdir()) == before, "nothing half-written stays"
    return str(caught.value)


@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_what_was_gathered_equals_what_one_writer_would_have_kept(world, tmp_path, capsys):
    nodes = nodes_of(tmp_path, world)
    expected = {}
    manifest = StoreReader(nodes[0]).manifest
    for rank, node in enumerate(nodes):
        writer = StoreWriter(node / "store", manifest, rank, world, generation=2)
        shard_of = [(s, row) for s in writer.owned for row in range(manifest.rows_of_shard[s])]
        expected |= {
            manifest.pairs_of_shard(shard)[row]: content
            for (shard, row), content in zip(shard_of, by_row(writer).values(), strict=True)
        }
        writer.close()
    assert gather(nodes[::-1], tmp_path / "whole") == 0
    assert state(tmp_path / "whole") == expected
    assert len(expected) == manifest.pairs
    assert "generation 2" in capsys.readouterr().out
    assert run(["store", "verify", str(tmp_path / "whole")]) == 0


def test_stores_themselves_may_be_named(tmp_path):
    nodes = nodes_of(tmp_path)
    assert gather([node / "store" for node in nodes], tmp_path / "whole") == 0
    assert StoreReader(tmp_path / "whole").generation == 2


def test_gaps_are_named(tmp_path):
    nodes = nodes_of(tmp_path)
    shutil.rmtree(nodes[0] / "store" / "shard-0003")
    said = refused([nodes[0], nodes[2]], tmp_path / "whole")
    assert "3 of the 5 shards are in none of the 2 folders" in said
    assert said.endswith("shard-0001, shard-0003, shard-0004")


def test_a_shard_in_two_folders_is_named_with_both(tmp_path):
    nodes = nodes_of(tmp_path)
    shutil.copytree(nodes[1] / "store" / "shard-0004", nodes[2] / "store" / "shard-0004")
    said = refused(nodes, tmp_path / "whole")
    assert f"shard-0004 ({nodes[1]}/store and {nodes[2]}/store)" in said
    assert "shard-0001" not in said


def test_a_shard_under_another_ones_name_is_refused(tmp_path):
    nodes = nodes_of(tmp_path)
    store = nodes[1] / "store"
    (store / "shard-0001").rename(store / "spare")
    (store / "shard-0004").rename(store / "shard-0001")
    (store / "spare").rename(store / "shard-0004")
    assert f"{store}/shard-0001, {store}/shard-0004" in refused(nodes, tmp_path / "whole")


def test_a_shard_of_another_store_is_refused(tmp_path, capsys):
    nodes, others = nodes_of(tmp_path / "a"), nodes_of(tmp_path / "b")
    said = refused([*nodes[:2], others[2]], tmp_path / "whole")
    assert f"{others[2]}/store/shard-0002" in said
    assert "another store" in capsys.readouterr().out
    assert "are different stores" in refused([nodes[0], others[0]], tmp_path / "whole")


def test_without_the_manifest_nothing_is_gathered(tmp_path):
    nodes = nodes_of(tmp_path)
    assert "the node of rank 0" in refused(nodes[1:], tmp_path / "whole")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty holds no store"):
        gather([*nodes, tmp_path / "empty"], tmp_path / "whole")
    with pytest.raises(UserError, match=r"is given twice"):
        gather([*nodes, nodes[0] / "store"], tmp_path / "whole")


def test_damage_is_named_by_folder_and_map(tmp_path, capsys):
    nodes = nodes_of(tmp_path)
    manifest = StoreReader(nodes[0]).manifest
    written = random_rows(manifest, range(int(manifest.rows_of_shard[[1, 4]].sum())), seed=12)
    flip(nodes[1] / "store" / "shard-0001" / "data.mdb", written.maps_K2SS[0, 0].tobytes())
    assert f"{nodes[1]}/store/shard-0001" in refused(nodes, tmp_path / "whole")
    told = " ".join(capsys.readouterr().out.split())
    image, label = manifest.pairs_of_shard(1)[0]
    assert f"{nodes[1]}/store: shard-0001: {image} ({manifest.class_names[label]})" in told


def test_a_shard_that_is_behind_is_refused(tmp_path, capsys):
    """Where no checkpoint says otherwise, all shards must open at what the last one has reached."""
    nodes = nodes_of(tmp_path)
    manifest = StoreReader(nodes[0]).manifest
    with contextlib.closing(StoreWriter(nodes[2] / "store", manifest, 2, 3, 2)) as writer:
        for generation in (3, 4):
            fill(writer, generation, seed=generation)
    assert f"{nodes[2]}/store/shard-0002" in refused(nodes, tmp_path / "whole")
    assert capsys.readouterr().out


def test_what_came_after_the_checkpoint_is_left_out(tmp_path):
    """A run that was cut off while it committed generation 3 is gathered as of generation 2."""
    nodes = nodes_of(tmp_path)
    publish(nodes[0] / "store", 2)
    gather(nodes, tmp_path / "before")
    manifest = StoreReader(nodes[0]).manifest
    for rank, node in enumerate(nodes):
        with contextlib.closing(StoreWriter(node / "store", manifest, rank, 3, 2)) as writer:
            fill(writer, 3, seed=30 + rank)
    gather(nodes, tmp_path / "after")
    assert StoreReader(tmp_path / "after").generation == 2
    assert state(tmp_path / "after") == state(tmp_path / "before")


def test_the_newest_checkpoint_counts(tmp_path):
    """A node that once resumed has a copy of the checkpoints of that day."""
    nodes = nodes_of(tmp_path)
    publish(nodes[0] / "store", 2)
    publish(nodes[1] / "store", 1)
    gather(nodes, tmp_path / "whole")
    assert StoreReader(tmp_path / "whole").generation == 2


def test_a_store_that_is_being_written_is_refused(tmp_path):
    nodes = nodes_of(tmp_path)
    manifest = StoreReader(nodes[0]).manifest
    with contextlib.closing(StoreWriter(nodes[1] / "store", manifest, 1, 3, 2)):
        assert "is being written by a run" in refused(nodes, tmp_path / "whole")


def test_a_folder_that_holds_something_is_left_alone(tmp_path):
    nodes = nodes_of(tmp_path)
    out = tmp_path / "whole"
    out.mkdir()
    (out / "mine.txt").write_text("here")
    with pytest.raises(UserError, match=r"whole exists, expected a new or empty folder"):
        gather(nodes, out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_too_few_folders_are_a_mistake_and_help_is_not(capsys):
    with pytest.raises(UserError, match=r"was given 1 folders, expected NODE\.\.\. OUT"):
        run(["store", "gather", "alone"])
    with pytest.raises(UserError, match=r"has no option --force"):
        run(["store", "gather", "a", "b", "--force"])
    with pytest.raises(SystemExit) as caught:
        run(["store", "gather", "--help"])
    assert caught.value.code == 0
    assert "OUT   the new store" in capsys.readouterr().out
