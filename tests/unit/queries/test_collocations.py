import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.queries import collocations
from pipeline.queries.config import NpmiRule, PmiRule

PMI = PmiRule(type="pmi")


def npmi(least, min_count=1):
    return NpmiRule(type="npmi", min_npmi=least, min_count=min_count)


def pmi(least, min_count=1):
    return PmiRule(type="pmi", min_bits=least, min_count=min_count)


def counts(*numbers):
    return [np.array([number], np.int64) for number in numbers]


def test_scores_are_the_stated_formulas():
    # NLTK's own example of its documentation: new companies, 8 of 15828 and 4675 in 14307668.
    bits = collocations.score(PMI, *counts(8, 15828, 4675), 14307668)[0]
    assert bits == pytest.approx(math.log2(8 * 14307668 / (15828 * 4675)))
    normal = collocations.score(npmi(0), *counts(8, 15828, 4675), 14307668)[0]
    assert normal == pytest.approx(bits / -math.log2(8 / 14307668))


def test_words_that_never_stand_apart_score_exactly_one():
    for num in (1, 2, 3, 7, 100):
        assert collocations.score(npmi(1), *counts(num, num, num), 1001)[0] == 1.0


def test_thirty_bits_need_two_to_the_thirty_words():
    assert collocations.score(PMI, *counts(1, 1, 1), 2**30)[0] == 30.0
    assert collocations.score(PMI, *counts(1, 1, 1), 2**30 - 1)[0] < 30.0


def tables(pairs, words):
    as_table = [sorted(each.items()) for each in (pairs, words)]
    return [
        pa.table({"ngram": [n for n, _ in rows], "count": [c for _, c in rows]})
        for rows in as_table
    ]


@settings(deadline=None)
@given(
    text=st.lists(st.sampled_from("aabcdefgh"), min_size=2, max_size=60),
    rule=st.one_of(
        st.builds(npmi, st.floats(-0.9, 1.0), st.integers(1, 4)),
        st.builds(pmi, st.floats(0.1, 6.0), st.integers(1, 4)),
    ),
)
def test_two_steps_keep_what_the_rule_keeps_and_account_for_the_rest(text, rule):
    words = Counter(text)
    pairs = Counter(f"{a} {b}" for a, b in pairwise(text))
    pair_table, word_table = tables(pairs, words)
    near, left_out = collocations.with_first(pair_table, word_table, rule, len(text))
    kept, fallen = collocations.passing(near, word_table, rule, len(text))
    least = rule.min_bits if isinstance(rule, PmiRule) else rule.min_npmi
    expected = {}
    for pair, num in pairs.items():
        each = counts(num, *(words[word] for word in pair.split()))
        if num >= rule.min_count and collocations.score(rule, *each, len(text))[0] >= least:
            expected[pair] = num
    assert dict(zip(*kept.to_pydict().values(), strict=True)) == expected
    assert (left_out + fallen).total() == len(pairs) - len(expected)
    assert left_out["below_min_count"] == sum(n < rule.min_count for n in pairs.values())
