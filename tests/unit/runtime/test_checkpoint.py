"""Checkpoints: bit-exact, noticed when damaged, and whole after a crash at any instant."""

import copy
import errno
import json
import os
import resource
import shutil
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_flatten

from dist_oaa.config.errors import UserError
from dist_oaa.runtime import checkpoint as module
from dist_oaa.runtime import files
from dist_oaa.runtime.checkpoint import (
    Checkpoint,
    flatten_optimizer,
    host_copy,
    load_checkpoint,
    save_checkpoint,
    unflatten_optimizer,
)
from dist_oaa.runtime.latest import LATEST


def network(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.Conv2d(4, 2, 1)
        )


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1 / 3, betas=(0.8, 0.95)),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-7, amsgrad=True),
}


def grouped(model: torch.nn.Module, kind: str) -> torch.optim.Optimizer:
    weights = [p for p in model.parameters() if p.ndim > 1]
    biases = [p for p in model.parameters() if p.ndim == 1]
    return OPTIMIZERS[kind]([{"params": weights}, {"params": biases, "lr": 0.7, "scale": 2.0}])


def step(model: torch.nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    model(images).square().mean().backward()
    optimizer.step()


def same(a: object, b: object) -> bool:
    """Equal to the last bit, tensors of any depth; lists and tuples count as the same."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def tiny(value: float, generation: int = 0) -> Checkpoint:
    state = {"param_groups": [{"lr": value, "params": [0]}], "state": {0: {"m": torch.ones(2)}}}
    return Checkpoint({"w": torch.full((3,), value)}, state, {"step": int(value)}, generation)


def value_in_force(folder: Path) -> float:
    return load_checkpoint(folder).model["w"][0].item()


@pytest.mark.parametrize("kind", sorted(OPTIMIZERS))
def test_a_run_goes_on_as_if_nothing_had_happened(tmp_path, kind):
    model = network()
    optimizer = grouped(model, kind)
    for seed in range(3):
        step(model, optimizer, seed)
    state = {"epoch": 1, "totals": {"loss": 0.1 + 0.2, "seen": 7}, "skipped": ["ä.jpg"]}
    saved = Checkpoint(model.state_dict(), optimizer.state_dict(), state, generation=4)
    save_checkpoint(tmp_path / "c", "step-00000003-g000004", saved, keep=2)
    loaded = load_checkpoint(tmp_path / "c")
    assert same(dict(model.state_dict()), loaded.model)
    assert same(optimizer.state_dict(), loaded.optimizer)
    assert (loaded.state, loaded.generation) == (state, 4)

    again = network(seed=1)
    resumed = grouped(again, kind)
    again.load_state_dict(loaded.model)
    resumed.load_state_dict(loaded.optimizer)
    for seed in range(3, 6):
        step(model, optimizer, seed)
        step(again, resumed, seed)
    assert same(dict(model.state_dict()), dict(again.state_dict()))
    assert same(optimizer.state_dict(), resumed.state_dict())


def test_channels_last_and_other_types_keep_their_values(tmp_path):
    weights = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    model = {
        "strided": weights.to(memory_format=torch.channels_last),
        "half": weights.half(),
        "brain": weights.bfloat16(),
        "count": torch.tensor(7),
        "odd": torch.tensor([float("nan"), float("inf"), -0.0, 1e-45]),
    }
    saved = Checkpoint(model, {"param_groups": [], "state": {}}, {})
    save_checkpoint(tmp_path, "step-1", saved, keep=1)
    loaded = load_checkpoint(tmp_path).model
    assert loaded.keys() == model.keys()
    for name, tensor in model.items():
        assert loaded[name].dtype == tensor.dtype
        got, expected = (t.contiguous().view(-1).view(torch.uint8) for t in (loaded[name], tensor))
        assert torch.equal(got, expected), name


def test_an_optimizer_survives_json():
    model = network()
    optimizer = grouped(model, "adamw")
    step(model, optimizer, 0)
    tensors, plain = flatten_optimizer(optimizer.state_dict())
    assert all(isinstance(t, torch.Tensor) for t in tensors.values())
    assert same(unflatten_optimizer(tensors, json.loads(json.dumps(plain))), optimizer.state_dict())


def test_the_newest_is_in_force_and_old_ones_go(tmp_path):
    for number in range(1, 6):
        save_checkpoint(tmp_path, f"step-{number:08d}", tiny(number), keep=2)
        assert value_in_force(tmp_path) == number
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        LATEST,
        "step-00000004",
        "step-00000005",
    ]


def test_every_damaged_byte_is_noticed(tmp_path):
    save_checkpoint(tmp_path, "step-1", tiny(1), keep=2)
    place = tmp_path / "step-1"
    names = sorted(p.name for p in place.iterdir())
    assert names == ["model.safetensors", "optimizer.safetensors", "sha256.json", "state.json"]
    for name in names[:2] + names[3:]:
        intact = (place / name).read_bytes()
        for position in (0, len(intact) // 2, len(intact) - 1):
            broken = bytearray(intact)
            broken[position] ^= 1
            (place / name).write_bytes(broken)
            with pytest.raises(UserError, match=f"{name} is damaged: its checksum"):
                load_checkpoint(tmp_path)
        (place / name).write_bytes(intact[:-1])
        with pytest.raises(UserError, match=name):
            load_checkpoint(tmp_path)
        (place / name).unlink()
        with pytest.raises(UserError, match=r"damaged.*No such file"):
            load_checkpoint(tmp_path)
        (place / name).write_bytes(intact)
    assert value_in_force(tmp_path) == 1
    (place / "sha256.json").write_bytes(b"{")
    with pytest.raises(UserError, match="step-1 is damaged"):
        load_checkpoint(tmp_path)
    shutil.rmtree(place)
    with pytest.raises(UserError, match="step-1 is damaged"):
        load_checkpoint(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b'{"name": 5}'])
def test_a_damaged_pointer_is_noticed(tmp_path, content):
    save_checkpoint(tmp_path, "step-1", tiny(1), keep=2)
    (tmp_path / LATEST).write_bytes(content)
    with pytest.raises(UserError, match=f"{LATEST} is damaged"):
        load_checkpoint(tmp_path)


def test_a_host_copy_is_untouched_by_training():
    """Nested as optimisers nest; contiguous although the weights are channels-last."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam([{"params": [model.weight], "lr": 0.1}, {"params": [model.bias]}])

    def train():
        optimizer.zero_grad()
        model(torch.ones(1, 3, 4, 4)).square().sum().backward()
        optimizer.step()

    train()
    weight = model.weight.detach().clone()
    copies = host_copy([model.state_dict(), optimizer.state_dict()])
    originals = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
    assert not model.weight.is_contiguous()
    optimizer.param_groups[0]["lr"] = 7.0
    train()
    assert not torch.equal(model.weight, weight)
    flat, spec = tree_flatten(copies)
    expected, expected_spec = tree_flatten([dict(originals[0]), originals[1]])
    assert spec == expected_spec
    tensors = 0
    for ours, theirs in zip(flat, expected, strict=True):
        if isinstance(theirs, torch.Tensor):
            tensors += 1
            assert torch.equal(ours, theirs)
            assert ours.is_contiguous()
            assert not ours.requires_grad
        else:
            assert ours == theirs
    assert tensors == 2 + 2 * 3  # Adam: two moments and a step count each


def test_nothing_to_resume_from(tmp_path):
    with pytest.raises(UserError, match="no complete checkpoint"):
        load_checkpoint(tmp_path / "checkpoints")


class Killed(BaseException):
    """What a kill looks like from inside: no handler may run, but cleaning up may."""


@contextmanager
def killed_at(monkeypatch, number: int):
    """Ends the block at the `number`-th operation on the disk, before it is done."""
    count = 0

    def counted(original):
        def call(*args, **kwargs):
            nonlocal count
            count += 1
            if count == number:
                raise Killed
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", counted(os.replace))
        patch.setattr(os, "fsync", counted(os.fsync))
        patch.setattr(Path, "rename", counted(Path.rename))
        patch.setattr(Path, "mkdir", counted(Path.mkdir))
        patch.setattr(module, "save_file", counted(module.save_file))
        # A killed process cleans nothing up.
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        yield
    assert count < number, "the operation was reached but the kill did not pass"


def test_a_kill_at_any_instant_leaves_the_old_or_the_new(tmp_path, monkeypatch):
    outcomes = []
    for number in range(1, 100):
        folder = tmp_path / str(number)
        save_checkpoint(folder, "step-00000001", tiny(1), keep=2)
        try:
            with killed_at(monkeypatch, number):
                save_checkpoint(folder, "step-00000002", tiny(2), keep=2)
        except Killed:
            outcomes.append(value_in_force(folder))
        else:
            break
        # The next attempt at the same step takes what is left in its stride.
        save_checkpoint(folder, "step-00000002", tiny(3), keep=1)
        assert value_in_force(folder) == 3
        save_checkpoint(folder, "step-00000004", tiny(4), keep=1)
        assert value_in_force(folder) == 4
        left = sorted(p.name for p in folder.iterdir() if not p.name.startswith(f".{LATEST}"))
        assert left == [LATEST, "step-00000004"] or all(n.endswith(".tmp") for n in left[:-2])
    assert len(outcomes) > 8
    # One instant decides: the rename of latest.json.
    published = outcomes.index(2)
    assert published > len(outcomes) - 3
    assert outcomes == [1.0] * published + [2.0] * (len(outcomes) - published)


@pytest.mark.parametrize("broken", ["save_file", "write_atomic", "sync_folder"])
def test_a_full_disk_keeps_the_old_one(tmp_path, monkeypatch, broken):
    save_checkpoint(tmp_path, "step-1", tiny(1), keep=2)
    error = OSError(errno.ENOSPC, "No space left on device")
    if broken == "save_file":
        error = module.safetensors.SafetensorError("I/O error: No space left on device")

    def full(*_):
        raise error

    monkeypatch.setattr(module, broken, full)
    with pytest.raises(UserError, match=r"step-2 could not be written.*No space left"):
        save_checkpoint(tmp_path, "step-2", tiny(2), keep=2)
    monkeypatch.undo()
    assert value_in_force(tmp_path) == 1
    assert not list(tmp_path.glob(".*"))


def test_a_real_file_limit_keeps_the_old_one(tmp_path):
    """The system itself refuses to write more than 64 KiB a file."""
    save_checkpoint(tmp_path, "step-1", tiny(1), keep=2)
    big = Checkpoint({"w": torch.zeros(1 << 18)}, {"param_groups": [], "state": {}}, {})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(UserError, match=r"step-2 could not be written.*stays in force"):
            save_checkpoint(tmp_path, "step-2", big, keep=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert value_in_force(tmp_path) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == [LATEST, "step-1"]


def test_write_atomic_keeps_the_old_content_when_it_fails(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    files.write_atomic(path, b"old")

    def fail(*_):
        raise OSError(errno.EIO, "no")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        files.write_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    files.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
