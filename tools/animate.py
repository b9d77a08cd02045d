"""An image's attention over the epochs of a run, as a GIF or an MP4.

usage: python tools/animate.py RUN [--image ID] [--class NAME] --out evolution.gif

Nothing is computed anew: after each measured epoch a training run keeps the maps of its gallery
(evaluate.gallery) and of the images that evaluate.follow names; this shows them. RUN is the run
directory of `oaa classify` or `oaa integral`, or the folder of `oaa pipeline`.

Shapes: HW3 a picture, SS the square grid of a map.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageColor

from dist_oaa.config.data import DataConfig
from dist_oaa.config.errors import UserError
from dist_oaa.config.extras import need
from dist_oaa.data.images import read_image
from dist_oaa.data.sample import Sample
from dist_oaa.data.sources import open_image_set
from dist_oaa.evaluation.pictures import overlay
from dist_oaa.stages.page.charts import COLOURS, OTHERS
from dist_oaa.stages.page.pictures import PIXEL_LIMIT, KeptMaps
from dist_oaa.stages.page.runs import ShownRun, open_runs
from dist_oaa.stages.run_settings import build_settings, require

TITLES = {"cam": "CAM", "integral": "integral model"}
"""Kinds of maps whose title is not their name."""
FRAMES_A_SECOND = 10
"""Of a film; a GIF says how long each frame stays."""
CELL, CURVE, MARGIN = 3.2, 1.5, 0.35
"""Width of a picture, height of the curves and of a line of text, in inches of DPI pixels."""
DPI = 100


@dataclass(frozen=True)
class Story:
    """What is shown."""

    title: str
    photo_HW3: np.ndarray
    epochs: list[int]
    """From 0."""
    maps: dict[str, list[np.ndarray]]
    """By title of the kind: (S, S) float32 in [0, 1] after each of the epochs."""
    recall: dict[str, list[tuple[int, float]]]
    """By title: (epoch from 1, percent) over the images measured; empty without masks."""


def read_story(folder: Path, name: str, class_name: str) -> Story:
    """Gathers what a run kept of one image.

    Args:
        name: of the image; empty takes the first that is kept.
        class_name: empty takes the image's first class.

    Raises:
        UserError: when the folder is no run, it kept no maps, or none of this image and class.
    """
    run, kept = kept_maps(folder)
    last = kept.epochs[-1]
    kinds = list(dict.fromkeys(key.rpartition(".")[2] for key in kept.keys(last)))
    names = sorted(kept.images(kinds[-1]))
    name = name or names[0]
    if name not in names:
        raise UserError(
            f"{run.folder} kept no maps of {name!r}, expected one of {', '.join(names)}; a new run "
            f"keeps them with --evaluate.follow '[{name}]'"
        )
    sample = find_sample(run, name)
    index = find_class(run, sample, class_name)
    epochs = [e for e in kept.epochs if all(f"{name}.{k}" in kept.keys(e) for k in kinds)]
    titles = {kind: TITLES.get(kind, kind) for kind in kinds}
    return Story(
        title=f"{run.class_names[sample.classes[index]]}, {name}",
        photo_HW3=read_image(sample.path, PIXEL_LIMIT),
        epochs=epochs,
        maps={title: [kept.map(k, name, e, index) for e in epochs] for k, title in titles.items()},
        recall={
            title: [(epoch, 100 * value) for epoch, value in curve]
            for kind, title in titles.items()
            if len(curve := run.curve(f"{kind}/recall")) > 1
        },
    )


def kept_maps(folder: Path) -> tuple[ShownRun, KeptMaps]:
    """The first run in a folder that kept maps, and these.

    Raises:
        UserError: when there is none.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder, expected a run directory or that of a pipeline")
    for run in open_runs(folder)[1]:
        kept = KeptMaps(run.folder)
        if kept.epochs and kept.keys(kept.epochs[-1]):
            return run, kept
    raise UserError(
        f"{folder} kept no maps after its epochs: no pictures/maps/epoch-*.npz, which oaa classify "
        "and oaa integral write unless evaluate.gallery is 0"
    )


def find_sample(run: ShownRun, name: str) -> Sample:
    """The image in the data set of the run.

    Raises:
        UserError: when the data set, or the image in it, is gone.
    """
    require(run.config, ("data",), run.folder, "data set", f"oaa {run.stage}")
    image_set = open_image_set(build_settings(DataConfig, run.config, "data", run.folder))
    for sample in image_set.samples:
        if sample.id == name:
            return sample
    raise UserError(f"the image {name} is no longer in the data set {run.config['data']['root']}")


def find_class(run: ShownRun, sample: Sample, class_name: str) -> int:
    """Which of the image's classes is meant, by its place among them.

    Raises:
        UserError: when the image does not have it.
    """
    names = [run.class_names[c] for c in sample.classes]
    if class_name and class_name not in names:
        raise UserError(f"{sample.id} has no class {class_name!r}, expected {' or '.join(names)}")
    return names.index(class_name) if class_name else 0


def draw_frame(story: Story, number: int) -> np.ndarray:
    """Photograph and maps after one epoch, with the recall so far; (H, W, 3), sides even."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = story.photo_HW3.shape[:2]
    pictures = {"image": story.photo_HW3} | {
        title: overlay(story.photo_HW3, maps[number]) for title, maps in story.maps.items()
    }
    heights = [CELL * min(height / width, 1.5) + MARGIN, CURVE if story.recall else 0]
    figure = Figure((CELL * len(pictures), sum(heights) + MARGIN), DPI, layout="constrained")
    rows = [list(pictures), *([["recall"] * len(pictures)] if story.recall else [])]
    axes = figure.subplot_mosaic(rows, height_ratios=[h for h in heights if h])
    for title, picture_HW3 in pictures.items():
        axes[title].imshow(picture_HW3)
        axes[title].set_title(title, fontsize=10, color="#333333")
        axes[title].axis("off")
    figure.suptitle(f"{story.title}: epoch {story.epochs[number] + 1}", fontsize=11)
    if story.recall:
        draw_recall(axes["recall"], story, story.epochs[number] + 1)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    frame_HW3 = np.asarray(canvas.buffer_rgba())[..., :3]
    # Films want even sides.
    return np.ascontiguousarray(frame_HW3[: len(frame_HW3) // 2 * 2, : frame_HW3.shape[1] // 2 * 2])


def draw_recall(axis, story: Story, epoch: int) -> None:
    """Recall of all kinds up to an epoch; the axes are those of the last frame."""
    others = iter(OTHERS)
    end = story.epochs[-1] + 1
    for row, (title, curve) in enumerate(story.recall.items()):
        colour = COLOURS.get(title) or next(others)
        seen = [point for point in curve if point[0] <= epoch]
        if not seen:
            continue
        axis.plot(*zip(*seen, strict=True), color=colour, linewidth=2, marker="o", markersize=3)
        # At a fixed place: words that follow their line would jump from frame to frame.
        words = f"{title} {seen[-1][1]:.0f} %"
        place = (0.985, 0.88 - 0.2 * row)
        axis.annotate(words, place, xycoords="axes fraction", ha="right", color=colour, fontsize=10)
    highest = max(value for curve in story.recall.values() for _, value in curve)
    # Room on the right for the words.
    axis.set(xlim=(0.8, end + 0.22 * (end - 0.8)), ylim=(0, max(1, 1.15 * highest)))
    axis.set_xticks(range(1, end + 1, max(1, end // 12)))
    axis.set_ylabel("recall, %", fontsize=9)
    axis.set_xlabel("epoch", fontsize=9)
    axis.tick_params(labelsize=8, length=0)
    axis.grid(axis="y", color="#e6e6e6", linewidth=0.8)
    axis.spines[["top", "right", "left"]].set_visible(False)


def write_gif(frames: Sequence[np.ndarray], seconds: Sequence[float], path: Path) -> None:
    """Frames one after the other, for ever, in 256 colours that they share."""
    pictures = [Image.fromarray(frame_HW3) for frame_HW3 in frames]
    # The colours of the thin lines, too, which are few pixels among many.
    lines = [ImageColor.getrgb(colour) for colour in (*COLOURS.values(), *OTHERS)]
    swatches = np.repeat(np.array(lines, np.uint8), 2000, axis=0)
    colours_N3 = np.concatenate([*(frame[::2, ::2].reshape(-1, 3) for frame in frames), swatches])
    # By spread, not by number: grey early frames would leave the late ones few colours.
    palette = Image.fromarray(colours_N3[:, None]).quantize(256, Image.Quantize.MAXCOVERAGE)
    shown = [p.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG) for p in pictures]
    stay = [round(1000 * s) for s in seconds]
    shown[0].save(path, save_all=True, append_images=shown[1:], duration=stay, loop=0)


def write_mp4(frames: Sequence[np.ndarray], seconds: Sequence[float], path: Path) -> None:
    """The same as a film (MPEG-4)."""
    height, width = frames[0].shape[:2]
    code = cv2.VideoWriter.fourcc(*"mp4v")
    writer = cv2.VideoWriter(str(path), code, FRAMES_A_SECOND, (width, height))
    if not writer.isOpened():
        raise UserError(f"{path} cannot be written: this OpenCV encodes no MPEG-4; try a .gif")
    for frame_HW3, stay in zip(frames, seconds, strict=True):
        for _ in range(max(1, round(stay * FRAMES_A_SECOND))):
            writer.write(frame_HW3[..., ::-1])
    writer.release()


WRITERS = {".gif": write_gif, ".mp4": write_mp4}


def animate(folder: Path, name: str, class_name: str, out: Path, seconds: float) -> Story:
    """Writes the animation; returns what it shows.

    Args:
        seconds: how long each epoch stays; the last one three times as long.

    Raises:
        UserError: see `read_story`; an unknown ending, or a file that cannot be written.
    """
    if out.suffix.lower() not in WRITERS:
        raise UserError(f"--out is {out}, expected a name that ends with .gif or .mp4")
    if not 0.05 <= seconds <= 60:
        raise UserError(f"--seconds is {seconds}, expected 0.05 to 60")
    need("matplotlib", "an animation")
    story = read_story(folder, name, class_name)
    frames = [draw_frame(story, number) for number in range(len(story.epochs))]
    stay = [seconds] * (len(frames) - 1) + [3 * seconds]
    # The ending tells the encoder what to write.
    temporary = out.with_name(f".{out.stem}.part{out.suffix}")
    try:
        WRITERS[out.suffix.lower()](frames, stay, temporary)
        temporary.replace(out)
    except OSError as error:
        raise UserError(f"{out} cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return story


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="run directory, or the folder of a pipeline")
    parser.add_argument("--image", default="", help="name of the image; left out, the first kept")
    parser.add_argument("--class", dest="class_name", default="", help="one of the image's classes")
    parser.add_argument("--out", type=Path, required=True, help="file that ends with .gif or .mp4")
    parser.add_argument("--seconds", type=float, default=0.8, help="how long each epoch is shown")
    given = parser.parse_args(argv)
    try:
        story = animate(given.run, given.image, given.class_name, given.out, given.seconds)
    except UserError as error:
        print(f"animate.py: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{given.out}: {story.title}, {len(story.epochs)} epochs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
