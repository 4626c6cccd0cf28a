r"""Words and pairs of neighbours in running text: what they are, and how often they stand there.

Words are cut so that a caption with the same text matches them (``matching``), in two profiles:

``literal``: a word is what stands between white space and the seven marks, as written, less the
signs at its ends: of ``The (well-known) dog's`` it is ``The``, ``well-known``, ``dog's``.

``normalised``: a word is a run of letters, marks, digits and connectors of the case-folded text in
NFC: ``the``, ``well``, ``known``, ``dog``, ``s``.

A word has at least one letter or digit and at most 64 characters. Two words are a pair where
nothing but blanks stands between them: a sign, a line's end or anything that is no word parts them,
because a caption's form keeps the sign and the query ``well known`` would not match there either.
Text without blanks (Chinese, Thai) is not segmented.
"""

import re
import unicodedata
from array import array

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from jaxtyping import Int64

from pipeline.candidates import schema
from pipeline.queries.config import Profile
from pipeline.queries.partial_counts import Buckets, bucket_of

MAX_WORD_CHARS = 64
NO_WORD = 0
"""The id of everything that is no word and parts two words."""

_FLUSHED_IDS = 1 << 18
_COMPACTED_PAIRS = 1 << 20
_LOW_HALF = (1 << 32) - 1

_PATTERNS = {
    "literal": r"\w+(?:[^\w\s,.;:?!`]+\w+)*|[^\w\s]\W*",
    "normalised": r"\w+|[^\w\s]\W*",
}
# ``regex`` knows combining marks as parts of words, ``re`` is twice as fast where there are none.
_UNICODE = {profile: regex.compile(pattern) for profile, pattern in _PATTERNS.items()}
_ASCII = {profile: re.compile(pattern, re.ASCII) for profile, pattern in _PATTERNS.items()}
_WORD_START = regex.compile(r"\w")


def tokens(text: str, profile: Profile) -> list[list[str]]:
    """Per line, its words and, between them, runs of signs; ``is_word`` tells which is which."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    if profile == "normalised":
        text = unicodedata.normalize("NFC", text.casefold())
    unicode, ascii_only = _UNICODE[profile], _ASCII[profile]
    return [(ascii_only if line.isascii() else unicode).findall(line) for line in text.split("\n")]


def is_word(token: str) -> bool:
    """Whether a token is a word: not too long, and with a letter or a digit."""
    if len(token) > MAX_WORD_CHARS:
        return False
    return token.isalpha() or (bool(_WORD_START.match(token)) and has_letter_or_digit(token))


def has_letter_or_digit(text: str) -> bool:
    """Whether any character is a letter or a number in Unicode's sense."""
    return any(unicodedata.category(character)[0] in "LN" for character in text)


class WordCounter:
    """Counts words, and pairs of neighbours as 16 bytes each."""

    def __init__(self, profile: Profile, with_bigrams: bool) -> None:
        """Start at nothing.

        Args:
            profile: What a word is.
            with_bigrams: Whether pairs are counted too.
        """
        self._profile: Profile = profile
        self._with_bigrams = with_bigrams
        self.num_words = 0
        """Words seen so far, repetitions and what was taken included."""
        self._clear()

    def _clear(self) -> None:
        self._ids = _Ids()
        self._pending = array("q", [NO_WORD])
        self._word_counts = np.zeros(1, np.int64)
        self._pairs = _Pairs()

    @property
    def num_entries(self) -> int:
        """Different words and pairs that are held; of pairs at most so many."""
        return self._ids.num_words + self._pairs.num_held

    def add(self, text: str) -> None:
        """Count a text."""
        number = self._ids.__getitem__
        for line in tokens(text, self._profile):
            self._pending.extend(map(number, line))
            self._pending.append(NO_WORD)
        if len(self._pending) > _FLUSHED_IDS:
            self._flush()

    def take(self, num_buckets: int) -> tuple[Buckets, Buckets]:
        """The counts of words and of pairs, by bucket of their (first) word; starts again."""
        self._flush()
        keys, pair_counts = self._pairs.compacted()
        names = pa.array(["", *self._ids.words()], pa.string())
        rank = np.empty(len(names), np.int64)
        order = pc.call_function("array_sort_indices", [names]).to_numpy()
        rank[order] = np.arange(len(names))
        home = np.array([bucket_of(word, num_buckets) for word in names.to_pylist()], np.int64)
        words = np.lexsort((rank, home))
        words = words[words != NO_WORD]
        first, second = keys >> 32, keys & _LOW_HALF
        pairs = np.lexsort((rank[second], rank[first], home[first]))
        first, second = first[pairs], second[pairs]
        bigrams = pc.call_function(
            "binary_join_element_wise", [names.take(first), names.take(second), pa.scalar(" ")]
        )
        counted = (
            Buckets(_table(names.take(words), self._word_counts[words]), home[words], num_buckets),
            Buckets(_table(bigrams, pair_counts[pairs]), home[first], num_buckets),
        )
        self._clear()
        return counted

    def _flush(self) -> None:
        """Turn the ids seen into counts; the last one stays, since a pair may begin there."""
        ids = np.frombuffer(self._pending, np.int64)
        seen = np.bincount(ids[1:], minlength=self._ids.num_words + 1)
        seen[: len(self._word_counts)] += self._word_counts
        self._word_counts = seen
        self.num_words += int(np.count_nonzero(ids[1:]))
        if self._with_bigrams:
            first, second = ids[:-1], ids[1:]
            together = (first != NO_WORD) & (second != NO_WORD)
            self._pairs.add(first[together] << 32 | second[together])
        self._pending = array("q", [int(ids[-1])])


class _Ids(dict[str, int]):
    """Numbers words in the order in which they appear, from 1; what is no word has 0."""

    num_words = 0

    def __missing__(self, token: str) -> int:
        if not is_word(token):
            if len(token) <= 2:  # the frequent ones are looked up, the others judged again
                self[token] = NO_WORD
            return NO_WORD
        self.num_words += 1
        self[token] = self.num_words
        return self.num_words

    def words(self) -> list[str]:
        return [token for token, number in self.items() if number != NO_WORD]


class _Pairs:
    """Counts of 64-bit keys, kept sorted and without repetition but for the last ones."""

    def __init__(self) -> None:
        self._keys = self._counts = np.zeros(0, np.int64)
        self._fresh: list[Int64[np.ndarray, " pair"]] = []
        self._num_fresh = 0

    @property
    def num_held(self) -> int:
        return len(self._keys) + self._num_fresh

    def add(self, keys: Int64[np.ndarray, " pair"]) -> None:
        self._fresh.append(keys)
        self._num_fresh += len(keys)
        if self._num_fresh > max(_COMPACTED_PAIRS, len(self._keys)):
            self.compacted()

    def compacted(self) -> tuple[Int64[np.ndarray, " pair"], Int64[np.ndarray, " pair"]]:
        keys, counts = np.unique(np.concatenate([self._keys[:0], *self._fresh]), return_counts=True)
        together = np.concatenate([self._keys, keys])
        order = np.argsort(together, kind="stable")
        together, weights = together[order], np.concatenate([self._counts, counts])[order]
        first = np.flatnonzero(np.diff(together, prepend=-1))
        self._keys = together[first]
        self._counts = np.add.reduceat(weights, first) if len(first) else weights
        self._fresh, self._num_fresh = [], 0
        return self._keys, self._counts


def _table(names: pa.Array, counts: Int64[np.ndarray, " entry"]) -> pa.Table:
    return pa.table([names, counts], schema=schema.NGRAM_COUNTS)
