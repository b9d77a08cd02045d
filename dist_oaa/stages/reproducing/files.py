"""The YAML files of the tables: where they are, and one file over the one it inherits from."""

import sysconfig
from pathlib import Path
from typing import Any

import yaml

import dist_oaa
from dist_oaa.config.errors import UserError
from dist_oaa.stages.reproducing.kinds import KINDS

FOLDER = Path("configs") / "reproduce"


def folders() -> list[Path]:
    """Where tables are looked for: here, beside the package, and where pip puts them."""
    shared = Path(sysconfig.get_path("data")) / "share" / "dist_oaa"
    bases = (Path.cwd(), Path(dist_oaa.__file__).parents[1], shared)
    return list(dict.fromkeys((base / FOLDER).resolve() for base in bases))


def find_table(name: str) -> Path:
    """The file of a table's name or path.

    Raises:
        UserError: when there is none.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        if not Path(name).is_file():
            raise UserError(f"the table {name} does not exist, expected a YAML file")
        return Path(name).resolve()
    for folder in folders():
        if (folder / f"{name}.yaml").is_file():
            return (folder / f"{name}.yaml").resolve()
    known = sorted({path.stem for folder in folders() for path in folder.glob("*.yaml")})
    asked = f"there is no table {name}" if name else "oaa reproduce needs a table"
    if not known:
        looked = " nor ".join(map(str, folders()))
        raise UserError(f"{asked}: neither {looked} holds any; give the path of a YAML file")
    raise UserError(f"{asked}, expected one of {', '.join(known)}, or the path of a YAML file")


def load_tree(path: Path, children: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The YAML of a table over that of the table which it inherits from; paths made absolute.

    Raises:
        UserError: when a file is missing, no YAML, or inherits from itself.
    """
    if path in children:
        raise UserError(f"{path} inherits from itself")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path} is no valid YAML: {' '.join(str(error).split())}") from error
    tree = as_mapping(tree, str(path))
    for name, scale in as_mapping(tree.get("scales", {}), f"scales in {path}").items():
        for stage, entry in as_mapping(scale, f"scales.{name} in {path}").items():
            if stage in KINDS and isinstance(entry, dict) and "config" in entry:
                entry["config"] = str((path.parent / str(entry["config"])).resolve())
    if "inherits" not in tree:
        return tree
    parent = (path.parent / str(tree.pop("inherits"))).resolve()
    base = load_tree(parent, (*children, path))
    # Scales and runs are added to, key by key; a title or the rows are replaced.
    deep = {k: merge(base[k], tree[k]) for k in ("scales", "runs") if k in base and k in tree}
    return base | tree | deep


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` on top of `base`: mappings key by key, anything else as a whole."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = merge(base[key], value) if both else value
    return merged


def as_mapping(value: object, where: str) -> dict[str, Any]:
    """The value, or a UserError when it is no mapping."""
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}, expected lines of `key: value`")
    return value


def as_list(value: object, where: str) -> list[Any]:
    """The value, or a UserError when it is no list."""
    if not isinstance(value, list):
        raise UserError(f"{where} is {value!r}, expected a list")
    return value


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted keys; those that are dotted stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        nested = isinstance(value, dict)
        flat |= flatten(value, f"{prefix}{key}.") if nested else {f"{prefix}{key}": value}
    return flat
