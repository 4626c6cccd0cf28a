"""English for scenes: varied captions, and prompts for the combinations that are held out.

Every caption of one shape names its colour, kind and background; some also name size or place.
Where there is a label, captions name its word, and at most the background beside it.
Colours, kinds and backgrounds have one word each, and no word means two of them, so that the words
of a caption tell what it can be about without a parser.
"""

import re

import numpy as np

from pipeline.demo.shapes import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    SIZES,
    Combination,
    Scene,
    Shape,
    any_held_out,
    held_out_combinations,
)
from pipeline.draws import generator

SINGLE_TEMPLATES = (
    "a {colour} {kind} on a {background} background",
    "a {size} {colour} {kind}, {background} backdrop",
    "{colour} {kind} on {background}",
    "picture of a {colour} {kind} against a {background} background",
    "a {size} {colour} {kind} on a {background} background",
    "a {kind} in {colour} over plain {background}",
    "{background} background with a {colour} {kind} {place}",
    "one {size} {colour} {kind} {place} of a {background} picture",
)
PAIR_TEMPLATES = (
    "a {first} {relation} a {second} on a {background} background",
    "a {sized_first} {relation} a {sized_second}, {background} backdrop",
    "{first} {relation} {second} on {background}",
    "a {first} and a {second} against a {background} background",
    "{background} picture of a {first} {relation} a {sized_second}",
    "two shapes on {background}: a {first} and a {second}",
)
LETTERED_TEMPLATES = (
    "{word}",
    "the word {word}",
    "a sign that says {word}",
    "{word} on {background}",
    "a {word} sign on a {background} background",
    "the word {word} on a {background} background",
    "a label with {word} on it, {background} backdrop",
    "picture of the word {word} against a {background} background",
)
BOILERPLATE = ("click to enlarge", "image may be subject to copyright", "photo loading please wait")
WALLPAPERS = (
    "desktop wallpaper {number}",
    "free wallpaper of shapes {number}",
    "wallpaper {number} for your phone",
    "hd wallpaper no {number}",
)
_WORD = re.compile(r"[a-z]+")


def caption(scene: Scene, rng: np.random.Generator) -> str:
    """Describe a scene in one of several ways, drawn from ``rng``."""
    if scene.label is not None:
        return _lettered(scene.label.word, scene.background, rng)
    if len(scene.shapes) == 1:
        return _single(scene.shapes[0], scene.background, rng)
    first, second = scene.shapes
    template = PAIR_TEMPLATES[int(rng.integers(len(PAIR_TEMPLATES)))]
    text = template.format(
        first=f"{first.colour} {first.kind}",
        second=f"{second.colour} {second.kind}",
        sized_first=f"{first.size} {first.colour} {first.kind}",
        sized_second=f"{second.size} {second.colour} {second.kind}",
        relation=_relation(first, second),
        background=scene.background,
    )
    return _articles(text)


def _single(shape: Shape, background: str, rng: np.random.Generator) -> str:
    template = SINGLE_TEMPLATES[int(rng.integers(len(SINGLE_TEMPLATES)))]
    return _filled(template, shape, background)


def _lettered(word: str, background: str, rng: np.random.Generator) -> str:
    """As on the web: what is written, not what lies below it."""
    template = LETTERED_TEMPLATES[int(rng.integers(len(LETTERED_TEMPLATES)))]
    return _articles(template.format(word=word, background=background))


def _filled(template: str, shape: Shape, background: str) -> str:
    text = template.format(
        colour=shape.colour,
        kind=shape.kind,
        size=shape.size,
        background=background,
        place=place(shape),
    )
    return _articles(text)


def _articles(text: str) -> str:
    return text.replace("a orange", "an orange")


def place(shape: Shape) -> str:
    """Where a shape lies, in words: one of nine fields of the picture."""
    vertical = _third(shape.y, "top", "bottom")
    horizontal = _third(shape.x, "left", "right")
    if vertical or horizontal:
        return "at the " + " ".join(word for word in (vertical, horizontal) if word)
    return "in the middle"


def _third(value: float, low: str, high: str) -> str:
    return low if value < 0.4 else high if value > 0.6 else ""


def _relation(first: Shape, second: Shape) -> str:
    right, down = second.x - first.x, second.y - first.y
    if abs(right) > abs(down):
        return "left of" if right > 0 else "right of"
    return "above" if down > 0 else "below"


def named(text: str) -> tuple[set[str], set[str], set[str]]:
    """The colours, kinds and backgrounds among the words of a text."""
    words = set(_WORD.findall(text.lower()))
    return words & set(COLOURS), words & set(KINDS), words & set(BACKGROUNDS)


def reworded(text: str, old: str, new: str) -> str:
    """A caption with one of its words changed, article and all."""
    changed = re.sub(rf"\b{old}\b", new, text)
    return _articles(re.sub(r"\ban (?!orange)", "a ", changed))


def mentions_held_out(text: str) -> bool:
    """Whether a text names a colour, a kind and a background that are held out together.

    Words alone are compared, so a caption with a red circle and a green square also counts as
    naming a red square: the test errs on the strict side.
    """
    colours, kinds, backgrounds = named(text)
    return any(any_held_out(colours, kinds, background) for background in backgrounds)


def held_out_prompts(num: int, seed: int) -> list[tuple[str, Combination]]:
    """Distinct prompts of one shape for held-out combinations, each combination equally often.

    The English is that of the training captions.

    Raises:
        ValueError: More prompts are wanted than this English can tell apart.
    """
    prompts: list[tuple[str, Combination]] = []
    queues = [_prompts_of(each, seed) for each in held_out_combinations()]
    for position in range(num):
        queue = queues[position % len(queues)]
        if not queue:
            raise ValueError(f"{num} held-out prompts: only {position} distinct ones exist")
        prompts.append((queue.pop(), held_out_combinations()[position % len(queues)]))
    return prompts


def _prompts_of(combination: Combination, seed: int) -> list[str]:
    """All prompts for one combination, templates in turn, else in an order drawn from the seed."""
    thirds = (0.25, 0.5, 0.75)
    shapes = [
        Shape(combination.colour, combination.kind, size, x, y)
        for size in SIZES
        for x in thirds
        for y in thirds
    ]
    rng = generator(seed, "held_out_prompts/" + "/".join(combination), 0)
    ranked = []
    for template in SINGLE_TEMPLATES:
        texts = sorted({_filled(template, shape, combination.background) for shape in shapes})
        rng.shuffle(texts)
        ranked += [(rank, float(rng.random()), text) for rank, text in enumerate(texts)]
    return [text for _, _, text in sorted(ranked, reverse=True)]
