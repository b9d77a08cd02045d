"""One scene of the demo data: a background, one to three creatures, and their exact masks.

A scene is painted at SUPERSAMPLE times its size and averaged down, so its edges are smooth; the
mask comes from the same coverage, each pixel going to whatever covers most of it.

Legend: H, W the final size in pixels; canvas, a field of SUPERSAMPLE times that size.
"""

import itertools
from dataclasses import dataclass, replace

import cv2
import numpy as np

from dist_oaa.data.demo_creatures import CLASSES, INK, Look, Patch, creature, draw_look
from dist_oaa.data.demo_textures import COATS, background, blend, smooth_noise

SUPERSAMPLE = 3
IGNORE = 255
# Width and height as multiples of `size`.
FORMATS = ((1.0, 1.0), (1.0, 5 / 6), (5 / 6, 1.0), (13 / 12, 5 / 6))
# Share of the image's pixels that a creature gets, by the number of creatures in the scene.
SHARES = {1: (0.14, 0.28), 2: (0.10, 0.18), 3: (0.08, 0.13)}
CREATURE_AREA = 2.9  # torso, head, tail and feet, in the creature's units
LEAST_SHARE = 0.065
PLACEMENTS = 60
SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates


@dataclass(frozen=True)
class Scene:
    """A painted scene.

    Attributes:
        image_HW3: uint8 RGB.
        mask_HW: uint8, 0 background, 1..C the classes, 255 the contour that evaluation ignores.
        instance_HW: uint8, 0 background, k + 1 the k-th creature.
        part_HW: bool, the discriminative parts (heads).
    """

    image_HW3: np.ndarray
    mask_HW: np.ndarray
    instance_HW: np.ndarray
    part_HW: np.ndarray


@dataclass(frozen=True)
class Placed:
    """A creature with its outlines on the canvas; `affine` (2, 3) took them there."""

    label: int
    look: Look
    patches: list[Patch]
    affine: np.ndarray
    scale: float

    def outline(self, patch: Patch) -> np.ndarray:
        """Return the patch's points (N, 2) in canvas pixels."""
        return patch.points @ self.affine[:, :2].T + self.affine[:, 2]


def render(seed: int, index: int, size: int, primary: int) -> Scene:
    """Return scene `index`, a function of the four arguments alone.

    Args:
        seed: seed of the data set, 0 or more.
        index: number of the scene, 0 or more.
        size: nominal long side in pixels.
        primary: class (from 0) of the creature that the scene certainly shows.
    """
    layout, backdrop, finish = (
        np.random.default_rng(s) for s in np.random.SeedSequence([seed, index]).spawn(3)
    )
    wide, high = FORMATS[layout.integers(len(FORMATS))]
    width, height = round(wide * size) * SUPERSAMPLE, round(high * size) * SUPERSAMPLE
    placed = arrange(layout, draw_labels(layout, primary), height, width)
    canvas = background(backdrop, height, width)
    ids = np.zeros((height, width), np.uint8)
    part = np.zeros((height, width), np.uint8)
    for number, one in enumerate(placed, start=1):
        window, local = _window(one, height, width)
        whole, head = silhouettes(local, *ids[window].shape)
        _cast_shadow(canvas[window], whole, local.scale)
        paint(canvas[window], local)
        ids[window][whole > 0] = number
        part[window][whole > 0] = head[whole > 0]
    return _finish(finish, canvas, ids, part, [one.label for one in placed])


def draw_labels(rng: np.random.Generator, primary: int) -> list[int]:
    """Draw the classes of a scene's creatures, the primary one first; a class may occur twice."""
    count = 1 + int(rng.choice(3, p=[0.35, 0.45, 0.20]))
    labels = [primary]
    while len(labels) < count:
        other = (primary + int(rng.integers(1, len(CLASSES)))) % len(CLASSES)
        labels.append(primary if rng.random() < 0.2 else other)
    return labels


def arrange(rng: np.random.Generator, labels: list[int], height: int, width: int) -> list[Placed]:
    """Place creatures so that each is well seen; one that finds no room is left out.

    The list is in painting order. The first creature has the canvas to itself and is given as
    many trials as it takes.
    """
    placed: list[Placed] = []
    for label in labels:
        share = rng.uniform(*SHARES[len(labels)])
        for _ in range(PLACEMENTS) if placed else itertools.count():
            one = place(rng, label, share, height, width)
            if _inside(one, height, width) and _all_visible([*placed, one], height, width):
                placed.append(one)
                break
            share = max(LEAST_SHARE, share * 0.985)  # a smaller one fits more easily
    return placed


def place(rng: np.random.Generator, label: int, share: float, height: int, width: int) -> Placed:
    """Draw a creature of class `label` (from 0) at a random position, angle and direction."""
    look = draw_look(rng, CLASSES[label])
    scale = float(np.sqrt(share * height * width / CREATURE_AREA))
    angle, flip = rng.uniform(-0.6, 0.6), rng.choice([-1.0, 1.0])
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    x, y = rng.uniform(0.15, 0.85, 2) * (width, height)
    affine = np.array([[flip * cos, -sin, x], [flip * sin, cos, y]])
    return Placed(label, look, creature(CLASSES[label], look), affine, scale)


def silhouettes(one: Placed, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 masks (height, width), 0 or 1: the whole creature and its head."""
    whole, head = (np.zeros((height, width), np.uint8) for _ in range(2))
    for patch in one.patches:
        _fill(whole, one.outline(patch), patch, one.scale)
        if patch.part:
            _fill(head, one.outline(patch), patch, one.scale)
    return whole, head


def _line_width(scale: float) -> int:
    """Return the width of the darker edge in canvas pixels."""
    return max(1, round(0.028 * scale))


def _fill(mask: np.ndarray, outline: np.ndarray, patch: Patch, scale: float) -> None:
    # OpenCV puts integer coordinates at pixel centres, ours are at pixel corners.
    points = [np.round((outline - 0.5) * 2**SHIFT).astype(np.int32)]
    cv2.fillPoly(mask, points, 1, cv2.LINE_8, SHIFT)
    if patch.edged:
        cv2.polylines(mask, points, True, 1, _line_width(scale), cv2.LINE_8, SHIFT)


def _inside(one: Placed, height: int, width: int) -> bool:
    """Say whether the head is inside the canvas, and the rest but for a little."""
    for patch in one.patches:
        points = one.outline(patch)
        slack = 0.0 if patch.part else 0.12 * one.scale
        if points.min() < -slack or (points.max(axis=0) > (width + slack, height + slack)).any():
            return False
    return True


def _all_visible(placed: list[Placed], height: int, width: int) -> bool:
    """Say whether each creature shows 75 % of itself, and nearly all of its head."""
    ratio = 1 / SUPERSAMPLE
    small = [replace(one, affine=one.affine * ratio, scale=one.scale * ratio) for one in placed]
    hidden = np.zeros((height // SUPERSAMPLE, width // SUPERSAMPLE), bool)
    for one in reversed(small):
        whole, head = (m > 0 for m in silhouettes(one, *hidden.shape))
        if (hidden & whole).sum() > 0.25 * whole.sum():
            return False
        if (hidden & head).sum() > 0.08 * head.sum():
            return False
        hidden |= whole
    return True


def _window(one: Placed, height: int, width: int) -> tuple[tuple[slice, slice], Placed]:
    """Return the part of the canvas that a creature and its shadow touch, and the creature there.

    Painting in a window rather than on the whole canvas halves the time of a scene.
    """
    points = np.concatenate([one.outline(patch) for patch in one.patches])
    margin = 0.45 * one.scale
    left, top = np.maximum(points.min(axis=0) - margin, 0).astype(int)
    right, bottom = np.minimum(points.max(axis=0) + margin, (width, height)).astype(int)
    moved = one.affine - np.array([[0, 0, left], [0, 0, top]])
    return (slice(top, bottom), slice(left, right)), replace(one, affine=moved)


def _cast_shadow(canvas: np.ndarray, whole: np.ndarray, scale: float) -> None:
    """Darken the canvas below and to the right of a creature, softly, as under cut paper."""
    offset = 0.07 * scale
    moved = cv2.warpAffine(
        whole * np.uint8(255),
        np.array([[1, 0, 0.6 * offset], [0, 1, offset]], np.float64),
        (whole.shape[1], whole.shape[0]),
    )
    soft = _blur(moved.astype(np.float32) / 255, 0.09 * scale)
    canvas *= 1 - 0.38 * soft[..., None] * np.array([1.0, 0.97, 0.88], np.float32)


def _blur(field: np.ndarray, sigma: float) -> np.ndarray:
    """Return a wide Gaussian blur, done at a third of the size because nobody can tell."""
    height, width = field.shape
    small = cv2.resize(field, (width // 3, height // 3), interpolation=cv2.INTER_AREA)
    small = cv2.GaussianBlur(small, (0, 0), max(0.5, sigma / 3))
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)


def paint(canvas: np.ndarray, one: Placed) -> None:
    """Paint a creature onto the canvas (H, W, 3) in place: what lies behind, the torso, the head.

    Nothing of the torso depends on the class, only on the look and the pose.
    """
    height, width = canvas.shape[:2]
    group = np.zeros((height, width), np.uint8)
    for number, patch in enumerate(one.patches):
        own = np.zeros((height, width), np.uint8)
        outline = one.outline(patch)
        _fill(own, outline, patch, one.scale)
        inside = own > 0
        canvas[inside] = _coat(one, inside) if patch.coat else patch.colour
        if patch.edged:
            _draw_edge(canvas, outline, patch, one.scale)
        group |= own
        # Torso and head are lit each as one rounded thing.
        last = number + 1 == len(one.patches)
        if patch.coat or last:
            _light(canvas, group, one.scale * (0.45 if last else 1.0))
            group[:] = 0


def _coat(one: Placed, inside: np.ndarray) -> np.ndarray:
    """Return the coat's colours (N, 3) at the N canvas pixels of the bool mask `inside`."""
    rows, columns = np.nonzero(inside)
    centres = np.stack([columns, rows], axis=1) + 0.5
    x, y = np.linalg.solve(one.affine[:, :2], (centres - one.affine[:, 2]).T)
    return blend(one.look.main, one.look.accent, COATS[one.look.coat](x, y, one.look.phase))


def _draw_edge(canvas: np.ndarray, outline: np.ndarray, patch: Patch, scale: float) -> None:
    ink = tuple(0.45 * c + 0.12 * i for c, i in zip(patch.colour, INK, strict=True))
    points = [np.round((outline - 0.5) * 2**SHIFT).astype(np.int32)]
    cv2.polylines(canvas, points, True, ink, _line_width(scale), cv2.LINE_8, SHIFT)


def _light(canvas: np.ndarray, group: np.ndarray, scale: float) -> None:
    """Light a group from the top left, brighter where its blurred silhouette rises that way."""
    sigma = 0.2 * scale
    hill = _blur(group.astype(np.float32), sigma)
    slope = cv2.Sobel(hill, cv2.CV_32F, 1, 0) + cv2.Sobel(hill, cv2.CV_32F, 0, 1)
    # Sobel's weights sum to 8; a blurred edge rises by 1 / (2.5 sigma) a pixel where steepest.
    shade = 1 + 0.30 * slope * (2.5 * sigma / 8 / np.sqrt(2))
    inside = group > 0
    canvas[inside] = np.clip(canvas[inside] * shade[inside][:, None], 0, 1)


def _finish(
    rng: np.random.Generator,
    canvas: np.ndarray,
    ids: np.ndarray,
    part: np.ndarray,
    labels: list[int],
) -> Scene:
    """Average the canvas down, let each pixel go to its largest owner, add grain and a tint."""
    height, width = (side // SUPERSAMPLE for side in ids.shape)

    def down(field: np.ndarray) -> np.ndarray:
        return cv2.resize(field, (width, height), interpolation=cv2.INTER_AREA)

    cover = np.stack([down((ids == k).astype(np.float32)) for k in range(len(labels) + 1)])
    instance = cover.argmax(axis=0).astype(np.uint8)
    mask = np.array([0, *(label + 1 for label in labels)], np.uint8)[instance]
    # One pixel on either side of every border between creatures or to the background.
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    mask[cv2.dilate(instance, cross) != cv2.erode(instance, cross)] = IGNORE

    image = down(canvas) * rng.uniform(0.96, 1.03, 3).astype(np.float32)
    image *= 0.97 + 0.06 * smooth_noise(rng, height, width, max(height, width) / 2)[..., None]
    image += rng.normal(0, 0.009, image.shape).astype(np.float32)
    return Scene(
        image_HW3=np.round(np.clip(image, 0, 1) * 255).astype(np.uint8),
        mask_HW=mask,
        instance_HW=instance,
        part_HW=(down(part.astype(np.float32)) > 0.5) & (instance > 0),
    )
