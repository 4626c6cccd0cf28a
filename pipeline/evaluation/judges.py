"""Who reads a picture: a protocol for judges, and how far a judge can be trusted.

A judge is blind to the prompt. It names what it sees per attribute, or None where it sees none.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

Reading = Mapping[str, str | None]
"""Value per attribute, such as ``{"colour": "red", "kind": None, "background": "grey"}``."""

NONE_LABEL = "none"


@runtime_checkable
class Judge(Protocol):
    """Reads attributes from a picture without knowing what was asked for."""

    def __call__(self, picture: Image.Image) -> Reading:
        """The value of each attribute, or None where the picture shows none."""
        ...


@dataclass(frozen=True)
class KnownPicture:
    """A picture whose content is certain, by which a judge is tested."""

    picture: Image.Image
    truth: Reading
    """The right reading; ``none`` where the picture shows nothing; None where it is not asked."""


@dataclass(frozen=True)
class TestedJudge:
    """A judge together with the pictures that show how far it can be trusted."""

    __test__ = False  # not a test class of pytest

    read: Judge
    """Must survive pickling: it reads in Ray tasks."""
    known: Iterable[KnownPicture]
    """At least 200 pictures of certain content; read once."""


@dataclass(frozen=True)
class Confusion:
    """How often each true value was read as each value."""

    attribute: str
    truths: tuple[str, ...]
    """Row labels: true values."""
    readings: tuple[str, ...]
    """Column labels: values that were read, ``none`` last."""
    counts: tuple[tuple[int, ...], ...]
    """Pictures per true value and reading."""

    @property
    def num_right(self) -> int:
        """Pictures read as what they are."""
        places = {label: column for column, label in enumerate(self.readings)}
        return sum(
            row[places[truth]]
            for truth, row in zip(self.truths, self.counts, strict=True)
            if truth in places
        )

    @property
    def num(self) -> int:
        """All pictures."""
        return sum(map(sum, self.counts))


def confusion(attribute: str, pairs: Iterable[tuple[str, str | None]]) -> Confusion:
    """Count (truth, reading) pairs; labels in alphabetical order, ``none`` last."""
    counted: dict[tuple[str, str], int] = {}
    for truth, reading in pairs:
        cell = (truth, NONE_LABEL if reading is None else reading)
        counted[cell] = counted.get(cell, 0) + 1
    truths = tuple(sorted({truth for truth, _ in counted}))
    seen = {reading for _, reading in counted} | set(truths)
    readings = (*sorted(seen - {NONE_LABEL}), NONE_LABEL)
    counts = tuple(tuple(counted.get((t, r), 0) for r in readings) for t in truths)
    return Confusion(attribute, truths, readings, counts)


def judge_confusions(judge: Judge, known: Iterable[KnownPicture]) -> dict[str, Confusion]:
    """The judge's confusion matrix per attribute on pictures whose content is certain."""
    pairs: dict[str, list[tuple[str, str | None]]] = {}
    for example in known:
        reading = judge(example.picture)
        for attribute, truth in example.truth.items():
            if truth is not None:
                pairs.setdefault(attribute, []).append((truth, reading.get(attribute)))
    return {attribute: confusion(attribute, found) for attribute, found in pairs.items()}
