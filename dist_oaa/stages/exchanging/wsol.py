"""Maps and true boxes in the layout of wsolevaluation, whose evaluator then measures them.

    OUT/metadata/SPLIT/image_ids.txt      path of an image, relative to the data set's root
    OUT/metadata/SPLIT/class_labels.txt   path,class index from 0
    OUT/metadata/SPLIT/image_sizes.txt    path,width,height in pixels
    OUT/metadata/SPLIT/localization.txt   path,x0,y0,x1,y1 in pixels, a line for each box
    OUT/scoremaps/<path>.npy              the map of the image's class, 224 x 224 float64

The evaluator squeezes every image to 224 x 224, as the maps' grid does, wants whole pixels, and
thresholds relative to the map's maximum; its own code stretches a map to reach from 0 to 1.
"""

from pathlib import Path

import cv2
import numpy as np

from dist_oaa.config.errors import UserError
from dist_oaa.data.boxes import open_boxes
from dist_oaa.data.images import read_size
from dist_oaa.data.sample import ImageSet, Sample
from dist_oaa.stages.exchanging.sources import MAPPERS, open_data
from dist_oaa.store.maps import open_maps

SIDE = 224
FILES = ("image_ids", "class_labels", "image_sizes", "localization")


def write_wsol(folder: Path, run: str, root: str, split: str) -> int:
    """Writes the maps and boxes of a run; returns the number of images.

    Raises:
        UserError: the run has no maps or no data set with boxes, or an image has several classes,
            no map, or a name with a comma.
        OSError: the disk is full or not writable.
    """
    data, image_set = open_data(Path(run), root, MAPPERS)
    boxes = open_boxes(data, image_set)
    samples = sorted(image_set.samples, key=lambda sample: sample.id)
    _write_maps(folder / "scoremaps", run, image_set, samples)
    lines: dict[str, list[str]] = {name: [] for name in FILES}
    for sample in samples:
        name = _name(sample, image_set)
        height, width = read_size(sample.path)
        lines["image_ids"].append(name)
        lines["class_labels"].append(f"{name},{sample.classes[0]}")
        lines["image_sizes"].append(f"{name},{width},{height}")
        for corners in boxes.of(sample)[sample.classes[0]]:
            whole = ",".join(str(round(value)) for value in corners)
            lines["localization"].append(f"{name},{whole}")
    place = folder / "metadata" / split
    place.mkdir(parents=True)
    for name, found in lines.items():
        (place / f"{name}.txt").write_text("".join(f"{x}\n" for x in found), encoding="utf-8")
    return len(samples)


def _write_maps(folder: Path, run: str, image_set: ImageSet, samples: list[Sample]) -> None:
    by_id = {sample.id: sample for sample in samples}
    source = open_maps(run)
    missing = dict(by_id)
    for image_id, class_index, map_SS in source.of(by_id.keys()):
        sample = by_id[image_id]
        if (class_index,) != sample.classes:
            continue
        path = folder / f"{_name(sample, image_set)}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, score_map(map_SS), allow_pickle=False)
        missing.pop(image_id)
    for sample in missing.values():
        if len(sample.classes) != 1:
            raise UserError(
                f"the image {sample.id!r} has {len(sample.classes)} classes, but wsolevaluation "
                "knows one class an image"
            )
        raise UserError(f"{source.folder} has no map of the image {sample.id!r} and its class")


def score_map(map_SS: np.ndarray) -> np.ndarray:
    """A map as (224, 224) float64 that reaches from 0 to 1; all 0 where it is flat."""
    map_SS = map_SS.astype(np.float64)
    full = cv2.resize(map_SS, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
    full -= full.min()
    return full / full.max() if full.max() > 0 else full


def _name(sample: Sample, image_set: ImageSet) -> str:
    name = sample.path.relative_to(image_set.root).as_posix()
    if "," in name:
        raise UserError(
            f"the image {name!r} has a comma in its name, which the files of wsolevaluation cannot "
            "hold: rename it"
        )
    return name
