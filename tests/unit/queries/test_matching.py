import random
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.queries import matching, vocabulary
from pipeline.queries.matching import Matcher, normalised
from pipeline.queries.tokens import split, unicode_alphabet
from tests.matching_reference import find

PROFILES = ["literal", "normalised"]

TABLE = [
    ("cat", "a cat, asleep", True, True),
    ("cat", "Cat (asleep)", False, True),
    ("cat", "concatenate", False, False),
    ("(cat)", "a (cat)", True, True),
    ("(cat)", "a ( CAT )", False, True),
    ("cat", "a (cat)", False, True),
    ("St. Louis", "Map of St. Louis", False, True),
    ("a b", "a  b", False, True),
    ("R&D", "our R&amp;D team", False, True),
    ("café", "CAFE\u0301", False, True),
    ("straße", "STRASSE", False, True),
    ("new york", "new\tyork", True, True),
    ("new york", "newyork", False, False),
    ("3.5", "size 3.5 mm", False, True),
    ("हिन्दी", "भाषा हिन्दी।", False, True),
    ("cat", "cat", True, True),
]


@pytest.mark.parametrize(("query", "caption", "literal", "folded"), TABLE)
def test_documented_examples(query, caption, literal, folded):
    for profile, expected in (("literal", literal), ("normalised", folded)):
        assert Matcher([query], profile).match([caption]).to_pylist() == [[0] * expected]
        assert find([query], [caption], profile) == [[0] * expected]


# A small alphabet of whatever the rules treat in a special way makes collisions likely; words of
# seven, eight and more bytes are looked up in different ways.
PIECES = [
    *"aAbé ,.;:?!`()&-'\t\n\r\0\u00a0ß1_猫“🐈",
    *["  ", "e\u0301", "&amp;", "&nbsp;", "&#10;", "St.", "\u0130", "\u3000", "\u1e9b\u0323"],
    *["abcdefg", "abcdefgh", "abcdefgha", "abcdefghabcdefgh", "ähnlich", "ÄHNLICHE"],
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.mark.parametrize("profile", PROFILES)
@settings(deadline=None)  # compared with hundreds of milliseconds on a busy machine
@given(queries=st.lists(TEXTS, min_size=1, max_size=12), captions=st.lists(TEXTS, max_size=8))
def test_ids_equal_the_reference(profile, queries, captions):
    if profile == "literal":
        queries = [query for query in queries if query.strip()]
    else:
        queries = [query for query in queries if normalised(query)]
    matched = Matcher(queries, profile).match(captions)
    assert matched.to_pylist() == find(queries, captions, profile)


def corpus(seed):
    """Captions of a few dozen short and long words, with marks, and queries that occur in them."""
    rng = random.Random(seed)
    words = [f"{'wort' * rng.randint(0, 5)}{index}" for index in range(40)]
    queries = sorted({" ".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(600)})
    captions = [" ".join(rng.choices([*words, ",", "Größe", "&amp;"], k=30)) for _ in range(60)]
    return queries, [f"{text.capitalize()}." for text in captions]


@pytest.mark.parametrize("profile", PROFILES)
def test_ids_equal_the_reference_on_long_captions(profile):
    queries, captions = corpus(0)
    matched = Matcher(queries, profile).match(pa.array(captions)).to_pylist()
    assert matched == find(queries, captions, profile)
    assert sum(map(len, matched)) > 1000


@pytest.mark.parametrize("profile", PROFILES)
def test_neither_blocks_nor_chunks_nor_slices_change_the_ids(profile, monkeypatch):
    queries, captions = corpus(1)
    matcher = Matcher(queries, profile)
    whole = matcher.match(captions).to_pylist()
    monkeypatch.setattr(matching, "BLOCK_BYTES", 400)
    column = pa.array(captions, pa.large_string())
    assert matcher.match(column).to_pylist() == whole
    assert matcher.match(column.slice(7, 30)).to_pylist() == whole[7:37]
    chunks = pa.chunked_array([column.slice(0, 9), column.slice(9, 0), column.slice(9)])
    assert matcher.match(chunks).to_pylist() == whole
    assert matcher.match(pa.chunked_array([], pa.string())).to_pylist() == []


def test_words_whose_hashes_collide_are_told_apart(monkeypatch):
    hashes = vocabulary._hashes

    def poor(words, start, length, seed):
        """All alike with the first seed."""
        return hashes(words, start, length, seed) * np.uint64(seed > 0)

    monkeypatch.setattr(vocabulary, "_hashes", poor)
    captions = ["caterpillar", "caterpillaR", "Caterpillar", "caterpilla", "caterpillars"]
    found = Matcher(["caterpillar"], "literal").match(captions).to_pylist()
    assert found == [[0], [], [], [], []]
    found = Matcher(["caterpillar", "cat", "caterpillars"], "literal").match(captions).to_pylist()
    assert found == [[0], [], [], [], [2]]


@pytest.mark.parametrize("num_keys", [0, 1, 2, 1000])
def test_a_table_finds_its_keys_and_no_other(num_keys):
    keys = np.random.default_rng(0).permutation(3 * num_keys).astype(np.uint64)[:num_keys]
    numbers = {int(key): number for number, key in enumerate(keys)}
    asked = np.arange(3 * num_keys + 5, dtype=np.uint64)
    found = vocabulary.Table(keys).find(asked).tolist()
    assert found == [numbers.get(int(key), vocabulary.UNKNOWN) for key in asked]


@settings(deadline=None)
@given(st.lists(st.text(), max_size=6))
def test_words_and_signs_of_any_script_are_cut_like_the_form(texts):
    found = split(pa.array(texts, pa.string()), unicode_alphabet())
    pieces = [
        found.data[start : start + length].decode()
        for start, length in zip(found.start, found.length, strict=True)
    ]
    for text, (first, after) in zip(texts, pairwise(found.first), strict=True):
        assert pieces[first:after] == regex.findall(r"\w+|[^\w\s]", text.encode().lower().decode())


def test_neighbours_that_share_a_space_both_match():
    matched = Matcher(["a", "b", "a b"], "literal").match(["a b a b"])
    assert matched.to_pylist() == [[0, 1, 2]]


def test_queries_of_one_form_match_together():
    assert Matcher(["Cat", "cat"], "normalised").match(["CAT"]).to_pylist() == [[0, 1]]


def test_result_is_one_list_of_uint32_per_caption():
    matcher = Matcher(["a"], "literal")
    found = matcher.match(pa.chunked_array([["a", None], ["b"]]))
    assert found.type == pa.list_(pa.uint32())
    assert found.to_pylist() == [[0], [], []]
    assert matcher.match([]).to_pylist() == []


@pytest.mark.parametrize(("query", "profile"), [("", "literal"), ("&nbsp;", "normalised")])
def test_an_empty_query_is_refused(query, profile):
    with pytest.raises(DataError, match=r"query 1 .* is empty"):
        Matcher(["a", query], profile)
