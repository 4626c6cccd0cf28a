import html
import random
import unicodedata

import pyarrow as pa
import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.queries.matching import Matcher, normalised


def literal_reference(queries, caption):
    """The published rule, word for word: pad, wrap seven marks, white space, substring."""
    text = f" {caption} "
    for mark in ",.;:?!`":
        text = text.replace(mark, f" {mark} ")
    for space in "\t\n\r":
        text = text.replace(space, " ")
    return [index for index, query in enumerate(queries) if f" {query} " in text]


def normalised_reference(queries, caption):
    """Words and signs of the folded text; a query is a run of the caption's."""

    def tokens(text):
        folded = unicodedata.normalize("NFC", html.unescape(text)).casefold()
        return regex.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFC", folded))

    words, found = tokens(caption), []
    for index, query in enumerate(map(tokens, queries)):
        starts = range(len(words) - len(query) + 1)
        if any(words[start : start + len(query)] == query for start in starts):
            found.append(index)
    return found


REFERENCES = {"literal": literal_reference, "normalised": normalised_reference}

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


# A small alphabet of whatever the rules treat in a special way makes collisions likely.
PIECES = [*"aAbé ,.;:?!`()&-'\t\n\r\u00a0ß1_", "  ", "e\u0301", "&amp;", "&nbsp;", "St.", "\u0130"]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


@pytest.mark.parametrize("profile", REFERENCES)
@given(queries=st.lists(TEXTS, min_size=1, max_size=12), captions=st.lists(TEXTS, max_size=8))
def test_ids_equal_the_reference(profile, queries, captions):
    if profile == "literal":
        queries = [query for query in queries if query.strip()]
    else:
        queries = [query for query in queries if normalised(query)]
    matched = Matcher(queries, profile).match(captions)
    assert matched.to_pylist() == [REFERENCES[profile](queries, text) for text in captions]


@pytest.mark.parametrize("profile", REFERENCES)
def test_ids_equal_the_reference_on_long_captions(profile):
    rng = random.Random(0)
    words = [f"w{index}" for index in range(40)]
    queries = sorted({" ".join(rng.choices(words, k=rng.randint(1, 3))) for _ in range(600)})
    captions = [" ".join(rng.choices(words, k=30)).capitalize() + "." for _ in range(60)]
    matched = Matcher(queries, profile).match(pa.array(captions)).to_pylist()
    assert matched == [REFERENCES[profile](queries, text) for text in captions]
    assert sum(map(len, matched)) > 1000


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
