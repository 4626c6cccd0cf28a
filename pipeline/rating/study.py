"""Which pictures a rater compares, in which order and on which side.

Source: paper §5.2 and Table 1 (photorealism, caption match, diversity of 4 × 4 grids).
"""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageOps

from pipeline import draws
from pipeline.errors import ConfigError
from pipeline.rating.config import GRID_SIDE, Question, StudyConfig
from pipeline.rating.systems import Pair, paired, read_system

Which = Literal["first", "second"]
MAX_SIDE_PX = 1024
PER_GRID = GRID_SIDE**2


@dataclass(frozen=True)
class Item:
    """What is shown for one comparison."""

    question: Question
    number: int
    caption: str
    """Shown with the question about captions alone."""
    first: bytes
    second: bytes
    """PNG files of equal size, without any text inside."""


@dataclass(frozen=True)
class Place:
    """One comparison of one rater."""

    question: Question
    number: int
    left: Which
    """The system on the left side."""


def items(config: StudyConfig) -> Iterator[Item]:
    """Read both systems and prepare everything that will be shown.

    Raises:
        ConfigError: The systems have too little in common for a question.
        DataError: A picture cannot be read.
    """
    first, second = read_system(config.first), read_system(config.second)
    pairs = paired(first, second)
    chosen: dict[Question, list[list[Pair]]] = {
        question: _chosen(question, pairs, config) for question in config.questions
    }
    for question, groups in chosen.items():
        ours = first.files({pair.first for group in groups for pair in group})
        theirs = second.files({pair.second for group in groups for pair in group})
        for number, group in enumerate(groups):
            a = [first.opened(pair.first, ours[pair.first]) for pair in group]
            b = [second.opened(pair.second, theirs[pair.second]) for pair in group]
            # The smaller pictures are enlarged: their size must not tell whose they are.
            side = max(min(image.size) for image in (*a, *b))
            yield Item(question, number, group[0].caption or "", _shown(a, side), _shown(b, side))


def _chosen(question: Question, pairs: Sequence[Pair], config: StudyConfig) -> list[list[Pair]]:
    """Groups of pairs: 16 of one caption for a grid, else one alone."""
    if question == "photorealism":
        groups = [[pair] for pair in pairs]
    elif question == "caption":
        groups = [[pair] for pair in pairs if pair.caption is not None]
    else:
        groups = _grids(pairs)
    if not groups:
        raise ConfigError(_too_little(question, config))
    order = draws.generator(config.seed, f"rating {question}", 0).permutation(len(groups))
    return [groups[place] for place in order[: config.num_comparisons]]


def _grids(pairs: Sequence[Pair]) -> list[list[Pair]]:
    by_caption: dict[str, list[Pair]] = {}
    for pair in pairs:
        if pair.caption is not None:
            by_caption.setdefault(pair.caption, []).append(pair)
    return [
        found[start : start + PER_GRID]
        for found in by_caption.values()
        for start in range(0, len(found) - PER_GRID + 1, PER_GRID)
    ]


def _too_little(question: Question, config: StudyConfig) -> str:
    others = [name for name in config.questions if name != question]
    needed = "captions (a text file beside each picture)"
    if question == "diversity":
        needed = f"{PER_GRID} pictures of one caption in both systems (more num_pictures)"
    return (
        f"{config.first} and {config.second}: the question {question} needs {needed}; leave it "
        f"out{f' with --question {others[0]}' if others else ''}"
    )


def _shown(images: Sequence[Image.Image], side: int) -> bytes:
    """One picture, or a grid of them, no larger than ``MAX_SIDE_PX``, as a bare PNG."""
    per_row = round(len(images) ** 0.5)
    gap = 0 if per_row == 1 else 2
    tile = min(side, MAX_SIDE_PX // per_row)
    extent = per_row * (tile + gap) - gap
    canvas = Image.new("RGB", (extent, extent), "white")
    for place, image in enumerate(images):
        row, column = divmod(place, per_row)
        square = ImageOps.fit(image, (tile, tile), Image.Resampling.BICUBIC)
        canvas.paste(square, (column * (tile + gap), row * (tile + gap)))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


def places(config: StudyConfig, sizes: Mapping[Question, int], rater: str) -> list[Place]:
    """All comparisons of one rater: question after question, in an order of their own.

    Args:
        config: The study; its seed fixes order and sides.
        sizes: Comparisons per question.
        rater: Name of the rater, who sees the same order whenever they come back.
    """
    return [
        Place(question, int(number), _left(config.seed, rater, question, int(number)))
        for question in config.questions
        for number in draws.generator(
            config.seed, f"rating order of {rater}, {question}", 0
        ).permutation(sizes[question])
    ]


def _left(seed: int, rater: str, question: Question, number: int) -> Which:
    is_first = draws.hash64(seed, "rating side", rater, question, number) & 1
    return "first" if is_first else "second"
