"""The tool that attacks runs: what it draws is repeatable, and it sees what differs."""

import contextlib
import hashlib
import itertools
import json
import random
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file
from torch.utils.tensorboard import SummaryWriter

TOOLS = Path(__file__).resolve().parents[2] / "tools"
sys.path.insert(0, str(TOOLS))

import chaos  # noqa: E402
from chaos_attacks import DECK, GROUPS, Attack, deck, draw  # noqa: E402
from chaos_compare import compare, differing_bits, left_behind  # noqa: E402
from chaos_runs import Plan, Result  # noqa: E402
from chaos_scenarios import SCENARIOS, prerequisite, scenario  # noqa: E402
from dist_oaa.cli import run as oaa  # noqa: E402
from dist_oaa.data.demo import generate  # noqa: E402
from dist_oaa.runtime.faults import POINTS, read_faults  # noqa: E402
from dist_oaa.runtime.lease import Lease  # noqa: E402
from dist_oaa.store.codec import ChangedRows  # noqa: E402
from dist_oaa.store.reader import StoreReader  # noqa: E402
from dist_oaa.store.writer import StoreWriter  # noqa: E402


def attacks(scenario_, count: int, seed: int = 0) -> list[Attack]:
    rng = random.Random(seed)
    return [draw(kind, rng, scenario_, 2) for kind in itertools.islice(deck(rng), count)]


def test_attacks_are_drawn_from_the_seed_alone(tmp_path):
    drop = scenario("drop", tmp_path, tmp_path)
    assert attacks(drop, 50) == attacks(drop, 50)
    assert attacks(drop, 50) != attacks(drop, 50, seed=1)
    kinds = Counter(attack.kind for attack in attacks(drop, sum(DECK.values())))
    assert kinds == DECK


def test_every_fault_point_is_struck_where_it_is_passed(tmp_path):
    drawn = {a.point for a in attacks(scenario("average", tmp_path, tmp_path), 3000)} - {""}
    assert drawn == {name for name in POINTS if not name.startswith("store.repair.")}
    without = {a.point for a in attacks(scenario("segment", tmp_path, tmp_path), 3000)} - {""}
    assert without == {name for name in POINTS if not name.startswith("store.")}
    assert all(name.startswith(tuple(itertools.chain(*GROUPS.values()))) for name in POINTS)


def test_a_fault_is_one_that_the_program_understands(tmp_path):
    for attack in attacks(scenario("max", tmp_path, tmp_path), 200):
        if attack.point:
            (fault,) = read_faults(attack.fault(tmp_path / "struck"))
            assert (fault.point, fault.action, fault.rank) == (attack.point, "kill", attack.rank)


@pytest.mark.parametrize(
    ("one", "other", "bits"),
    [(b"", b"", 0), (b"\x00", b"\x81", 2), (b"ab", b"ab", 0), (b"ab", b"a", 8), (b"", b"xy", 16)],
)
def test_differing_bits(one, other, bits):
    assert differing_bits(one, other) == differing_bits(other, one) == bits


def test_a_table_and_a_record_of_what_was_survived():
    kill = Attack("SIGKILL rank", real=True, rank=0)
    point = Attack("kill in a commit", real=False, rank=0, point="store.shard")
    results = [
        Result(Plan(0, "max", 2, (kill, point)), [kill, point]),
        Result(Plan(1, "drop", 2, (kill,)), [kill], bits=3, problems=["a map differs"]),
    ]
    found = chaos.record(results, seed=4, seconds=1.6)
    assert (found["points"], found["survived"], found["differing_bits"]) == (3, 2, 3)
    assert {"scenario": "drop", "attack": "SIGKILL rank", "injected": 1, "survived": 0} in found[
        "rows"
    ]
    shown = chaos.table(results, SCENARIOS)
    columns = {c.header: list(c.cells) for c in shown.columns}
    last = {name: cells[-1] for name, cells in columns.items()}
    assert (last["max"], last["drop"], last["all"], last["bits"]) == ("2/2", "0/1", "2/3", "3")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A short run of a scenario, in this process."""
    folder = tmp_path_factory.mktemp("chaos")
    generate(str(folder / "data"), images=12, seed=3, size=64)
    oaa(prerequisite(folder / "data").argv(folder / "whole", 60))
    return folder / "whole"


def flip_a_weight(run_dir: Path) -> None:
    """One bit of one weight, in a checkpoint that is sound otherwise."""
    (path,) = run_dir.glob("checkpoints/*/model.safetensors")
    tensors = load_file(path)
    next(t for t in tensors.values() if t.is_floating_point()).view(-1).numpy().view("u1")[0] ^= 4
    save_file(tensors, path)
    sums = json.loads((path.parent / "sha256.json").read_bytes())
    sums[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (path.parent / "sha256.json").write_text(json.dumps(sums))


def flip_a_map(run_dir: Path) -> None:
    """One bit of the last attention of one pair, in a store that is sound otherwise."""
    reader = StoreReader(run_dir)
    manifest, generation = reader.manifest, reader.generation
    with contextlib.closing(StoreWriter(run_dir / "store", manifest, 0, 1, generation)) as writer:
        row, record = next(iter(writer.read()))
        maps_2SS = np.stack([record.map_SS, record.last_SS])
        maps_2SS[1].view("u1").flat[5] ^= 1
        counters = np.array([record.accepted]), np.array([record.fallback])
        writer.commit(generation, ChangedRows(np.array([row]), maps_2SS[None], *counters))


def log_a_line_twice(run_dir: Path) -> None:
    path = run_dir / "metrics.jsonl"
    path.write_text(path.read_text() + path.read_text().splitlines()[-1] + "\n")


def show_a_point_twice(run_dir: Path) -> None:
    with contextlib.closing(SummaryWriter(str(run_dir / "tensorboard"))) as writer:
        writer.add_scalar("train/loss", 0.5, 1)


def leave_a_file(run_dir: Path) -> None:
    (run_dir / "checkpoints" / ".latest.json.7.tmp").touch()


def lose_a_picture(run_dir: Path) -> None:
    next(path for path in sorted(run_dir.rglob("*.jpg")) + sorted(run_dir.rglob("*.png"))).unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "bits", "notes"),
    [
        (lambda run_dir: None, 0, []),
        (flip_a_weight, 1, ["checkpoint: model .* differs"]),
        (flip_a_map, 1, ["store: map of .* differs"]),
        (log_a_line_twice, 0, ["metrics.jsonl differs: 3 lines, expected 2|metrics.jsonl differs"]),
        (show_a_point_twice, 0, ["TensorBoard differs"]),
        (leave_a_file, 0, [r"checkpoints/.latest.json.7.tmp was left behind"]),
        (lose_a_picture, None, [r"file pictures/.* differs \(missing\)"]),
    ],
)
def test_what_differs_is_seen(whole, tmp_path, change, bits, notes):
    copy = Path(shutil.copytree(whole, tmp_path / "run"))
    change(copy)
    found = compare(whole, copy)
    assert found.bits == bits if bits is not None else found.bits > 0
    assert len(found.notes) == len(notes)
    for said, expected in zip(found.notes, notes, strict=True):
        assert re.match(expected, said)


@pytest.mark.slow
def test_a_lease_that_is_held_is_seen(whole, tmp_path):
    copy = Path(shutil.copytree(whole, tmp_path / "run"))
    path = next(copy.glob("store/leases/*.lock"))
    lease = Lease(path)
    assert left_behind(copy) == [f"{path.relative_to(copy)} is still held"]
    lease.release()
    assert left_behind(copy) == []
