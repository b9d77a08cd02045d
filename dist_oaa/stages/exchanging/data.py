"""`oaa data export`: what a run has made, in the layout of another program."""

from pathlib import Path
from typing import Literal

from dist_oaa.config.errors import UserError
from dist_oaa.data.paths import relative_name
from dist_oaa.runtime.files import new_folder
from dist_oaa.stages.exchanging.segmentation import write_hf, write_mmseg
from dist_oaa.stages.exchanging.sources import open_labelled
from dist_oaa.stages.exchanging.wsol import write_wsol


def export_data(
    run: str,
    out: str,
    format: Literal["mmseg", "hf", "wsol"] = "mmseg",
    split: str = "train",
    images: Literal["copy", "link"] = "copy",
    root: str = "",
    license: str = "unknown",
) -> int:
    """Write the labels or the maps of a run in the layout of another program.

    mmseg and hf take a run of `oaa pseudo-label` and write its images and label
    images; wsol takes a run with attention maps, whose data set has boxes and one
    class an image.

    Args:
        run: Run directory.
        out: Folder to make; it must be new or empty.
        format: mmseg is mmsegmentation, hf an image folder of Hugging Face's datasets, wsol the
            metadata and score maps of wsolevaluation.
        split: Name of the list, and of its sub-folders.
        images: Copy the images, or make symbolic links (mmseg, hf; wsol needs neither).
        root: Folder where the run's data set lies now; empty takes the run's word.
        license: Licence of the images and labels, for the data-set card (hf).

    Returns:
        The exit code.
    """
    if relative_name(split) != split or "/" in split:
        raise UserError(f"--split is {split!r}, expected the name of a folder, such as train")
    with new_folder(Path(out)) as folder:
        if format == "wsol":
            count = write_wsol(folder, run, root, split)
        else:
            labelled = open_labelled(run, root)
            count = len(labelled.items)
            if format == "mmseg":
                write_mmseg(folder, labelled, split, images)
            else:
                write_hf(folder, labelled, split, images, license)
    print(f"{count:,} images are in {out}, for {NAMES[format]}")
    return 0


NAMES = {"mmseg": "mmsegmentation", "hf": "Hugging Face's datasets", "wsol": "wsolevaluation"}
