"""Pictures whose right reading is known, and what the oracle makes of them.

A judge is only worth its confusion matrix: clean renderings of every combination, held out or not,
and damaged pictures on which the right answer is "none".
"""

import itertools
from collections import Counter
from collections.abc import Callable

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from pipeline.demo.oracle import NONE, read
from pipeline.demo.shapes import BACKGROUNDS, COLOURS, KINDS, Combination, render, single_scene
from pipeline.draws import generator

Confusion = dict[str, dict[str, dict[str, int]]]
"""Field → truth → reading → number of pictures."""

ALL_COMBINATIONS = tuple(
    Combination(*names) for names in itertools.product(COLOURS, KINDS, BACKGROUNDS)
)


def clean(index: int, side_px: int, seed: int) -> tuple[Combination, Image.Image]:
    """A rendering of one shape; 128 indices in a row go through every combination once."""
    combination = ALL_COMBINATIONS[index % len(ALL_COMBINATIONS)]
    rng = generator(seed, "known/clean", index)
    return combination, render(single_scene(combination, rng), side_px)


def damaged(index: int, side_px: int, seed: int) -> tuple[str, Image.Image]:
    """A picture that shows no shape, and how it was made; the ways follow each other."""
    name, way = list(DAMAGE.items())[index % len(DAMAGE)]
    return name, way(side_px, generator(seed, "known/damaged", index))


def _blank(side_px: int, rng: np.random.Generator) -> Image.Image:
    names = [*BACKGROUNDS.values(), *COLOURS.values()]
    return Image.new("RGB", (side_px, side_px), names[int(rng.integers(len(names)))])


def _uniform(side_px: int, rng: np.random.Generator) -> Image.Image:
    red, green, blue = (int(value) for value in rng.integers(0, 256, size=3))
    return Image.new("RGB", (side_px, side_px), (red, green, blue))


def _gradient(side_px: int, rng: np.random.Generator) -> Image.Image:
    ends = rng.uniform(0, 255, size=(2, 3))
    angle = rng.uniform(0, 2 * np.pi)
    steps = np.linspace(-0.5, 0.5, side_px)
    along = steps[:, None] * np.sin(angle) + steps[None] * np.cos(angle)
    mix = np.clip(along / np.sqrt(2) + 0.5, 0, 1)[..., None]
    return _picture(ends[0] * mix + ends[1] * (1 - mix))


def _pixel_noise(side_px: int, rng: np.random.Generator) -> Image.Image:
    return _picture(rng.uniform(0, 255, size=(side_px, side_px, 3)))


def _grey_noise(side_px: int, rng: np.random.Generator) -> Image.Image:
    level, spread = rng.uniform(60, 200), rng.uniform(20, 80)
    return _picture(rng.normal(level, spread, size=(side_px, side_px, 3)))


def _coarse_noise(side_px: int, rng: np.random.Generator) -> Image.Image:
    cells = int(rng.integers(3, 13))
    small = _picture(rng.uniform(0, 255, size=(cells, cells, 3)))
    filters = (Image.Resampling.NEAREST, Image.Resampling.BICUBIC)
    return small.resize((side_px, side_px), filters[int(rng.integers(2))])


def _blurred(side_px: int, rng: np.random.Generator) -> Image.Image:
    radius = rng.uniform(0.12, 0.25) * side_px
    return _drawn(side_px, rng).filter(ImageFilter.GaussianBlur(radius))


def _smeared_down(side_px: int, rng: np.random.Generator) -> Image.Image:
    """Every column is averaged over a window of at least two thirds of the side."""
    pixels = np.asarray(_drawn(side_px, rng), dtype=np.float64)
    window = int(rng.uniform(0.67, 1.0) * side_px)
    padded = np.pad(pixels, ((window // 2, window - window // 2), (0, 0), (0, 0)), mode="edge")
    sums = np.cumsum(padded, axis=0)
    return _picture((sums[window:] - sums[:-window]) / window)


def _smeared_across(side_px: int, rng: np.random.Generator) -> Image.Image:
    return _smeared_down(side_px, rng).transpose(Image.Transpose.TRANSPOSE)


def _drawn(side_px: int, rng: np.random.Generator) -> Image.Image:
    combination = ALL_COMBINATIONS[int(rng.integers(len(ALL_COMBINATIONS)))]
    return render(single_scene(combination, rng), side_px)


def _picture(pixels: np.ndarray) -> Image.Image:
    rounded: UInt8[np.ndarray, " height width rgb"] = np.clip(pixels, 0, 255).astype(np.uint8)
    return Image.fromarray(rounded)


DAMAGE: dict[str, Callable[[int, np.random.Generator], Image.Image]] = {
    "blank": _blank,
    "uniform": _uniform,
    "gradient": _gradient,
    "pixel_noise": _pixel_noise,
    "grey_noise": _grey_noise,
    "coarse_noise": _coarse_noise,
    "blurred": _blurred,
    "smeared_down": _smeared_down,
    "smeared_across": _smeared_across,
}
"""Ways to make a picture without a shape."""


def confusion_matrix(num: int, side_px: int, seed: int) -> Confusion:
    """Let the oracle read ``num`` clean and half as many damaged pictures.

    Args:
        num: Clean pictures; 256 show every combination twice.
        side_px: Side of the pictures.
        seed: Decides sizes, places and damages.
    """
    counts: dict[str, Counter[tuple[str, str]]] = {
        field: Counter() for field in Combination._fields
    }
    nothing = Combination(NONE, NONE, NONE)
    known = [clean(index, side_px, seed) for index in range(num)]
    known += [(nothing, damaged(index, side_px, seed)[1]) for index in range(num // 2)]
    for truth, picture in known:
        reading = read(picture)
        for field in Combination._fields:
            counts[field][getattr(truth, field), getattr(reading, field) or NONE] += 1
    return {field: _nested(counter) for field, counter in counts.items()}


def _nested(counter: "Counter[tuple[str, str]]") -> dict[str, dict[str, int]]:
    rows: dict[str, dict[str, int]] = {}
    for (truth, reading), count in sorted(counter.items()):
        rows.setdefault(truth, {})[reading] = count
    return rows


def accuracy(confusion: Confusion, field: str) -> float:
    """The fraction of pictures with a shape whose ``field`` was read right."""
    rows = {truth: row for truth, row in confusion[field].items() if truth != NONE}
    right = sum(row.get(truth, 0) for truth, row in rows.items())
    return right / sum(sum(row.values()) for row in rows.values())
