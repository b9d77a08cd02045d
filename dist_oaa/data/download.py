"""`oaa data voc2012`: PASCAL VOC 2012 and the SBD masks, laid out for training.

Everything comes through torchvision's own loaders, with their addresses and checksums:

    <out>/VOCdevkit/VOC2012     torchvision.datasets.VOCSegmentation; the root for `data.root`
    <out>/sbd                   torchvision.datasets.SBDataset

To VOC2012 are added ImageSets/Segmentation/train_aug.txt, the 10,582 images of the weakly
supervised literature (VOC's segmentation `train` and all of SBD, without VOC's `val`), and
SegmentationClassAug with a palette PNG for each of them. SegmentationClass stays as it was
published. The image-level labels of all these images are VOC's own Annotations/*.xml.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image
from rich.progress import track
from torchvision.datasets import SBDataset, VOCSegmentation
from torchvision.datasets.voc import DATASET_YEAR_DICT

from dist_oaa.config.errors import UserError

TRAIN_AUG_IMAGES = 10_582
AUG_FOLDER = "SegmentationClassAug"


def voc2012(out: str, download: bool = False, augmented: bool = True) -> None:
    """Prepare VOC 2012 (2 GB) and, with `augmented`, SBD (1.4 GB) below the folder `out`.

    What is complete is left alone, so the command may be repeated after an interruption.

    Args:
        download: Fetch what is missing; otherwise copies must lie where torchvision puts them.
        augmented: Also prepare SBD, train_aug.txt and SegmentationClassAug (needs scipy).

    Raises:
        UserError: a data set is missing or incomplete, or cannot be downloaded.
    """
    base = Path(out)
    train, val = (_voc(base, split, download) for split in ("train", "val"))
    root = base / "VOCdevkit" / "VOC2012"
    if augmented:
        sbd = [_sbd(base / "sbd", split, download) for split in ("train", "val")]
        count = _augment(root, train, val, sbd)
        print(f"train_aug: {count} images")
        if count != TRAIN_AUG_IMAGES:
            print(f"The published list has {TRAIN_AUG_IMAGES}: VOC 2012 or SBD is not complete.")
    print(f"Ready: --data.root {root}")


def _voc(base: Path, split: str, download: bool) -> VOCSegmentation:
    def load(fetch: bool) -> VOCSegmentation:
        return VOCSegmentation(str(base), year="2012", image_set=split, download=fetch)

    source = DATASET_YEAR_DICT["2012"]
    return _load("VOC 2012", load, base, source["url"], source["filename"], download)


def _sbd(base: Path, split: str, download: bool) -> SBDataset:
    def load(fetch: bool) -> SBDataset:
        if fetch:
            base.mkdir(parents=True, exist_ok=True)
        return SBDataset(str(base), image_set=split, mode="segmentation", download=fetch)

    return _load("SBD", load, base, SBDataset.url, SBDataset.filename, download)


def _load(
    name: str,
    load: Callable[[bool], Any],
    folder: Path,
    url: str,
    archive: str,
    download: bool,
) -> Any:
    """Return torchvision's data set from its files, downloading it where it is not complete."""
    try:
        dataset = load(False)
        missing = _missing_file(dataset)
    except (RuntimeError, OSError) as error:  # no folder, no list, or no scipy
        if "scipy" in str(error).lower():
            raise UserError(f"{name} needs the package scipy: pip install scipy") from error
        missing = str(error)
    if missing is None:
        return dataset
    if not download:
        raise UserError(
            f"{name} is not complete in {folder} ({missing}), expected a copy laid out as "
            "torchvision does; --download fetches it"
        )
    try:
        dataset = load(True)
    except Exception as error:  # urllib, tarfile, shutil and the checksum each raise their own
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} cannot be fetched from {url} into {folder} ({reason}), expected a network "
            f"connection, or the file {archive} there already and no half-unpacked copy beside it"
        ) from error
    if missing := _missing_file(dataset):
        raise UserError(f"{name} is still not complete in {folder} after unpacking ({missing})")
    return dataset


def _missing_file(dataset: VOCSegmentation | SBDataset) -> str | None:
    if not dataset.images:
        return "its list of images is empty"
    for path in (*dataset.images, *dataset.masks):
        if not os.path.isfile(path):
            return f"{path} does not exist"
    return None


def _augment(root: Path, train: VOCSegmentation, val: VOCSegmentation, sbd: list[SBDataset]) -> int:
    """Write SegmentationClassAug, then train_aug.txt; return the number of its images.

    Where both have a mask VOC's counts, as in the published list: it is finer and marks borders.
    """
    voc_masks = {Path(path).stem: Path(path) for path in train.masks}
    held_out = {Path(path).stem for path in val.masks}
    sbd_items = {
        Path(path).stem: (part, index)
        for part in sbd
        for index, path in enumerate(part.masks)
        if Path(path).stem not in held_out and Path(path).stem not in voc_masks
    }
    ids = sorted({*voc_masks, *sbd_items})
    for relative in (f for i in ids for f in (f"JPEGImages/{i}.jpg", f"Annotations/{i}.xml")):
        if not (root / relative).is_file():
            raise UserError(
                f"{root / relative} does not exist though VOC 2012 or SBD lists the image, "
                "expected the whole archive of VOC 2012"
            )
    folder = root / AUG_FOLDER
    folder.mkdir(exist_ok=True)
    with Image.open(train.masks[0]) as mask:
        palette = mask.getpalette()
    for image_id in track(ids, "Masks", transient=True):
        target = folder / f"{image_id}.png"
        if target.exists():
            continue
        if image_id in voc_masks:
            _write(target, lambda path, source=voc_masks[image_id]: shutil.copyfile(source, path))
        else:
            part, index = sbd_items[image_id]
            _, mask = part[index]
            mask.putpalette(palette)
            _write(target, lambda path, mask=mask: mask.save(path, format="PNG"))
    text = "".join(f"{image_id}\n" for image_id in ids)
    target = root / "ImageSets" / "Segmentation" / "train_aug.txt"
    _write(target, lambda path: path.write_text(text, encoding="utf-8"))
    return len(ids)


def _write(target: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a file beside the target and rename it, so that no half file stays."""
    part = target.with_name(target.name + ".part")
    write(part)
    os.replace(part, target)
