"""Nothing that the package reads can run code: no pickle, no YAML tags, no XML entities."""

import ast
import hashlib
import json
import pickle
import subprocess
from pathlib import Path

import pytest
import torch

from dist_oaa.config.errors import UserError
from dist_oaa.runtime.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from dist_oaa.store.manifest import Manifest

PACKAGE = Path(__file__).resolve().parents[2] / "dist_oaa"
FORBIDDEN = {
    ("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("yaml", "load"),
    ("yaml", "unsafe_load"), ("yaml", "full_load"), ("marshal", "loads"), ("shelve", "open"),
    ("joblib", "load"), ("os", "system"), ("dist_cp", "load"),
}  # fmt: skip


def calls() -> list[tuple[Path, str, str, ast.Call]]:
    """Every call of the form `x.y(...)` in the package."""
    return [
        (path, ast.unparse(node.func.value), node.func.attr, node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    ]


def keyword(call: ast.Call, name: str) -> object:
    return next((ast.literal_eval(k.value) for k in call.keywords if k.arg == name), None)


def test_the_package_reads_no_pickle():
    found = calls()
    assert len(found) > 3000, "the search has lost its way"
    loads = [
        (path, call) for path, module, name, call in found if (module, name) == ("torch", "load")
    ]
    assert loads
    for path, call in loads:
        assert keyword(call, "weights_only") is True, path
    for path, _, _, call in (c for c in found if (c[1], c[2]) == ("np", "load")):
        assert keyword(call, "allow_pickle") in (None, False), path  # numpy's default
    bad = [
        (path.name, module, name) for path, module, name, _ in found if (module, name) in FORBIDDEN
    ]
    assert not bad
    shells = [path for path, _, _, call in found if keyword_is(call, "shell")]
    assert not shells


MAY_IMPORT_PICKLE = {
    "store/object_npy.py": "its unpickler knows nine names; tests/unit/store/test_object_npy.py",
    "store/dictfile.py": "writes only",
    "models/weights.py": "catches UnpicklingError only",
}
"""Whoever imports pickle could read one in a way that no search for calls finds."""


def test_who_may_import_pickle():
    importers, readers = set(), []
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {"pickle", "_pickle", "cPickle", "dill", "cloudpickle"} & set(names):
                importers.add(path.relative_to(PACKAGE).as_posix())
            if isinstance(node, ast.ClassDef):
                readers += [path.name for b in node.bases if ast.unparse(b).endswith("Unpickler")]
    assert importers == set(MAY_IMPORT_PICKLE)
    assert readers == ["object_npy.py"]


def keyword_is(call: ast.Call, name: str) -> bool:
    return any(
        k.arg == name and getattr(k.value, "value", True) is not False for k in call.keywords
    )


class Payload:
    """What a pickle runs when it is loaded: it leaves a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return subprocess.check_call, (["touch", str(self.trace)],)


@pytest.fixture
def published(tmp_path) -> Path:
    tensors = {"weight": torch.ones(2)}
    optimizer = {"param_groups": [{"lr": 0.1}], "state": {0: {"momentum_buffer": torch.ones(2)}}}
    save_checkpoint(tmp_path / "c", "step-1", Checkpoint(tensors, optimizer, {"step": 1}, 1), 2)
    assert load_checkpoint(tmp_path / "c").state == {"step": 1}
    return tmp_path / "c"


@pytest.mark.parametrize(
    "name",
    ["model.safetensors", "optimizer.safetensors", "state.json", "sha256.json", "latest.json"],
)
@pytest.mark.parametrize("writer", ["pickle", "torch"])
@pytest.mark.parametrize("signed", [False, True])
def test_a_checkpoint_that_was_replaced_by_a_pickle_runs_nothing(
    published, tmp_path, name, writer, signed
):
    trace = tmp_path / "executed"
    place = published / "step-1"
    path = published / name if name == "latest.json" else place / name
    if writer == "torch":
        torch.save(Payload(trace), path)
    else:
        path.write_bytes(pickle.dumps(Payload(trace)))
    if signed and name.endswith((".safetensors", "state.json")):  # whoever did it knows our format
        sums = json.loads((place / "sha256.json").read_bytes())
        sums[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        (place / "sha256.json").write_text(json.dumps(sums))
    with pytest.raises(UserError, match="damaged") as caught:
        load_checkpoint(published)
    assert "\n" not in str(caught.value)
    assert not trace.exists()
    pickle.loads(pickle.dumps(Payload(trace)))
    assert trace.exists(), "the payload would have left a trace"


@pytest.mark.parametrize(
    "text", ["[" * 100_000, "[]", "{}", "5", '{"name": 5}', '{"name": "nowhere"}', ""]
)
@pytest.mark.parametrize("name", ["latest.json", "step-1/sha256.json", "step-1/state.json"])
def test_a_checkpoint_of_other_json(published, name, text):
    (published / name).write_text(text)
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(published)


def test_a_checkpoint_whose_sums_leave_a_file_out(published):
    sums = json.loads((published / "step-1/sha256.json").read_bytes())
    del sums["model.safetensors"]
    (published / "step-1/sha256.json").write_text(json.dumps(sums))
    with pytest.raises(UserError, match=r"damaged: .*model\.safetensors"):
        load_checkpoint(published)


def test_a_manifest_nested_without_end(tmp_path):
    (tmp_path / "manifest.json").write_text("[" * 100_000)
    (tmp_path / "images.tsv").write_text("")
    with pytest.raises(UserError, match="is damaged"):
        Manifest.read(tmp_path)
