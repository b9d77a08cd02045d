"""The demo's creatures: a large coated body that all classes share, and a small head that tells.

A creature is a list of patches (closed outlines with a colour), painted in order. The frame of a
creature has x forwards, y downwards; its torso has area 2.2, so it is about two units long. The
body says little about the class: shape and coat are only preferred, colours and tail are free.
"""

from dataclasses import dataclass

import numpy as np

from dist_oaa.data.demo_textures import COATS, Colour, tinted

# Class name -> preferred (torso, coat). No two classes prefer the same pair.
PREFERRED: dict[str, tuple[str, str]] = {
    "snail": ("dome", "rings"),
    "beetle": ("egg", "stripes"),
    "robin": ("pear", "scales"),
    "rabbit": ("bean", "spots"),
    "frog": ("dome", "spots"),
    "mouse": ("pear", "stripes"),
}
CLASSES = tuple(PREFERRED)
PREFERENCE = 0.6
TORSOS = ("egg", "dome", "bean", "pear")
TAILS = ("curl", "stub", "point")
TORSO_AREA = 2.2
HEAD_ANGLE = -0.42  # direction of the head as seen from the torso's centre, in radians
# Main colour and accent of a coat; none comes near a head's colour.
PALETTES: tuple[tuple[Colour, Colour], ...] = (
    ((0.27, 0.58, 0.60), (0.68, 0.86, 0.80)),
    ((0.85, 0.50, 0.34), (0.97, 0.80, 0.62)),
    ((0.55, 0.42, 0.69), (0.82, 0.73, 0.90)),
    ((0.72, 0.55, 0.22), (0.93, 0.82, 0.52)),
)
# Radius of a head that brings its appendages to about 12 % of the creature's area.
HEAD_RADIUS = {
    "snail": 0.275,
    "beetle": 0.275,
    "robin": 0.285,
    "rabbit": 0.245,
    "frog": 0.275,
    "mouse": 0.245,
}
INK: Colour = (0.13, 0.12, 0.16)
PINK: Colour = (0.95, 0.62, 0.66)
WHITE: Colour = (0.99, 0.98, 0.95)


@dataclass(frozen=True)
class Look:
    """All that is random about a creature but its class and its pose."""

    torso: str
    coat: str
    main: Colour
    accent: Colour
    phase: float
    tail: str
    stretch: float
    head: float


@dataclass(frozen=True)
class Patch:
    """A closed outline (N, 2) in the creature's frame, and how it is filled.

    `coat` patches wear the look's coat; `part` patches belong to the part that tells the class;
    `edged` patches get a thin darker outline.
    """

    points: np.ndarray
    colour: Colour
    coat: bool = False
    part: bool = False
    edged: bool = True


def draw_look(rng: np.random.Generator, name: str) -> Look:
    """Draw the look of one creature of the class `name`."""
    torso, coat = PREFERRED[name]
    if rng.random() >= PREFERENCE:
        torso = str(rng.choice([t for t in TORSOS if t != torso]))
    if rng.random() >= PREFERENCE:
        coat = str(rng.choice([c for c in COATS if c != coat]))
    main, accent = PALETTES[rng.integers(len(PALETTES))]
    return Look(
        torso=torso,
        coat=coat,
        main=tinted(rng, main, 0.04),
        accent=tinted(rng, accent, 0.04),
        phase=float(rng.random()),
        tail=str(rng.choice(TAILS)),
        stretch=float(rng.uniform(0.92, 1.08)),
        head=float(rng.uniform(0.95, 1.05)),
    )


def creature(name: str, look: Look) -> list[Patch]:
    """Return the patches of a creature in painting order: tail, feet, torso, head."""
    torso = torso_outline(look.torso, look.stretch)
    dark: Colour = tuple(0.68 * c for c in look.main)
    behind = [Patch(_tail(look.tail, torso), dark)]
    behind += [Patch(_foot(torso, x), dark) for x in (-0.48, 0.02, 0.5)]
    anchor = _towards(torso, HEAD_ANGLE)
    radius = HEAD_RADIUS[name] * look.head
    head = [
        Patch(p.points * radius + anchor, p.colour, part=True, edged=p.edged) for p in HEADS[name]()
    ]
    return [*behind, Patch(torso, look.main, coat=True), *head]


def torso_outline(kind: str, stretch: float) -> np.ndarray:
    """Return the outline (N, 2) of a torso; all kinds have the same area."""
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x, y = np.cos(t), 0.74 * np.sin(t)
    if kind == "egg":
        y = y * (1 - 0.10 * x)
    elif kind == "dome":
        y = np.where(y > 0, 0.55 * y, 1.3 * y)
        x = np.sign(x) * np.abs(x) ** 0.8
    elif kind == "bean":
        y = 0.9 * y + 0.34 * x**2 - 0.15
    else:
        assert kind == "pear", kind
        y = y * (1 - 0.33 * x) - 0.06 * x
    points = np.stack([x * stretch, y / stretch], axis=1)
    return points * np.sqrt(TORSO_AREA / polygon_area(points))


def polygon_area(points: np.ndarray) -> float:
    """Return the area inside a closed outline (N, 2) (shoelace formula)."""
    x, y = points.T
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def _towards(outline: np.ndarray, angle: float) -> np.ndarray:
    """Return the outline's point in the given direction from the origin."""
    directions = np.arctan2(outline[:, 1], outline[:, 0])
    return outline[np.argmin(np.abs(np.angle(np.exp(1j * (directions - angle)))))]


def _oval(x: float, y: float, across: float, down: float, tilt: float = 0.0) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    u, v = across * np.cos(t), down * np.sin(t)
    return np.stack(
        [x + u * np.cos(tilt) - v * np.sin(tilt), y + u * np.sin(tilt) + v * np.cos(tilt)], axis=1
    )


def _stroke(line: list[tuple[float, float]], start: float, end: float) -> np.ndarray:
    """Return the outline of a thick curve through three control points (a quadratic Bezier)."""
    a, b, c = np.asarray(line, float)
    t = np.linspace(0, 1, 16)[:, None]
    curve = (1 - t) ** 2 * a + 2 * t * (1 - t) * b + t**2 * c
    slope = 2 * (1 - t) * (b - a) + 2 * t * (c - b)
    normal = np.stack([-slope[:, 1], slope[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True)
    half = (start + (end - start) * t) / 2
    return np.concatenate([curve + half * normal, (curve - half * normal)[::-1]])


def _tail(kind: str, torso: np.ndarray) -> np.ndarray:
    x, y = _towards(torso, np.pi - 0.15) * 0.93
    if kind == "stub":
        return _oval(x - 0.08, y, 0.2, 0.18)
    if kind == "point":
        return np.array([[x + 0.15, y - 0.2], [x - 0.4, y - 0.16], [x + 0.15, y + 0.2]])
    return _stroke([(x + 0.1, y), (x - 0.45, y + 0.1), (x - 0.35, y - 0.42)], 0.24, 0.07)


def _foot(torso: np.ndarray, x: float) -> np.ndarray:
    below = torso[torso[:, 1] > 0]
    y = below[np.argmin(np.abs(below[:, 0] - x)), 1]
    return _oval(x + 0.04, y, 0.17, 0.15)


def _eye(x: float, y: float, radius: float) -> list[Patch]:
    return [
        Patch(_oval(x, y, radius, radius), WHITE),
        Patch(_oval(x + 0.3 * radius, y, 0.55 * radius, 0.6 * radius), INK, edged=False),
    ]


def _snail() -> list[Patch]:
    skin: Colour = (0.96, 0.87, 0.36)
    stalks = [
        Patch(_stroke([(-0.2, -0.3), (-0.45, -1.0), (-0.35, -1.6)], 0.30, 0.22), skin),
        Patch(_stroke([(0.3, -0.3), (0.6, -1.0), (0.75, -1.5)], 0.30, 0.22), skin),
    ]
    face = Patch(_oval(0, 0, 1.0, 0.88), skin)
    smile = Patch(_stroke([(0.1, 0.35), (0.45, 0.62), (0.75, 0.2)], 0.12, 0.08), INK, edged=False)
    cheek = Patch(_oval(0.1, 0.12, 0.2, 0.16), PINK, edged=False)
    return [*stalks, face, smile, cheek, *_eye(-0.35, -1.65, 0.33), *_eye(0.78, -1.55, 0.33)]


def _beetle() -> list[Patch]:
    shell: Colour = (0.17, 0.20, 0.33)
    horns = [
        Patch(_stroke([(0.3, -0.5), (1.3, -1.5), (1.9, -0.5)], 0.50, 0.10), shell),
        Patch(_stroke([(0.5, 0.3), (1.5, 0.8), (1.9, -0.1)], 0.46, 0.10), shell),
    ]
    shine = Patch(_oval(-0.25, -0.45, 0.36, 0.14, -0.5), (0.47, 0.53, 0.72), edged=False)
    return [*horns, Patch(_oval(0, 0, 1.0, 0.92), shell), shine, *_eye(0.5, -0.18, 0.26)]


def _robin() -> list[Patch]:
    red: Colour = (0.84, 0.20, 0.18)
    tuft = [
        Patch(_stroke([(0.1, -0.7), (0.0, -1.1), (-0.7, -1.35)], 0.40, 0.06), red),
        Patch(_stroke([(0.25, -0.7), (0.3, -1.2), (-0.1, -1.6)], 0.36, 0.06), red),
    ]
    beak = Patch(np.array([[0.7, -0.35], [1.75, 0.12], [0.65, 0.42]]), (0.98, 0.74, 0.20))
    return [*tuft, beak, Patch(_oval(0, 0, 1.0, 0.97), red), *_eye(0.35, -0.25, 0.3)]


def _rabbit() -> list[Patch]:
    fur: Colour = (0.97, 0.95, 0.91)
    ears = []
    for x, tilt in ((-0.55, -0.42), (0.25, -0.02)):
        lean = 1.25 * np.sin(tilt)
        ears.append(Patch(_oval(x + lean, -1.45, 0.36, 1.05, tilt), fur))
        ears.append(Patch(_oval(x + lean, -1.4, 0.18, 0.75, tilt), PINK, edged=False))
    nose = Patch(_oval(0.85, 0.1, 0.17, 0.13), PINK, edged=False)
    cheek = Patch(_oval(0.2, 0.35, 0.22, 0.17), (0.98, 0.82, 0.80), edged=False)
    eye = Patch(_oval(0.4, -0.2, 0.16, 0.2), INK, edged=False)
    return [*ears, Patch(_oval(0, 0, 1.0, 0.92), fur), cheek, nose, eye]


def _frog() -> list[Patch]:
    green: Colour = (0.42, 0.76, 0.26)
    bumps = [Patch(_oval(x, -0.72, 0.48, 0.46), green) for x in (-0.5, 0.55)]
    face = Patch(_oval(0.05, 0.1, 1.2, 0.86), green)
    mouth = Patch(_stroke([(-0.6, 0.25), (0.2, 0.85), (1.0, 0.15)], 0.1, 0.1), INK, edged=False)
    return [*bumps, face, mouth, *_eye(-0.5, -0.75, 0.32), *_eye(0.55, -0.75, 0.32)]


def _mouse() -> list[Patch]:
    grey: Colour = (0.56, 0.59, 0.67)
    ears = []
    for x, y in ((0.4, -1.0), (-0.6, -0.85)):
        ears.append(Patch(_oval(x, y, 0.68, 0.7), grey))
        ears.append(Patch(_oval(x, y, 0.45, 0.47), PINK, edged=False))
    t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
    # The face narrows to a snout.
    face = np.stack([1.15 * np.cos(t) + 0.15, 0.9 * np.sin(t) * (1 - 0.35 * np.cos(t))], axis=1)
    nose = Patch(_oval(1.3, 0.02, 0.2, 0.19), (0.86, 0.38, 0.46))
    eye = Patch(_oval(0.45, -0.18, 0.15, 0.19), INK, edged=False)
    return [*ears, Patch(face, grey), nose, eye]


# Class name -> patches of its head in units of the head's radius, around the head's centre.
HEADS = {
    "snail": _snail,
    "beetle": _beetle,
    "robin": _robin,
    "rabbit": _rabbit,
    "frog": _frog,
    "mouse": _mouse,
}
