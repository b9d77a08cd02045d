"""A table of the papers as a YAML file: what it holds, checked.

    title: Attention quality (Table 11)
    caption: what the paper measured, what is measured here, where they differ
    columns: [recall, noise, seed_miou]
    paper_columns: {recall: "recall in %, VOC 2012 train_aug"}
    scales:
      cpu:
        time: about 40 minutes on two cores
        seeds: [0, 1]
        classify: {config: ../voc12/oaa_efficientnet_lite0.yaml, settings: {data.limit: 300}}
    runs:
      oaa: {stage: classify}
      model: {stage: attend, of: oaa}
    rows:
      - {name: CAM, run: oaa, maps: cam, paper: {recall: 36.7}}

A row without a run shows what the papers say of a method that this project does not have.
`inherits: FILE` takes from another table whatever this one does not say; its scales and runs are
added to, key by key. Paths are relative to the file that they stand in.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dist_oaa.config.errors import UserError
from dist_oaa.config.load import nearest_key
from dist_oaa.stages.launching.kinds import KINDS
from dist_oaa.stages.launching.trees import as_list, as_mapping, check_keys, flatten
from dist_oaa.stages.reproducing.files import load_tree

KEYS = {
    "table": (
        *("title", "caption", "columns", "paper_columns", "scales", "runs", "rows", "plot"),
        "inherits",
    ),
    "scale": ("seeds", "time", *KINDS),
    "stage": ("config", "settings"),
    "run": ("stage", "of", "maps", "settings"),
    "row": ("name", "run", "maps", "paper", "group", "x"),
    "plot": ("kind", "columns", "groups"),
}


@dataclass(frozen=True)
class StageSettings:
    """What a scale says of a stage."""

    config: Path | None = None
    """A settings file of the stage."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Dotted keys that win over the file."""


@dataclass(frozen=True)
class Scale:
    """How much is run."""

    seeds: tuple[int, ...]
    stages: dict[str, StageSettings]
    time: str = ""
    """What to expect of the whole table, in words."""


@dataclass(frozen=True)
class RunSpec:
    """One run of a stage, for every seed."""

    stage: str
    of: str | None = None
    """The run whose result it reads."""
    maps: str = ""
    """A folder of that run, where it is not the run itself."""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """One row: the maps of a run, and what the papers say of them."""

    name: str
    run: str
    """Empty for the papers' numbers alone."""
    maps: str
    """Kind of maps, the first part of the metrics' names."""
    paper: dict[str, float | None]
    """By paper column, in percent; None where no source is known."""
    group: str = ""
    """The line of a plot that the row belongs to."""
    x: float | None = None
    """Where on that line it stands."""


@dataclass(frozen=True)
class Plot:
    """A picture beside the table: curves over the `epochs`, or lines over the rows' x."""

    kind: str
    columns: tuple[str, ...]
    groups: dict[str, str]
    """Lines of a `sweep`, with the label of their axis."""


@dataclass(frozen=True)
class Table:
    """A table, checked: every name in it leads somewhere."""

    path: Path
    title: str
    caption: str
    columns: tuple[str, ...]
    paper_columns: dict[str, str]
    scales: dict[str, Scale]
    runs: dict[str, RunSpec]
    rows: tuple[Row, ...]
    plot: Plot | None = None

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.path.stem


def read_table(path: Path) -> Table:
    """Reads and checks a table.

    Raises:
        UserError: naming the file and the place in it.
    """
    tree = load_tree(path)
    for key in ("title", "columns", "scales", "runs", "rows"):
        if not tree.get(key):
            raise UserError(f"{path} has no {key}")
    check_keys(tree, KEYS["table"], str(path))
    columns = tuple(as_list(tree["columns"], f"columns in {path}"))
    scales = as_mapping(tree["scales"], f"scales in {path}")
    runs = as_mapping(tree["runs"], f"runs in {path}")
    papers = as_mapping(tree.get("paper_columns") or {}, f"paper_columns in {path}")
    table = Table(
        path=path,
        title=str(tree["title"]),
        caption=" ".join(str(tree.get("caption", "")).split()),
        columns=columns,
        paper_columns={str(k): " ".join(str(v).split()) for k, v in papers.items()},
        scales={n: read_scale(s, f"scales.{n} in {path}") for n, s in scales.items()},
        runs={n: read_run(r, f"runs.{n} in {path}") for n, r in runs.items()},
        rows=tuple(read_rows(tree["rows"], runs, f"rows in {path}")),
        plot=read_plot(tree.get("plot"), f"plot in {path}"),
    )
    check_names(table)
    return table


def read_scale(entry: object, where: str) -> Scale:
    """A scale, its settings flat."""
    entry = as_mapping(entry, where)
    check_keys(entry, KEYS["scale"], where)
    stages = {}
    for name in KINDS:
        if name in entry:
            part = as_mapping(entry[name], f"{name} of {where}")
            check_keys(part, KEYS["stage"], f"{name} of {where}")
            config = Path(part["config"]) if "config" in part else None
            if config is not None and not config.is_file():
                raise UserError(f"config {config} of {name} of {where} does not exist")
            settings = as_mapping(part.get("settings", {}), f"settings of {name} of {where}")
            stages[name] = StageSettings(config, flatten(settings))
    seeds = as_list(entry.get("seeds", [0]), f"seeds of {where}")
    if not seeds or not all(type(seed) is int for seed in seeds):
        raise UserError(f"seeds of {where} is {seeds}, expected integers")
    return Scale(tuple(seeds), stages, " ".join(str(entry.get("time", "")).split()))


def read_run(entry: object, where: str) -> RunSpec:
    """A run."""
    entry = as_mapping(entry, where)
    check_keys(entry, KEYS["run"], where)
    stage = entry.get("stage")
    if stage not in KINDS:
        raise UserError(f"stage of {where} is {stage!r}, expected one of {', '.join(KINDS)}")
    of, maps, needs = entry.get("of"), str(entry.get("maps", "")), KINDS[stage].source
    if needs and not of:
        raise UserError(f"{where} has no `of`: {stage} reads the result of another run")
    if of and not needs:
        raise UserError(f"{where} has an `of`, but {stage} reads no other run")
    if maps and (needs != "maps" or maps.startswith("/") or ".." in maps):
        raise UserError(
            f"maps of {where} is {maps!r}, expected a folder within the run that an integral reads"
        )
    settings = as_mapping(entry.get("settings", {}), f"settings of {where}")
    return RunSpec(stage, of, maps, flatten(settings))


def read_rows(entries: object, runs: dict[str, Any], where: str) -> list[Row]:
    """The rows."""
    rows = []
    for number, entry in enumerate(as_list(entries, where), start=1):
        place = f"row {number} of {where}"
        entry = as_mapping(entry, place)
        check_keys(entry, KEYS["row"], place)
        if "name" not in entry:
            raise UserError(f"{place} has no name")
        if not entry.get("run") and not entry.get("paper"):
            raise UserError(f"{place} has no run, expected one, or numbers of a paper alone")
        run = str(entry.get("run", ""))
        if run and run not in runs:
            nearest = nearest_key(run, runs)
            hint = f"; the nearest run is {nearest}" if nearest else ""
            raise UserError(f"run of {place} is {run}, which runs does not name{hint}")
        stage = runs[run].get("stage", "classify") if run else "classify"
        maps = entry.get("maps", KINDS[stage].maps)
        paper = as_mapping(entry.get("paper", {}), f"paper of {place}")
        for key, value in paper.items():
            if value is not None and type(value) not in (int, float):
                raise UserError(f"paper.{key} of {place} is {value!r}, expected a number or null")
        x, group = entry.get("x"), str(entry.get("group", ""))
        if x is not None and type(x) not in (int, float):
            raise UserError(f"x of {place} is {x!r}, expected a number")
        rows.append(Row(str(entry["name"]), run, str(maps), paper, group, x))
    return rows


def read_plot(entry: object, where: str) -> Plot | None:
    """The picture, where there is one."""
    if entry is None:
        return None
    entry = as_mapping(entry, where)
    check_keys(entry, KEYS["plot"], where)
    if entry.get("kind") not in ("epochs", "sweep"):
        raise UserError(f"kind of {where} is {entry.get('kind')!r}, expected epochs or sweep")
    columns = tuple(as_list(entry.get("columns"), f"columns of {where}"))
    groups = as_mapping(entry.get("groups", {}), f"groups of {where}")
    return Plot(entry["kind"], columns, {str(k): str(v) for k, v in groups.items()})


def check_names(table: Table) -> None:
    """Every name leads somewhere, and no run waits for itself.

    Raises:
        UserError: otherwise.
    """
    names = [row.name for row in table.rows]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"rows in {table.path} names {name!r} twice")
    for row in table.rows:
        for key in row.paper:
            if key not in table.paper_columns:
                raise UserError(
                    f"paper.{key} of row {row.name} in {table.path} has no line in paper_columns"
                )
        if table.plot and row.group and row.group not in table.plot.groups:
            raise UserError(
                f"group of row {row.name} in {table.path} is {row.group}, which plot.groups "
                "does not name"
            )
    for name in table.runs:
        chain = [name]
        while (of := table.runs[chain[-1]].of) is not None:
            if of not in table.runs:
                raise UserError(f"of of runs.{chain[-1]} in {table.path} is {of}, which runs lacks")
            if of in chain:
                loop = " of ".join([*chain[chain.index(of) :], of])
                raise UserError(f"runs in {table.path} wait for each other: {loop}")
            chain.append(of)
