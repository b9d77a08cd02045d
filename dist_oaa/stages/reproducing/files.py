"""The YAML files of the tables: where they are, and one file over the one it inherits from."""

from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.presets import preset_roots
from dist_oaa.stages.launching.kinds import KINDS
from dist_oaa.stages.launching.trees import as_mapping, merge, read_tree

FOLDER = Path("configs") / "reproduce"


def folders() -> list[Path]:
    """Where tables are looked for: here, beside the package, and where pip puts them."""
    return [root / FOLDER for root in preset_roots()]


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
    tree = read_tree(path)
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
