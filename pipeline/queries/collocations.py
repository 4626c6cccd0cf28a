r"""Which pairs of neighbouring words belong together.

With count(xy) occurrences of a pair, count(x) and count(y) of its words and N words in all:

.. math::

    \mathrm{PMI} = \log_2 \frac{N \, count(xy)}{count(x) \, count(y)} \qquad
    \mathrm{NPMI} = \frac{\mathrm{PMI}}{-\log_2 (count(xy) / N)}

Source: PMI as in NLTK's ``BigramAssocMeasures.pmi`` (Church and Hanks 1990), which the published
lists used; NPMI: Bouma 2009, "Normalized (Pointwise) Mutual Information in Collocation Extraction",
Eq. 7. PMI is at most log2(N), for a pair and words that stand once each, so the published bound of
30 bits admits nothing below 2^30 words, and above it mostly misspellings. NPMI lies in [-1, 1] in a
corpus of any size.

The words of a pair lie in two buckets, so the pairs meet their first word's count in one step and
their second's in the next. count(y) is at least count(xy): what fails even with that is left out
before the second step.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from pipeline.candidates import schema
from pipeline.queries.config import NpmiRule, PmiRule
from pipeline.queries.partial_counts import at_least

BELOW_MIN_COUNT = "below_min_count"
BELOW_PMI = "below_pmi"
BELOW_NPMI = "below_npmi"

FIRST_COUNT = "first_count"
WITH_FIRST = schema.NGRAM_COUNTS.append(pa.field(FIRST_COUNT, pa.int64(), nullable=False))
"""Pairs with their own and their first word's count."""
ROUNDING = 1e-9
"""Slack of the early bound; the final one is exact."""

Counts = Int64[np.ndarray, " pair"]


def score(
    rule: PmiRule | NpmiRule, pair: Counts, first: Counts, second: Counts, num_words: int
) -> Float64[np.ndarray, " pair"]:
    """PMI in bits or NPMI, as the rule asks.

    Args:
        rule: Which of the two.
        pair: Occurrences of each pair.
        first: Occurrences of its first word.
        second: Occurrences of its second word.
        num_words: Words in the corpus, repetitions included.
    """
    # In this order words that never stand apart score exactly 1.
    bits = (np.log2(pair) - np.log2(first)) + (np.log2(num_words) - np.log2(second))
    return bits if isinstance(rule, PmiRule) else bits / (np.log2(num_words) - np.log2(pair))


def reason_below(rule: PmiRule | NpmiRule) -> str:
    """Why a pair is left out that scores too little."""
    return BELOW_PMI if isinstance(rule, PmiRule) else BELOW_NPMI


def with_first(
    pairs: pa.Table, words: pa.Table, rule: PmiRule | NpmiRule, num_words: int
) -> tuple[pa.Table, Counter[str]]:
    """Pairs that may still pass, with their first words' counts; how many may not, by reason.

    Args:
        pairs: All whose first word lies in some buckets.
        words: The words of these buckets.
        rule: When two words belong together.
        num_words: Words in the corpus, repetitions included.
    """
    often = at_least(pairs, rule.min_count)
    first = _counts_of(word(often, 0), words)
    together = often.column(schema.COUNT).to_numpy()
    highest = score(rule, together, first, together, num_words)
    may_pass = highest >= _least(rule) - ROUNDING
    kept = often.append_column(WITH_FIRST.field(FIRST_COUNT), pa.array(first))
    kept = kept.filter(pa.array(may_pass, pa.bool_()))
    left_out = Counter({BELOW_MIN_COUNT: pairs.num_rows - often.num_rows})
    left_out[reason_below(rule)] = often.num_rows - kept.num_rows
    return kept, left_out


def passing(
    pairs: pa.Table, words: pa.Table, rule: PmiRule | NpmiRule, num_words: int
) -> tuple[pa.Table, Counter[str]]:
    """Pairs that pass, sorted, and how many do not, by reason.

    Args:
        pairs: ``WITH_FIRST``, all whose second word lies in some buckets.
        words: The words of these buckets.
        rule: When two words belong together.
        num_words: Words in the corpus, repetitions included.
    """
    second = _counts_of(word(pairs, 1), words)
    together, first = (pairs.column(n).to_numpy() for n in (schema.COUNT, FIRST_COUNT))
    passes = score(rule, together, first, second, num_words) >= _least(rule)
    kept = pairs.filter(pa.array(passes, pa.bool_())).select(schema.NGRAM_COUNTS.names)
    return kept.sort_by(schema.NGRAM), Counter({reason_below(rule): int(np.sum(~passes))})


def word(pairs: pa.Table, place: int) -> pa.Array:
    """The first (0) or second (1) word of each pair."""
    column = pairs.column(schema.NGRAM).combine_chunks()
    halves = pc.call_function("split_pattern", [column], pc.SplitPatternOptions(" ", max_splits=1))
    return pc.call_function("list_element", [halves, place])


def _least(rule: PmiRule | NpmiRule) -> float:
    return rule.min_bits if isinstance(rule, PmiRule) else rule.min_npmi


def _counts_of(names: pa.Array, words: pa.Table) -> Counts:
    """Counts of words, all of which are in the table."""
    known = words.column(schema.NGRAM).combine_chunks()
    places = pc.call_function("index_in", [names], pc.SetLookupOptions(known))
    return words.column(schema.COUNT).take(places).to_numpy()
