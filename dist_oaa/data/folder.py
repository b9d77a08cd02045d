"""One folder per class: `root/<class>/**/<name>.jpg`, one label an image, no masks.

The id of an image is its path from the root without suffix. Hidden files and folders (a leading
dot) and files that are not images by their suffix are ignored.
"""

import filecmp
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.data.classes import ClassTable, LabelRow
from dist_oaa.data.images import IMAGE_SUFFIXES
from dist_oaa.data.paths import inside_or_report
from dist_oaa.data.problems import Problems
from dist_oaa.data.sample import ImageSet, Sample

LABEL_SOURCE = "folder names"


def open_folder(config: DataConfig, root: Path, problems: Problems) -> ImageSet:
    """Open a data set of one folder per class, sorted by path.

    The classes are the sorted folder names, or `data.classes` where it is set.

    Raises:
        UserError: there is no folder in the root; all else goes to `problems`.
    """
    entries = sorted(path for path in root.iterdir() if not path.name.startswith("."))
    folders = [path for path in entries if path.is_dir()]
    if not folders:
        raise UserError(f"{root} holds no folder, expected one folder of images per class")
    for path in entries:
        if _is_image(path.name) and path.is_file():
            problems.add("unlabelled", f"{path} lies in no class folder, so it has no label")
    table = ClassTable(tuple(config.classes) or tuple(path.name for path in folders))
    samples: dict[str, Sample] = {}
    for folder in folders:
        classes = table.indices(f"{folder.name}/*", LabelRow((folder.name,), str(folder)), problems)
        before = len(samples)
        for path in images_below(folder, root, problems):
            image_id = path.relative_to(root).with_suffix("").as_posix()
            if image_id in samples:
                problems.add(
                    "duplicate", f"{samples[image_id].path} and {path} share the id {image_id!r}"
                )
                continue
            samples[image_id] = Sample(image_id, path, classes, mask=None)
        if len(samples) == before:
            problems.add(
                "missing",
                f"the class folder {folder} holds no image, expected files ending in "
                f"{' '.join(IMAGE_SUFFIXES)}",
            )
    report_copies(samples.values(), problems)
    return ImageSet(root, table.names, tuple(samples.values()), LABEL_SOURCE)


def report_copies(samples: Iterable[Sample], problems: Problems) -> None:
    """Reports a picture that lies in two class folders: each copy would deny the other's class."""
    seen: dict[tuple[str, int], Sample] = {}
    for sample in samples:
        key = (sample.path.name, sample.path.stat().st_size)
        other = seen.setdefault(key, sample)
        if other.classes != sample.classes and filecmp.cmp(other.path, sample.path, shallow=False):
            problems.add(
                "duplicate",
                f"{other.path} and {sample.path} are the same picture in two class folders, "
                "expected one class an image; a table (data.table) can give it several",
            )


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def images_below(folder: Path, root: Path, problems: Problems) -> Iterator[Path]:
    """Yield the images below a folder of the root, sorted, none of them outside the root."""
    if inside_or_report(root, folder.relative_to(root).as_posix(), str(root), problems) is None:
        return
    for parent, folders, files in os.walk(folder):
        # In place: os.walk goes on with what is left, in this order.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(parent, name) for name in folders):
            if path.is_symlink():
                # Followed, it could lead out of the root or in a circle; passed over in silence,
                # it would hide images.
                problems.add("outside", f"{path} is a symbolic link to a folder, expected a folder")
        for name in sorted(filter(_is_image, files)):
            path = Path(parent, name)
            # Its own name comes quoted: it may hold line breaks.
            if inside_or_report(root, path.relative_to(root).as_posix(), str(root), problems):
                yield path
