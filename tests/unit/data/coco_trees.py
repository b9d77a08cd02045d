"""A miniature data set in COCO's layout."""

import json
from pathlib import Path

import numpy as np
from pycocotools import mask

from data_trees import write_image, write_text

CATEGORIES = [
    {"id": 7, "name": "dog", "supercategory": "animal"},
    {"id": 3, "name": "cat"},
    {"id": 90, "name": "tooth brush"},
]
HEIGHT, WIDTH = 24, 32


def square(x: float, y: float, side: float) -> list[float]:
    return [x, y, x + side, y, x + side, y + side, x, y + side]


def runs_of(covered_HW: np.ndarray) -> list[int]:
    """Run lengths down the columns, by a plain loop."""
    counts, current = [0], False
    for value in covered_HW.T.ravel().tolist():
        if value != current:
            counts.append(0)
            current = value
        counts[-1] += 1
    return counts


def crowd_area() -> np.ndarray:
    covered_HW = np.zeros((HEIGHT, WIDTH), bool)
    covered_HW[2:10, 5:20] = True
    covered_HW[15:, 28:] = True
    return covered_HW


def annotation(image: int, category: int, shape: object, **more: object) -> dict:
    return {
        "id": 1000 + image * 10 + category,
        "image_id": image,
        "category_id": category,
        "segmentation": shape,
        "iscrowd": 0,
        "bbox": [1.0, 2.0, 10.5, 8.0],
    } | more


def instances() -> dict:
    """Five images: polygons that overlap, a crowd, compressed runs, nothing, two parts."""
    disc_HW = np.hypot(*(np.indices((HEIGHT, WIDTH)) - 12)) < 7
    text = mask.encode(np.asfortranarray(disc_HW.astype(np.uint8)))["counts"].decode()
    size = [HEIGHT, WIDTH]
    images = [
        {"id": n, "file_name": f"{n:012}.jpg", "height": HEIGHT, "width": WIDTH}
        for n in (9, 4, 5, 6, 8)
    ]
    crowd = {"size": size, "counts": runs_of(crowd_area())}
    annotations = [
        annotation(9, 7, [square(2, 2, 12)]),
        annotation(9, 3, [square(8.5, 8.5, 12)]),
        annotation(4, 7, crowd, iscrowd=1),
        annotation(4, 3, [square(4, 4, 9)]),
        annotation(5, 90, {"size": size, "counts": text}),
        annotation(8, 7, [square(1, 1, 5), square(20.25, 10.75, 6.5)]),
        annotation(8, 7, [square(3, 3, 6)], id=1, bbox=[3, 3, 0, 6]),
    ]
    return {"images": images, "annotations": annotations, "categories": CATEGORIES}


def make_coco(root: Path, split: str = "val2017", tree: dict | None = None) -> Path:
    tree = instances() if tree is None else tree
    write_text(root / f"annotations/instances_{split}.json", json.dumps(tree))
    for n, image in enumerate(tree["images"]):
        write_image(root / split / image["file_name"], HEIGHT, WIDTH, seed=n)
    return root
