import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.queries.matching import Matcher, normalised
from pipeline.queries.words import MAX_WORD_CHARS, WordCounter, is_word, tokens

PROFILES = ["literal", "normalised"]


def words(text, profile):
    return [token for line in tokens(text, profile) for token in line if is_word(token)]


def counted(texts, profile, num_takes=1, num_buckets=4):
    """Words and pairs, added up over takes, as plain counters."""
    counter, totals = WordCounter(profile, with_bigrams=True), (Counter(), Counter())
    for take in range(num_takes):
        for text in texts[take::num_takes]:
            counter.add(text)
        for total, buckets in zip(totals, counter.take(num_buckets), strict=True):
            rows = zip(*buckets.table.to_pydict().values(), strict=True)
            total.update(dict(rows))
    assert counter.num_words == totals[0].total()
    return totals


@pytest.mark.parametrize(
    ("text", "literal", "folded"),
    [
        ("The (well-known) dog's", "The well-known dog's", "the well known dog s"),
        ("St. Louis, 3.5 km", "St Louis 3 5 km", "st louis 3 5 km"),
        ("“Straße” – CAFE\u0301!", "Straße CAFÉ", "strasse café"),
        ("'tis dogs' AT&T", "tis dogs AT&T", "tis dogs at t"),
        ("हिन्दी भाषा।", "हिन्दी भाषा", "हिन्दी भाषा"),
        ("a\u00a0b 1990–2000", "a b 1990–2000", "a b 1990 2000"),
        ("— ... _ 42", "42", "42"),
        ("x" * (MAX_WORD_CHARS + 1) + " y", "y", "y"),
    ],
)
def test_documented_words(text, literal, folded):
    assert words(text, "literal") == literal.split()
    assert words(text, "normalised") == folded.split()


def test_pairs_are_neighbours_with_nothing_but_blanks_between():
    text = "a b, c (d) e\nf  g - h\ta"
    literal, folded = (counted([text], profile)[1] for profile in PROFILES)
    assert literal == folded == {"a b": 1, "f g": 1, "h a": 1}
    assert counted(["a b", "c"], "literal")[1] == {"a b": 1}


ALPHABET = [*"aAbé ,.;:?!()'-\t\n\u00a0ß1_²", "e\u0301", "\u0130", "St.", "हि", "中"]
TEXTS = st.lists(st.sampled_from(ALPHABET), max_size=20).map("".join)


@settings(deadline=None)
@given(TEXTS)
def test_a_caption_with_the_same_text_matches_every_word_and_pair(text):
    found = sorted(set().union(*counted([text], "normalised")))
    assert [normalised(query) for query in found] == found
    if found:
        assert Matcher(found, "normalised").match([text]).to_pylist() == [list(range(len(found)))]


@settings(deadline=None)
@given(st.lists(st.sampled_from(["cat", "Dog's", "well-known", "Éa", "3"]), max_size=8))
def test_literal_words_match_where_they_stand_free(listed):
    text = " ".join(listed)
    found = sorted(set().union(*counted([text], "literal")))
    if found:
        assert Matcher(found, "literal").match([text]).to_pylist() == [list(range(len(found)))]


def naive(texts, profile):
    singles, pairs = Counter(), Counter()
    for text in texts:
        for line in tokens(text, profile):
            singles.update(token for token in line if is_word(token))
            pairs.update(f"{a} {b}" for a, b in pairwise(line) if is_word(a) and is_word(b))
    return singles, pairs


@settings(deadline=None)
@given(
    texts=st.lists(TEXTS, max_size=6),
    profile=st.sampled_from(PROFILES),
    num_takes=st.integers(1, 3),
)
def test_counts_are_those_of_a_plain_counter(texts, profile, num_takes):
    assert counted(texts, profile, num_takes) == naive(texts, profile)


def test_long_texts_are_counted_alike_however_often_counts_are_taken(monkeypatch):
    monkeypatch.setattr("pipeline.queries.words._FLUSHED_IDS", 50)
    monkeypatch.setattr("pipeline.queries.words._COMPACTED_PAIRS", 30)
    rng = random.Random(0)
    vocabulary = [f"w{i}" for i in range(30)] + [",", "\n"]
    texts = [" ".join(rng.choices(vocabulary, k=40)) for _ in range(30)]
    expected = naive(texts, "normalised")
    assert counted(texts, "normalised", 1) == counted(texts, "normalised", 7) == expected


def test_taken_counts_are_sorted_by_bucket_then_text():
    counter = WordCounter("normalised", with_bigrams=True)
    counter.add(" ".join(f"w{i % 17} v{i % 5}" for i in range(200)))
    singles, pairs = counter.take(8)
    homes = dict(zip(singles.table.column("ngram").to_pylist(), singles.home, strict=True))
    for buckets in (singles, pairs):
        names = buckets.table.column("ngram").to_pylist()
        assert buckets.home.tolist() == [homes[name.split()[0]] for name in names]
        rows = list(zip(buckets.home.tolist(), names, strict=True))
        assert rows == sorted(rows)
    assert counter.num_entries == 0
