import hashlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.draws import hash64
from pipeline.errors import DataError
from pipeline.queries import balancing
from pipeline.queries.config import BalanceConfig


def config(mode, limit, *, oversampling=1.0, seed=0):
    return BalanceConfig(mode=mode, per_query_limit=limit, oversampling=oversampling, seed=seed)


def uid(index):
    return hashlib.blake2b(str(index).encode(), digest_size=16).hexdigest()


def columns(pairs):
    """Pairs as (index, query ids) → uid and query_ids columns."""
    ids = pa.array([sorted(found) for _, found in pairs], pa.list_(pa.uint32()))
    return pa.array([uid(index) for index, _ in pairs], pa.string()), ids


def partitions(pairs, num, order):
    shuffled = [pairs[i] for i in np.random.default_rng(order).permutation(len(pairs))]
    return [columns(shuffled[first::num]) for first in range(num)]


def keep(pairs, asked, *, num=1, order=0, num_queries=8):
    """Uids kept over all partitions, and the reasons of the others."""
    parts = partitions(pairs, num, order)
    counted = [balancing.count(ids) for _, ids in parts]
    counts = balancing.merge_counts(counted, num_queries)
    if asked.mode == "sample":
        results = [balancing.keep_sampled(*part, counts, asked) for part in parts]
    else:
        ranks = [balancing.ranks(*part, counts, asked) for part in parts]
        tree = [balancing.merge_ranks(ranks[:2], asked), *ranks[2:]]
        merged = balancing.merge_ranks(tree, asked)
        highest = balancing.thresholds(merged, num_queries, asked)
        results = [balancing.keep_capped(*part, counts, highest, asked) for part in parts]
    kept, reasons = set(), {}
    for (uids, _), result in zip(parts, results, strict=True):
        texts, why = uids.to_pylist(), result.reasons.to_pylist()
        for text, stays, reason in zip(texts, result.mask, why, strict=True):
            assert stays == (reason is None)
            if stays:
                kept.add(text)
            else:
                reasons[text] = reason
    return kept, reasons


PAIRS = st.lists(st.sets(st.integers(0, 7), max_size=4), max_size=40).map(
    lambda found: list(enumerate(found))
)


@settings(deadline=None)
@given(
    pairs=PAIRS,
    mode=st.sampled_from(["sample", "cap"]),
    limit=st.integers(1, 6),
    num=st.integers(1, 7),
    order=st.integers(0, 9),
)
def test_the_kept_set_depends_on_no_order_and_no_partitioning(pairs, mode, limit, num, order):
    asked = config(mode, limit, seed=3)
    assert keep(pairs, asked, num=num, order=order) == keep(pairs, asked)


@settings(deadline=None)
@given(pairs=PAIRS, limit=st.integers(1, 6), num=st.integers(1, 4), seed=st.integers(0, 5))
def test_cap_is_capped_and_maximal(pairs, limit, num, seed):
    kept, reasons = keep(pairs, config("cap", limit, seed=seed), num=num)
    num_pairs = [sum(query in found for _, found in pairs) for query in range(8)]
    owner = {uid(i): min(found, key=lambda q: (num_pairs[q], q)) for i, found in pairs if found}
    owned = [sum(owner[text] == query for text in kept) for query in range(8)]
    assert max(owned) <= limit
    for text, reason in reasons.items():
        if reason == "over_query_limit":
            assert owned[owner[text]] == limit
        else:
            assert reason == "no_query"
            assert text not in owner


@settings(deadline=None)
@given(pairs=PAIRS, mode=st.sampled_from(["sample", "cap"]))
def test_a_limit_above_every_count_keeps_every_pair_with_a_query(pairs, mode):
    kept, reasons = keep(pairs, config(mode, 100))
    assert kept == {uid(index) for index, found in pairs if found}
    assert set(reasons.values()) <= {"no_query"}


@pytest.mark.parametrize("mode", ["sample", "cap"])
def test_one_two_and_seven_partitions_keep_the_same_pairs(mode):
    rng = np.random.default_rng(1)
    pairs = [
        (i, set((rng.geometric(0.3, rng.integers(5)) - 1).tolist()) & set(range(8)))
        for i in range(3000)
    ]
    whole = keep(pairs, config(mode, 40))
    assert 40 < len(whole[0]) < 1000
    for num in (2, 7):
        assert keep(pairs, config(mode, 40), num=num, order=num) == whole


def assert_within_five_deviations(num_kept, num_pairs, rate):
    deviation = (num_pairs * rate * (1 - rate)) ** 0.5
    assert abs(num_kept - num_pairs * rate) < 5 * deviation


def test_sample_keeps_the_expected_number_of_pairs_per_query():
    pairs = [(i, {0} if i < 4000 else {1}) for i in range(12_000)]
    kept, _ = keep(pairs, config("sample", 1000))
    assert_within_five_deviations(sum(uid(i) in kept for i in range(4000)), 4000, 1000 / 4000)
    tail = sum(uid(i) in kept for i in range(4000, 12_000))
    assert_within_five_deviations(tail, 8000, 1000 / 8000)


def test_sample_lets_any_query_keep_a_pair():
    # Two independent draws of 1/4 and 1/2: kept with 1 - (3/4)(1/2) = 5/8.
    pairs = [(i, {0, 1}) for i in range(4000)]
    counts = np.array([4000, 2000], np.int64)
    result = balancing.keep_sampled(*columns(pairs), counts, config("sample", 1000))
    assert_within_five_deviations(int(result.mask.sum()), 4000, 5 / 8)


def test_sample_keeps_of_overlapping_queries_what_its_rule_expects():
    rng = np.random.default_rng(2)
    pairs = [
        (i, set(np.flatnonzero(rng.random(8) < 0.5 ** np.arange(1, 9)).tolist()))
        for i in range(8000)
    ]
    num_pairs = np.array([sum(query in found for _, found in pairs) for query in range(8)])
    drop = 1 - np.minimum(1, 150 / num_pairs)
    chances = np.array([1 - np.prod(drop[list(found)]) for _, found in pairs])
    kept, _ = keep(pairs, config("sample", 150))
    for query in range(8):
        members = [i for i, found in pairs if query in found]
        expected, spread = chances[members].sum(), (chances * (1 - chances))[members].sum() ** 0.5
        assert abs(sum(uid(i) in kept for i in members) - expected) <= 5 * spread + 1e-6


def test_oversampling_multiplies_the_limit():
    pairs = [(i, {0}) for i in range(4000)]
    kept, _ = keep(pairs, config("sample", 1000, oversampling=1.5))
    assert_within_five_deviations(len(kept), 4000, 1500 / 4000)
    assert len(keep(pairs, config("cap", 100, oversampling=1.15))[0]) == 115


def test_cap_keeps_an_even_sample_of_an_owners_pairs():
    pairs = [(i, {0}) for i in range(4000)]
    kept, _ = keep(pairs, config("cap", 1000))
    assert_within_five_deviations(sum(uid(i) in kept for i in range(2000)), 2000, 1 / 4)


@pytest.mark.parametrize("mode", ["sample", "cap"])
def test_another_seed_keeps_other_pairs(mode):
    pairs = [(i, {0}) for i in range(1000)]
    first, second = (keep(pairs, config(mode, 500, seed=seed))[0] for seed in (1, 2))
    assert 150 < len(first & second) < 350


def test_a_larger_limit_keeps_what_a_smaller_one_kept():
    pairs = [(i, {i % 3, 3}) for i in range(900)]
    for mode in ("sample", "cap"):
        assert keep(pairs, config(mode, 20))[0] < keep(pairs, config(mode, 60))[0]


def splitmix64(state):
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
    return state ^ state >> 31


def test_ranks_are_the_stated_hash_of_uid_query_and_seed():
    counts = np.array([0, 0, 3, 0, 0, 1], np.int64)
    owner, rank = balancing.owners(*columns([(0, {5, 2}), (1, set())]), counts, 7)
    assert owner.tolist() == [5, balancing.NO_OWNER]
    content = bytes.fromhex(uid(0))
    state = splitmix64((5 + hash64("balance", 7)) % 2**64)
    for half in (content[:8], content[8:]):
        state = splitmix64(state ^ int.from_bytes(half, "little"))
    assert int(rank[0]) == state


def test_counts_are_sparse_and_merge_to_one_number_per_query():
    ids = pa.array([[1, 3], [], None, [3]], pa.list_(pa.uint32()))
    table = balancing.count(ids)
    assert table.to_pydict() == {"query_id": [1, 3], "count": [1, 2]}
    assert balancing.merge_counts([table, table], 5).tolist() == [0, 2, 0, 4, 0]
    assert balancing.merge_counts([], 2).tolist() == [0, 0]
    sliced = pa.chunked_array([ids.slice(0, 1), ids.slice(3, 1)])
    assert balancing.count(sliced).to_pydict() == {"query_id": [1, 3], "count": [1, 2]}


def test_ids_of_another_list_are_refused():
    table = balancing.count(pa.array([[9]], pa.list_(pa.uint32())))
    with pytest.raises(DataError, match="query id 9 in a list of 5"):
        balancing.merge_counts([table], 5)


def test_uids_that_are_none_are_refused():
    ids = pa.array([[0]], pa.list_(pa.uint32()))
    with pytest.raises(DataError, match="32 hex digits"):
        balancing.keep_sampled(pa.array(["ab"]), ids, np.ones(1, np.int64), config("sample", 1))
