"""Why a profile refuses a sample on its own merits, decided over whole columns.

The reasons stand in a fixed order, and the first that holds is told:

``removed``, ``too_small``, ``low_similarity``, ``out_of_bounds_<column>`` (columns by name),
``evaluation_overlap``; then, decided elsewhere, among what is left, ``semantic_duplicate`` and,
among what is left of that, ``over_query_limit``.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float32, UInt8

from pipeline.selection.columns import Columns, Span
from pipeline.selection.histograms import top_threshold
from pipeline.selection.numbers import as_float
from pipeline.shards.select_config import BoundConfig, ProfileConfig, SelectConfig

REMOVED, TOO_SMALL, LOW_SIMILARITY = "removed", "too_small", "low_similarity"
OUT_OF_BOUNDS, EVALUATION_OVERLAP = "out_of_bounds_", "evaluation_overlap"
SEMANTIC_DUPLICATE, OVER_QUERY_LIMIT = "semantic_duplicate", "over_query_limit"
KEPT = 0
"""Code of a kept sample; a dropped one has 1 + the place of its reason."""

Mask = Bool[np.ndarray, " row"]


@dataclass(frozen=True)
class Rule:
    """One reason to drop a sample."""

    reason: str
    column: str | None
    """What it reads; None where another step decides."""
    drops: Callable[[pa.ChunkedArray], Mask] | None


def reasons(profile: ProfileConfig) -> list[str]:
    """The reasons that a profile may give, in the order in which they are asked."""
    bounds = [OUT_OF_BOUNDS + name for name in sorted(profile.bounds)]
    first = [REMOVED, TOO_SMALL, LOW_SIMILARITY, *bounds, EVALUATION_OVERLAP]
    return [*first, SEMANTIC_DUPLICATE, OVER_QUERY_LIMIT]


def code_of(profile: ProfileConfig, reason: str) -> int:
    """The code of a reason."""
    return 1 + reasons(profile).index(reason)


def min_similarity(profile: ProfileConfig, columns: Columns) -> float | None:
    """The bound on similarity, found from the histogram where a share is wanted."""
    if profile.top_share is None:
        return profile.min_similarity

    def values() -> Iterator[Float32[np.ndarray, " row"]]:
        return (as_float(table["similarity"]) for _, table in columns.read(["similarity"]))

    return top_threshold(columns.scored.histograms["similarity"], profile.top_share, values)


def refuse(
    profile: ProfileConfig, config: SelectConfig, similarity: float | None, columns: Columns
) -> UInt8[np.ndarray, " row"]:
    """The code of every sample, as far as it depends on the sample alone.

    Args:
        profile: Its thresholds.
        config: Whose takedowns hold for every profile.
        similarity: Of ``min_similarity``.
        columns: The scores.
    """
    rules = [*_rules(profile, config, similarity)]
    codes = np.zeros(columns.num_rows, np.uint8)
    order = reasons(profile)

    def decide(span: Span, table: pa.Table) -> None:
        part = codes[span.rows]
        for rule in rules:
            assert rule.drops is not None
            fails = rule.drops(table[rule.column])
            part[fails & (part == KEPT)] = 1 + order.index(rule.reason)

    wanted = list(dict.fromkeys(rule.column for rule in rules if rule.column is not None))
    if wanted:
        for _ in columns.map(wanted, decide):
            pass
    return codes


def _rules(
    profile: ProfileConfig, config: SelectConfig, similarity: float | None
) -> Iterator[Rule]:
    """What depends on the sample alone, in the order of ``reasons``."""
    for column, gone in (("key", config.remove_keys), ("url", config.remove_urls)):
        if gone:
            yield Rule(REMOVED, column, partial(_is_in, gone))
    if profile.min_side_px > 1:
        yield Rule(TOO_SMALL, "side_px", lambda side: side.to_numpy() < profile.min_side_px)
    if similarity is not None:
        bound = BoundConfig(min=similarity)
        yield Rule(LOW_SIMILARITY, "similarity", partial(_is_outside, bound))
    for name, bound in sorted(profile.bounds.items()):
        yield Rule(OUT_OF_BOUNDS + name, name, partial(_is_outside, bound))
    if profile.max_overlap_bits is not None:
        bits = profile.max_overlap_bits
        yield Rule(EVALUATION_OVERLAP, "overlap_bits", lambda found: as_float(found) <= bits)
    if profile.min_overlap_cosine is not None:
        cosine = np.float32(profile.min_overlap_cosine)
        yield Rule(EVALUATION_OVERLAP, "overlap_cosine", lambda found: as_float(found) >= cosine)


def _is_in(values: tuple[str, ...], column: pa.ChunkedArray) -> Mask:
    options = pc.SetLookupOptions(pa.array(values, pa.string()))
    return pc.call_function("is_in", [column], options).to_numpy()


def _is_outside(bound: BoundConfig, column: pa.ChunkedArray) -> Mask:
    values = as_float(column)
    inside = np.ones(len(values), bool) if bound.min is None else values >= np.float32(bound.min)
    if bound.max is not None:
        inside &= values <= np.float32(bound.max)
    return ~inside
