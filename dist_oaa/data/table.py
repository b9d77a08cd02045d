"""A CSV table of images: a header with `path` and `classes`, optionally `id` and `mask`.

`path` and `mask` are relative to the root; `classes` holds names (or indices, see classes.py)
separated by spaces; an empty or absent `id` is the path without its suffix. A table is one split:
where several tables share a data set, classes.txt in its root or `data.classes` keeps their classes
the same.
"""

from pathlib import Path, PurePosixPath

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import LabelRow, class_table, csv_rows
from dist_oaa.data.paths import inside_or_report, relative_name
from dist_oaa.data.problems import Problems
from dist_oaa.data.sample import ImageSet, Sample


def open_table(config: DataConfig, root: Path, problems: Problems) -> ImageSet:
    """Open the images of the table `data.table`, in its order.

    Raises:
        UserError: there is no such table or it is no CSV with these columns; all else goes to
            `problems`.
    """
    table_path = root / config.table
    if not config.table or not table_path.is_file():
        raise UserError(
            f"data.table: {table_path} does not exist, expected a CSV file (a relative path starts "
            "at data.root)"
        )
    rows = [
        (f"{table_path}, line {line}", cells)
        for line, cells in csv_rows(table_path, ("path", "classes"))
    ]
    used = {name for _, cells in rows for name in cells["classes"].split()}
    classes = class_table(config, root, used, config.table)
    samples: dict[str, Sample] = {}
    first: dict[str, str] = {}
    for where, cells in rows:
        image_id = _image_id(cells, where, problems)
        if image_id is None:
            continue
        if image_id in first:
            problems.add("duplicate", f"{first[image_id]} and {where}: the id {image_id!r} twice")
            continue
        first[image_id] = where
        row = LabelRow(tuple(cells["classes"].split()), where)
        indices = classes.indices(image_id, row, problems)
        path = _file(root, cells["path"], "image", where, problems)
        mask = _file(root, cells.get("mask", ""), "mask", where, problems)
        if path is not None:
            samples[image_id] = Sample(image_id, path, indices, mask)
    return ImageSet(root, classes.names, tuple(samples.values()), config.table)


def _image_id(cells: dict[str, str], where: str, problems: Problems) -> str | None:
    try:
        if cells.get("id"):
            return relative_name(cells["id"])
        return PurePosixPath(relative_name(cells["path"])).with_suffix("").as_posix()
    except UserError as error:
        problems.add("outside", f"{where}: {error}")
        return None


def _file(root: Path, name: str, what: str, where: str, problems: Problems) -> Path | None:
    """Return the path of an image or mask, None where there is no mask or after a report."""
    if not name and what == "mask":
        return None
    path = inside_or_report(root, name, where, problems)
    if path is not None and not path.is_file():
        problems.add("missing", f"{where}: the {what} {path} does not exist")
        return None
    return path
