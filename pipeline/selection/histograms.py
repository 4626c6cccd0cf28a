"""Histograms of score columns, and the threshold that keeps a share of the samples.

A histogram has 1,000 equal bins between the lowest and the highest value of its column. It is made
once, when samples are scored; thresholds can then be tried without reading a score.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int

NUM_BINS = 1000


def extent(values: Float[np.ndarray, " row"]) -> dict[str, Any]:
    """Lowest and highest finite value of a part of a column, None where it has none."""
    finite = values[np.isfinite(values)]
    if not len(finite):
        return {"min": None, "max": None}
    return {"min": float(finite.min()), "max": float(finite.max())}


def merge_extents(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The extent of all parts together."""
    known = [part for part in parts if part["min"] is not None]
    if not known:
        return {"min": None, "max": None}
    return {"min": min(part["min"] for part in known), "max": max(part["max"] for part in known)}


def bins(values: Float[np.ndarray, " row"], span: Mapping[str, Any]) -> Int[np.ndarray, " row"]:
    """The bin of each value within an extent; a larger value is never in a lower bin."""
    low, width = span["min"], span["max"] - span["min"]
    place = (values.astype(np.float64) - low) * (NUM_BINS / width if width else 0.0)
    return np.clip(place, 0, NUM_BINS - 1).astype(np.int64)


class Histogram:
    """The counts of one column, added up part by part."""

    def __init__(self, span: Mapping[str, Any]) -> None:
        """Start with the extent of the whole column."""
        self._span = span
        self._counts = np.zeros(NUM_BINS, np.int64)
        self._missing = 0

    def add(self, values: Float[np.ndarray, " row"]) -> None:
        """Count a part; what is no finite number is counted apart."""
        finite = values[np.isfinite(values)]
        self._missing += len(values) - len(finite)
        if len(finite):
            self._counts += np.bincount(bins(finite, self._span), minlength=NUM_BINS)

    def as_json(self) -> dict[str, Any]:
        """As it stands in the manifest: bin i reaches from min + i·(max − min)/1000 on."""
        return {**self._span, "num_missing": self._missing, "counts": self._counts.tolist()}


def top_threshold(
    histogram: Mapping[str, Any],
    share: float,
    values: Callable[[], Iterable[Float[np.ndarray, " row"]]],
) -> float:
    """The lowest value among the top share of a column.

    Of N rows (those without a number count as lowest) the ⌈share × N⌉ largest are meant, and with
    them every row whose value equals the smallest of those: ties stay together, so that the order
    of rows means nothing. The histogram says in which bin that value lies; of the column only the
    values in this bin are sorted.

    Args:
        histogram: Of the column, as the manifest has it.
        share: Above 0, at most 1.
        values: Reads the column, part by part.

    Returns:
        Rows with this value or a larger one are the top share; minus infinity keeps all.
    """
    counts = np.asarray(histogram["counts"])
    num_finite = int(counts.sum())
    wanted = math.ceil(share * (num_finite + histogram["num_missing"]) - 1e-9)
    if wanted > num_finite or num_finite == 0:
        return -math.inf
    from_above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_above, max(wanted, 1)))
    number = NUM_BINS - 1 - place
    above = int(from_above[place] - counts[number])
    inside = [part[np.isfinite(part)] for part in values()]
    inside = np.concatenate([part[bins(part, histogram) == number] for part in inside])
    return float(np.sort(inside)[::-1][max(wanted, 1) - above - 1])
