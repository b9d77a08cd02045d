"""Rooms import downwards only; the checker itself is held against snippets that break the rule.

    cli -> stages -> {models, attention, store, labels, evaluation, data} -> runtime -> config
           plugin -> {models, attention, store, labels, evaluation, data} -> runtime -> config

Rooms of the middle row do not import each other, but for attention -> store.writer. Nothing
imports the stages but the command line, and that only when a command is called; nothing imports
the plugin but the package itself, and that only when one of its names is asked for.
"""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "dist_oaa"
MIDDLE = {"models", "attention", "store", "labels", "evaluation", "data"}
ROOMS = {"stages", "plugin", "runtime", "config", *MIDDLE}
MAY_IMPORT = {
    "config": {"config"},
    "runtime": {"runtime", "config"},
    **{room: {room, "runtime", "config"} for room in MIDDLE},
    "stages": ROOMS - {"plugin"},
    "plugin": ROOMS - {"stages"},
    "cli": {"config"},
    "__main__": {"cli", "runtime"},
    "__init__": set(),
}
EXCEPTIONS = {("attention", "dist_oaa.store.writer")}
LAZY = {("cli", "stages"), ("__init__", "plugin")}


def imported_modules(tree: ast.AST, package: str) -> list[tuple[ast.AST, str]]:
    """(node, full module name) of every import of our own code, dynamic ones included."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *filter(None, [node.module])])
            # `from dist_oaa import models` names a room, `from dist_oaa.models import x` a module.
            names = [f"{base}.{alias.name}" for alias in node.names]
            found += [(node, name if base == "dist_oaa" else base) for name in names]
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).rpartition(".")[2]
            literal = [a.value for a in node.args if isinstance(a, ast.Constant)]
            if called in ("import_module", "__import__") and literal:
                found.append((node, str(literal[0])))
    return [(node, name) for node, name in found if name.split(".")[0] == "dist_oaa"]


def violations(source: str, module: str) -> list[str]:
    """Sentences about imports in `module` (such as dist_oaa.data.voc) that break the rule."""
    tree = ast.parse(source)
    package, room = module.rpartition(".")[0] or module, module.split(".")[1]
    not_at_import = {
        id(node)
        for part in ast.walk(tree)
        if isinstance(part, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(part, ast.If) and ast.unparse(part.test) == "TYPE_CHECKING")
        for node in ast.walk(part)
    }
    wrong = []
    for node, name in imported_modules(tree, package):
        target = name.split(".")[1] if "." in name else ""
        if target not in ROOMS | {"cli"}:
            continue  # the package's own names, such as its version
        lazy = (room, target) in LAZY and id(node) in not_at_import
        if target in MAY_IMPORT[room] or (room, name) in EXCEPTIONS or lazy:
            continue
        wrong.append(f"{module}, line {node.lineno}: {room} must not import {name}")
    return wrong


def modules() -> dict[str, Path]:
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(["dist_oaa", *parts])] = path
    return names


def test_every_module_belongs_to_a_known_room():
    assert {name.split(".")[1] for name in modules()} <= MAY_IMPORT.keys()
    assert {name.split(".")[1] for name in modules()} >= ROOMS | {"cli"}
    assert len(modules()) > 50


def test_rooms_import_downwards_only():
    wrong = [v for name, path in modules().items() for v in violations(path.read_text(), name)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dist_oaa.config.data", "from dist_oaa.runtime.files import write_atomic"),
        ("dist_oaa.config.data", "import dist_oaa.data.voc"),
        ("dist_oaa.runtime.loop", "from dist_oaa.store.writer import StoreWriter"),
        ("dist_oaa.runtime.loop", "from dist_oaa.stages import classify"),
        ("dist_oaa.runtime.loop", "from ..models import classifier"),
        ("dist_oaa.data.voc", "from dist_oaa.store.codec import encode"),
        ("dist_oaa.data.voc", "from dist_oaa.store.writer import StoreWriter"),
        ("dist_oaa.data.voc", "def f():\n    from dist_oaa.labels.recipe import x"),
        ("dist_oaa.data.voc", "if True:\n    import dist_oaa.evaluation.maps as m"),
        ("dist_oaa.data.voc", "from dist_oaa import models"),
        ("dist_oaa.data.voc", "from .. import models"),
        ("dist_oaa.data.voc", "import importlib\nimportlib.import_module('dist_oaa.models.vgg')"),
        ("dist_oaa.attention.update", "from dist_oaa.store.codec import encode"),
        ("dist_oaa.attention.update", "from dist_oaa.data.geometry import then"),
        ("dist_oaa.store.writer", "from dist_oaa.attention.bank import MapBank"),
        ("dist_oaa.models.losses", "from dist_oaa.stages.classify import main"),
        ("dist_oaa.models.losses", "from dist_oaa.cli import main"),
        ("dist_oaa.stages.classify", "from dist_oaa.cli import main"),
        ("dist_oaa.cli", "from dist_oaa.stages import classify"),
        ("dist_oaa.cli", "from dist_oaa.models.losses import x"),
        ("dist_oaa.cli", "def f():\n    import dist_oaa.models.losses"),
        ("dist_oaa.__init__", "from dist_oaa.attention.update import update"),
        ("dist_oaa.__init__", "from dist_oaa.plugin import OnlineCAM"),
        ("dist_oaa.__init__", "if TYPE_CHECKING:\n    from dist_oaa.models import losses"),
        ("dist_oaa.plugin.layout", "from dist_oaa.stages.tally import x"),
        ("dist_oaa.stages.tally", "from dist_oaa.plugin.layout import x"),
        ("dist_oaa.data.voc", "from dist_oaa.plugin import Geometry"),
        ("dist_oaa.runtime.loop", "if TYPE_CHECKING:\n    from dist_oaa.store import writer"),
    ],
)
def test_the_checker_finds_what_is_forbidden(module, source):
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("dist_oaa.stages.classify", "from dist_oaa.store.codec import encode"),
        ("dist_oaa.stages.classify", "from dist_oaa.stages.tally import x"),
        ("dist_oaa.stages.classify", "from . import measure"),
        ("dist_oaa.attention.accumulator", "from dist_oaa.store.writer import StoreWriter"),
        ("dist_oaa.data.voc", "from dist_oaa.runtime.files import x\nimport dist_oaa.config.data"),
        ("dist_oaa.data.voc", "from .paths import inside\nfrom ..config import errors"),
        ("dist_oaa.runtime.loop", "from dist_oaa.config.errors import UserError"),
        ("dist_oaa.cli", "def f():\n    from dist_oaa.stages import classify"),
        ("dist_oaa.cli", "from dist_oaa import __version__"),
        ("dist_oaa.__init__", "def __getattr__(n):\n    from dist_oaa import plugin"),
        ("dist_oaa.__init__", "if TYPE_CHECKING:\n    from dist_oaa.plugin import OnlineCAM"),
        ("dist_oaa.plugin.layout", "from dist_oaa.store.manifest import Manifest"),
        ("dist_oaa.data.voc", "import torch, store, models\nfrom evaluation import x"),
    ],
)
def test_the_checker_allows_what_is_allowed(module, source):
    assert violations(source, module) == []
