"""Semantic duplicates: pairs are those of brute force, survivors those of the plain rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.selection.clustering import fit, in_sample, lowest, nearest
from pipeline.selection.duplicates import _followers
from pipeline.selection.pairs import cluster_pairs
from pipeline.shards.embedding_files import unit


def planted(num_groups, group, dim, spread, seed=0):
    rng = np.random.default_rng(seed)
    centres = np.repeat(rng.normal(size=(num_groups, dim)), group, axis=0)
    return (centres + spread * rng.normal(size=centres.shape)).astype(np.float16)


def brute_force(z_img, floor):
    vectors = unit(z_img)
    found = {}
    for second in range(len(vectors)):
        cosines = (vectors[:second] * vectors[second]).sum(axis=1)
        found |= {(int(i), second): cosines[i] for i in np.flatnonzero(cosines >= floor)}
    return found


@pytest.mark.parametrize("num_groups", [1, 30, 700])
def test_pairs_are_those_of_brute_force(num_groups):
    z_img = planted(num_groups, max(2, 1400 // num_groups // 10), 16, 0.1)
    found = cluster_pairs(z_img, 0.95, 10_000)
    pairs = zip(found.first.tolist(), found.second.tolist(), strict=True)
    assert dict(zip(pairs, found.cosine.tolist(), strict=True)) == brute_force(z_img, 0.95)
    assert found.num_cut == 0


def test_of_a_crowd_the_first_and_the_closest_leaders_are_recorded():
    z_img = planted(1, 300, 16, 0.02)
    found = cluster_pairs(z_img, 0.9, 10)
    counts = np.bincount(found.second, minlength=300)
    assert counts.max() == 10
    assert found.num_cut == 300 - 11
    everything = brute_force(z_img, 0.9)
    for second in (50, 299):
        mine = set(found.first[found.second == second].tolist())
        assert set(range(5)) <= mine
        by_cosine = sorted(range(5, second), key=lambda i, s=second: -everything[i, s])
        worst = min(everything[i, second] for i in mine - set(range(5)))
        assert worst >= everything[by_cosine[4], second] - 2e-3


def reference_leaders(pairs, num_rows):
    fallen = set()
    for row in range(num_rows):
        if any(a not in fallen for a, b in pairs if b == row):
            fallen.add(row)
    return fallen


@given(
    edges=st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40),
)
def test_followers_fall_and_nothing_chains(edges):
    pairs = {(min(edge), max(edge)) for edge in edges if edge[0] != edge[1]}
    first, second = (np.array([p[side] for p in sorted(pairs)], np.int64) for side in (0, 1))
    fallen = _followers(first, second, 12)
    assert set(np.flatnonzero(fallen).tolist()) == reference_leaders(pairs, 12)


def test_clusters_find_planted_groups_and_every_probe():
    z_img = unit(planted(20, 40, 32, 0.2))
    centroids = fit(z_img[np.random.default_rng(1).permutation(len(z_img))], 40, 10)
    np.testing.assert_allclose(np.linalg.norm(centroids, axis=1), 1, atol=1e-5)
    one = nearest(z_img, centroids, 1)[:, 0]
    assert (z_img @ centroids.T).argmax(axis=1).tolist() == one.tolist()
    shares = [np.bincount(one[start : start + 40]).max() for start in range(0, 800, 40)]
    assert np.mean(shares) > 20  # more clusters than groups: some are cut in two
    three = nearest(z_img, centroids, 3)
    assert all(one[row] in three[row] for row in range(len(one)))
    assert nearest(z_img, centroids[:2], 3).shape == (800, 2)


@settings(max_examples=25)
@given(cut=st.integers(0, 5000), wanted=st.integers(1, 6000), seed=st.integers(0, 9))
def test_the_sample_is_that_of_lowest_hash_whatever_the_parts(cut, wanted, seed):
    rng = np.random.default_rng(seed)
    hashes = rng.integers(0, 1 << 64, 5000, np.uint64, endpoint=False)
    rows = np.arange(5000, dtype=np.float32)[:, None]
    parts = [slice(0, cut), slice(cut, None)]
    drawn = [in_sample(hashes[part], 5000, wanted) for part in parts]
    kept = np.concatenate([hashes[p][d] for p, d in zip(parts, drawn, strict=True)])
    values = np.concatenate([rows[p][d] for p, d in zip(parts, drawn, strict=True)])
    expected = rows[np.argsort(hashes)[:wanted]]
    assert lowest(kept, values, wanted).tolist() == expected.tolist()
