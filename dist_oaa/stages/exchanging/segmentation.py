"""Pixel labels in the layouts of mmsegmentation and of Hugging Face's `datasets`.

    mmseg   OUT/img_dir/SPLIT/ID.jpg   OUT/ann_dir/SPLIT/ID.png   OUT/splits/SPLIT.txt
            OUT/metainfo.json          classes with the background first, their colours, and how the
                                       label images are to be read
    hf      OUT/SPLIT/images/ID.jpg    OUT/SPLIT/labels/ID.png    OUT/SPLIT/metadata.jsonl
            OUT/README.md              the data-set card

In the label images 0 is the background, class k has k + 1, and 255 is ignored.
"""

import json
import shutil
from pathlib import Path

from dist_oaa.data.palette import voc_palette
from dist_oaa.stages.exchanging.sources import LabelledRun, place, suffix_of

IGNORED = 255
BACKGROUND = "background"


def write_mmseg(folder: Path, run: LabelledRun, split: str, images: str) -> None:
    """Writes labels in mmsegmentation's layout.

    Args:
        split: name of the list and of its sub-folders.
        images: copy or link.

    Raises:
        OSError: the disk is full or not writable.
    """
    suffix = suffix_of([item.sample for item in run.items])
    for item in run.items:
        place(item.sample.path, folder / f"img_dir/{split}/{item.sample.id}{suffix}", images)
        _copy_label(item.label, folder / f"ann_dir/{split}/{item.sample.id}.png")
    names = "".join(f"{item.sample.id}\n" for item in run.items)
    (folder / "splits").mkdir()
    (folder / f"splits/{split}.txt").write_text(names, encoding="utf-8")
    classes = (BACKGROUND, *run.class_names)
    meta = {
        "classes": classes,
        "palette": voc_palette()[: len(classes)].tolist(),
        "img_suffix": suffix,
        "seg_map_suffix": ".png",
        # The background is a class of its own: with True it would become 255 and be ignored.
        "reduce_zero_label": False,
        "ignore_index": IGNORED,
        "supervision": run.supervision,
    }
    _write_json(folder / "metainfo.json", meta)


def write_hf(folder: Path, run: LabelledRun, split: str, images: str, license: str) -> None:
    """Writes labels as an image folder of Hugging Face's `datasets`, with columns image and label.

    Args:
        license: for the card, such as `cc-by-4.0`.

    Raises:
        OSError: the disk is full or not writable.
    """
    suffix = suffix_of([item.sample for item in run.items])
    (folder / split).mkdir()
    with open(folder / split / "metadata.jsonl", "w", encoding="utf-8") as lines:
        for item in run.items:
            row = {
                "file_name": f"images/{item.sample.id}{suffix}",
                "label_file_name": f"labels/{item.sample.id}.png",
                "classes": [run.class_names[c] for c in item.sample.classes],
            }
            place(item.sample.path, folder / split / row["file_name"], images)
            _copy_label(item.label, folder / split / row["label_file_name"])
            lines.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "README.md").write_text(card(run, split, license), encoding="utf-8")


def card(run: LabelledRun, split: str, license: str) -> str:
    """The data-set card: what the Hub reads, then what people read."""
    count = len(run.items)
    rows = "\n".join(f"| {i} | {name} |" for i, name in enumerate((BACKGROUND, *run.class_names)))
    made_from = "\n".join(f"- {line}" for line in run.supervision) or "- not recorded"
    # As JSON, which is YAML too: a licence may hold anything.
    return f"""---
license: {json.dumps(license)}
task_categories:
- image-segmentation
---

# Pseudo labels

{count} images with pixel labels that no person has drawn: they were made from image-level labels.
Columns: `image`, `label` (a palette PNG of the same size) and `classes` (the image-level label).

```python
from datasets import load_dataset

data = load_dataset("imagefolder", data_dir=".", split="{split}")
```

| value in `label` | class |
| --- | --- |
{rows}
| {IGNORED} | ignored: no loss and no measure counts it |

## What the labels were made from

{made_from}

## Licence

`license` above is {json.dumps(license)}. The photographs keep the licence that they came with,
which may forbid to pass them on: check it, and set the field, before you publish this folder.
"""


def _copy_label(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _write_json(path: Path, tree: object) -> None:
    path.write_text(json.dumps(tree, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
