"""Pictures of coloured shapes: what may be drawn, what is held out, and how it is drawn.

A scene is one or two shapes on a background; where a web has letters, a label with a word lies on
some of them, or on a mere background. Sixteen of the 128 combinations of colour, kind and
background are *held out*: no training picture and no training caption holds one, so that a model
that draws them has composed what it knows.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from pipeline.images.lettering import LABEL_SHARE, Label, draw_label

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (215, 28, 32),
    "green": (24, 140, 44),
    "blue": (32, 60, 210),
    "yellow": (235, 215, 25),
    "purple": (140, 42, 178),
    "orange": (240, 125, 15),
    "cyan": (45, 200, 220),
    "pink": (240, 125, 190),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "grey": (132, 132, 132),
    "white": (240, 240, 240),
    "black": (18, 18, 18),
    "brown": (100, 66, 38),
}
KINDS = ("circle", "square", "triangle", "star")
SIZES: dict[str, float] = {"small": 0.14, "medium": 0.20, "large": 0.28}

NATIVE_PX = 320
_MARGIN = 0.02
_GAP = 0.03
_OUTLINE = 0.012
_OUTLINE_SHADE = 0.55
_STRIPE = 0.08
_STRIPE_PERIOD = 0.25
_SUPERSAMPLE = 2
_LABEL_REACH = (0.08, 0.12)
_LABEL_SCALES = (0.85, 1.15)


class Combination(NamedTuple):
    """What the oracle reads back from a picture."""

    colour: str
    kind: str
    background: str


@dataclass(frozen=True)
class Shape:
    """One coloured shape; its centroid lies at ``x``, ``y``, in fractions of the side."""

    colour: str
    kind: str
    size: str
    x: float
    y: float


@dataclass(frozen=True)
class Scene:
    """Shapes on a background, lit from direction ``light`` (radians), below a label or none."""

    background: str
    shapes: tuple[Shape, ...]
    light: float
    label: Label | None = None

    @property
    def combinations(self) -> tuple[Combination, ...]:
        """Colour, kind and background of every shape."""
        return tuple(Combination(s.colour, s.kind, self.background) for s in self.shapes)


@cache
def held_out_combinations() -> tuple[Combination, ...]:
    """The 16 combinations that no training picture or caption holds.

    Every colour occurs twice, every kind and every background four times, and every pair of kind
    and background once.
    """
    colours, backgrounds = tuple(COLOURS), tuple(BACKGROUNDS)
    combinations = []
    for index, colour in enumerate(colours):
        for turn in range(2):
            kind = (index + 2 * turn) % len(KINDS)
            background = (kind + 2 * (index // 4) + turn) % len(backgrounds)
            combinations.append(Combination(colour, KINDS[kind], backgrounds[background]))
    return tuple(combinations)


@cache
def held_out(colour: str, kind: str, background: str) -> bool:
    """Whether this combination is kept away from training."""
    return Combination(colour, kind, background) in held_out_combinations()


def any_held_out(colours: Iterable[str], kinds: Iterable[str], background: str) -> bool:
    """Whether any colour together with any kind is held out on this background."""
    kinds = tuple(kinds)
    return any(held_out(colour, kind, background) for colour in colours for kind in kinds)


def random_scene(rng: np.random.Generator) -> Scene:
    """Draw a training scene: one shape (two thirds) or two, without any held-out combination.

    With two shapes, neither colour makes a held-out combination with either kind, so that not even
    the *words* of its caption hold one.
    """
    while True:
        background = _pick(rng, tuple(BACKGROUNDS))
        num_shapes = 1 if rng.random() < 2 / 3 else 2
        looks = [(_pick(rng, tuple(COLOURS)), _pick(rng, KINDS)) for _ in range(num_shapes)]
        if any_held_out({c for c, _ in looks}, {k for _, k in looks}, background):
            continue
        shapes = _place_one(rng, looks[0]) if num_shapes == 1 else _place_two(rng, looks)
        if shapes:
            return Scene(background, shapes, round(float(rng.uniform(0, 2 * math.pi)), 3))


def single_scene(combination: Combination, rng: np.random.Generator) -> Scene:
    """A scene with one shape of a given combination, held out or not; size and place are drawn."""
    shapes = _place_one(rng, (combination.colour, combination.kind))
    return Scene(combination.background, shapes, round(float(rng.uniform(0, 2 * math.pi)), 3))


def lettered(scene: Scene, rng: np.random.Generator) -> Scene:
    """The scene, or in half of the draws its background alone, under a label with a word.

    Labels lie about the middle. No word makes a held-out combination with what is below it.
    """
    shapes = scene.shapes if rng.random() < 0.5 else ()
    colours, kinds = {shape.colour for shape in shapes}, {shape.kind for shape in shapes}
    words = tuple(
        word
        for word in (*COLOURS, *KINDS)
        if not any_held_out(colours | {word}, kinds | {word}, scene.background)
    )
    word = _pick(rng, words)
    x, y = (0.5 + rng.uniform(-reach, reach) for reach in _LABEL_REACH)
    height = LABEL_SHARE * rng.uniform(*_LABEL_SCALES)
    label = Label(word, *(round(float(value), 3) for value in (x, y, height)))
    return replace(scene, shapes=shapes, label=label)


def _pick(rng: np.random.Generator, names: tuple[str, ...]) -> str:
    return names[int(rng.integers(len(names)))]


def _place_one(rng: np.random.Generator, look: tuple[str, str]) -> tuple[Shape, ...]:
    size = _pick(rng, tuple(SIZES))
    left, top, right, bottom = extent(look[1], size)
    x = rng.uniform(_MARGIN - left, 1 - _MARGIN - right)
    y = rng.uniform(_MARGIN - top, 1 - _MARGIN - bottom)
    return (Shape(*look, size, round(float(x), 3), round(float(y), 3)),)


def _place_two(rng: np.random.Generator, looks: list[tuple[str, str]]) -> tuple[Shape, ...]:
    """Place two shapes side by side or one above the other; nothing where they do not fit."""
    sizes = [_pick(rng, ("small", "medium")) for _ in looks]
    boxes = [extent(kind, size) for (_, kind), size in zip(looks, sizes, strict=True)]
    axis = int(rng.integers(2))
    needs = [box[axis + 2] - box[axis] for box in boxes]
    slack = 1 - 2 * _MARGIN - _GAP - sum(needs)
    if looks[0] == looks[1] or slack < 0:
        return ()
    before = rng.uniform(0, slack)
    between = rng.uniform(0, slack - before)
    first = _MARGIN + before - boxes[0][axis]
    second = _MARGIN + before + needs[0] + _GAP + between - boxes[1][axis]
    cross = rng.uniform(0.36, 0.64) + rng.uniform(-0.06, 0.06, size=2)
    along = [(first, cross[0]), (second, cross[1])]
    points = along if axis == 0 else [(y, x) for x, y in along]
    shapes = [
        Shape(*look, size, round(float(x), 3), round(float(y), 3))
        for look, size, (x, y) in zip(looks, sizes, points, strict=True)
    ]
    return tuple(shapes if rng.random() < 0.5 else reversed(shapes))


@cache
def _unit_polygon(kind: str) -> tuple[tuple[float, float], ...]:
    """Corners about the centroid for size 1, scaled so that all kinds look equally large."""
    if kind == "square":
        return ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9))
    if kind == "triangle":
        return _ring([1.3] * 3)
    return _ring([1.25, 0.6] * 5)


def _ring(radii: list[float]) -> tuple[tuple[float, float], ...]:
    angles = [2 * math.pi * i / len(radii) - math.pi / 2 for i in range(len(radii))]
    return tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True))


@cache
def extent(kind: str, size: str) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a shape about its centre, in fractions of the side."""
    if kind == "circle":
        return (-SIZES[size], -SIZES[size], SIZES[size], SIZES[size])
    xs, ys = zip(*_unit_polygon(kind), strict=True)
    return (*(SIZES[size] * min(v) for v in (xs, ys)), *(SIZES[size] * max(v) for v in (xs, ys)))


def render(scene: Scene, side_px: int = NATIVE_PX) -> Image.Image:
    """Draw a scene as a square RGB picture; the same bytes for the same scene.

    Shapes have a thin darker outline and faint bands, backgrounds a soft light and a faint weave,
    so that every upsampler has detail to learn. Sides below 320 px are shrunk from 320 px.
    """
    if side_px < NATIVE_PX:
        return render(scene).resize((side_px, side_px), Image.Resampling.BICUBIC)
    canvas = _background(scene.background, scene.light, side_px)
    for shape in scene.shapes:
        _draw(canvas, shape, side_px)
    if scene.label is not None:
        draw_label(canvas, scene.label)
    return canvas


def _background(name: str, light: float, side_px: int) -> Image.Image:
    steps = np.linspace(-1, 1, side_px, dtype=np.float32)
    towards = steps[None, :] * np.float32(math.cos(light)) + steps[:, None] * np.float32(
        math.sin(light)
    )
    shade = 5 * towards + 3 * np.sin(np.float32(16 * math.pi) * towards)
    levels = Image.fromarray((shade + 128.5).astype(np.uint8))
    bands = [levels.point(_shifted(value)) for value in BACKGROUNDS[name]]
    return Image.merge("RGB", bands)


@cache
def _shifted(value: int) -> list[int]:
    """The table that turns a shade around 128 into the same shade around ``value``."""
    return [min(255, max(0, value + level - 128)) for level in range(256)]


def _draw(canvas: Image.Image, shape: Shape, side_px: int) -> None:
    """Paint the outline, then the banded inside, through anti-aliased masks of the bounding box."""
    left, top, right, bottom = extent(shape.kind, shape.size)
    x0, y0 = math.floor((shape.x + left) * side_px) - 1, math.floor((shape.y + top) * side_px) - 1
    x1, y1 = math.ceil((shape.x + right) * side_px) + 1, math.ceil((shape.y + bottom) * side_px) + 1
    size = (x1 - x0, y1 - y0)
    centre = (shape.x * side_px - x0, shape.y * side_px - y0)
    radius = SIZES[shape.size] * side_px
    colour = np.array(COLOURS[shape.colour], dtype=np.float32)
    dark = tuple(int(value) for value in colour * _OUTLINE_SHADE)
    canvas.paste(dark, (x0, y0, x1, y1), shape_mask(shape.kind, size, centre, radius))
    inner = shape_mask(shape.kind, size, centre, radius - _OUTLINE * side_px)
    canvas.paste(_banded(colour, size, centre[1], radius), (x0, y0), inner)


def shape_mask(
    kind: str, size: tuple[int, int], centre: tuple[float, float], radius: float
) -> Image.Image:
    """An anti-aliased mask (mode L) of one shape.

    Args:
        kind: One of ``KINDS``.
        size: Width and height of the mask, px.
        centre: Where the centroid lies, px from the mask's top left corner.
        radius: The shape's size, px.
    """
    zoom = _SUPERSAMPLE
    mask = Image.new("L", (size[0] * zoom, size[1] * zoom), 0)
    pen = ImageDraw.Draw(mask)
    x, y, radius = centre[0] * zoom, centre[1] * zoom, radius * zoom
    if kind == "circle":
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    else:
        pen.polygon([(x + radius * u, y + radius * v) for u, v in _unit_polygon(kind)], fill=255)
    return mask.reduce(zoom)


def _banded(
    colour: Float[np.ndarray, " rgb"], size: tuple[int, int], centre_y: float, radius: float
) -> Image.Image:
    rows = (np.arange(size[1], dtype=np.float32) - np.float32(centre_y)) / np.float32(radius)
    light = 1 + _STRIPE * np.sin(np.float32(2 * math.pi / _STRIPE_PERIOD) * rows)
    column = np.clip(light[:, None] * colour, 0, 255).astype(np.uint8)
    return Image.fromarray(np.repeat(column[:, None], size[0], axis=1))
