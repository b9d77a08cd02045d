"""`oaa store rewind`: back to an older checkpoint, where its maps are still there."""

import json
import re
import shutil

import pytest
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dist_oaa.store.reader import StoreReader
from dist_oaa.store.rewind import rewind
from dist_oaa.store.writer import StoreWriter
from store_builders import fill, make_manifest, make_store, state


def save(run, generation, keep=3):
    name = f"step-{10 * generation:08d}-g{generation:06d}"
    weights = {"w": torch.full((3,), float(generation))}
    plain = {"param_groups": [], "state": {}}
    saved = Checkpoint(weights, plain, {"step": 10 * generation}, generation)
    save_checkpoint(run / "checkpoints", name, saved, keep)
    return name


@pytest.fixture
def run(tmp_path):
    """A run at generation 3 with its two stores; names of its checkpoints, maps at each."""
    folder, names, maps = tmp_path / "run", [], []
    for store in ("store", "store-average"):
        make_store(folder / store, manifest=make_manifest())
    names.append(save(folder, 1))
    maps.append(state(folder / "store"))
    for generation in (2, 3):
        commit(folder, generation)
        names.append(save(folder, generation))
        maps.append(state(folder / "store"))
    return folder, names, maps


def commit(folder, generation) -> None:
    for store in ("store", "store-average"):
        manifest = StoreReader(folder / store).manifest
        writer = StoreWriter(folder / store, manifest, 0, 1, generation - 1)
        fill(writer, generation, seed=generation)
        writer.close()


def test_a_damaged_checkpoint_gives_way_to_the_one_before(run, capsys):
    folder, names, maps = run
    (folder / "checkpoints" / names[2] / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        load_checkpoint(folder / "checkpoints")
    said = str(caught.value)
    assert "model.safetensors is damaged" in said
    assert f"the older checkpoint {names[1]} is complete: oaa store rewind {folder}" in said
    assert rewind(str(folder)) == 0
    assert f"{names[1]} is in force again" in capsys.readouterr().out
    assert load_checkpoint(folder / "checkpoints").generation == 2
    assert state(folder / "store") == maps[1]
    # Going on: the generation that was left is made anew.
    commit(folder, 3)
    save(folder, 3)
    assert state(folder / "store") == maps[2]


@pytest.mark.parametrize("text", ["", "{", '{"name": "x", "generation": 3, "crc32": "0"}'])
def test_a_damaged_pointer_is_mended_by_it(run, text):
    folder, names, maps = run
    (folder / "checkpoints/latest.json").write_text(text)
    with pytest.raises(UserError, match=rf"latest\.json is damaged.*{names[2]} is complete"):
        load_checkpoint(folder / "checkpoints")
    assert rewind(str(folder)) == 0
    assert state(folder / "store") == maps[2]


def test_maps_that_have_moved_on_refuse(run):
    folder, names, maps = run
    with pytest.raises(UserError, match=r"generations 2 to 3, but .* belongs to generation 1"):
        rewind(str(folder), to=names[0])
    assert state(folder / "store") == maps[2]
    # A commit of the fourth generation that was never published overwrites the second one.
    commit(folder, 4)
    with pytest.raises(UserError, match=r"generations 3 to 4, but .* belongs to generation 2"):
        rewind(str(folder))
    assert state(folder / "store") == maps[2]
    # Resuming deletes the fourth, but does not bring the second one back.
    writer = StoreWriter(folder / "store", StoreReader(folder / "store").manifest, 0, 1, 3)
    writer.close()
    with pytest.raises(UserError, match="generations 3 to 3"):
        rewind(str(folder))


def test_an_older_generation_of_the_store_is_refused_when_it_is_opened(run):
    """latest.json from a backup: the rows that have moved on would seem never to have had a map."""
    folder, _, _ = run
    store = folder / "store"
    with pytest.raises(UserError, match="holds the maps of generation 2 on, expected 1"):
        StoreWriter(store, StoreReader(store).manifest, 0, 1, 1)
    with pytest.raises(UserError, match="holds the maps of generation 2 on, expected 1"):
        StoreReader(store).shard(0, 1)


def test_what_rewind_refuses(run):
    folder, names, _ = run
    for to in ("nowhere", "..", f"{names[1]}/"):
        with pytest.raises(UserError, match="has no checkpoint"):
            rewind(str(folder), to=to)
    for name in names[:2]:
        shutil.rmtree(folder / "checkpoints" / name)
    with pytest.raises(UserError, match="no other complete checkpoint"):
        rewind(str(folder))
    (folder / "checkpoints" / names[2] / "state.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=re.escape("no older checkpoint is complete")):
        load_checkpoint(folder / "checkpoints")
    assert json.loads((folder / "checkpoints/latest.json").read_text())["name"] == names[2]
