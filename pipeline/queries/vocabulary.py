"""Numbers for tokens and for pairs of numbers: exact look-ups of whole arrays at once.

Dimensions: ``key`` and ``slot`` of a table, ``entry`` of a vocabulary, ``token`` of what is asked.
"""

from typing import cast

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Int, Int32, Int64, UInt64

from pipeline.queries.tokens import PADDING, Tokens

UNKNOWN = -1
WORD_BYTES = 8
SHORT_BYTES = 7
"""Longest token that fits into its own key, beside its length."""

_ODD = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio
_LOW_BYTES = np.array([(1 << 8 * num) - 1 for num in range(WORD_BYTES + 1)], np.uint64)
_LONG_KEY = np.uint64(1 << 63)


class Table:
    """A hash table of distinct 64-bit keys (open addressing, linear probing, a quarter full)."""

    def __init__(self, keys: UInt64[np.ndarray, " key"]) -> None:
        """Give every key its position as number."""
        bits = max(4 * len(keys) - 1, 1).bit_length()
        self._shift = np.uint64(64 - bits)
        self._mask = np.int64((1 << bits) - 1)
        self._keys = np.zeros(1 << bits, np.uint64)
        self._numbers = np.full(1 << bits, UNKNOWN, np.int32)
        slot = self._home(keys)
        waiting = np.arange(len(keys))
        while waiting.size:
            free = waiting[self._numbers[slot[waiting]] == UNKNOWN]
            places, first = np.unique(slot[free], return_index=True)
            self._numbers[places] = free[first]
            self._keys[places] = keys[free[first]]
            waiting = waiting[self._numbers[slot[waiting]] != waiting]
            slot[waiting] = (slot[waiting] + 1) & self._mask

    def find(self, keys: UInt64[np.ndarray, " token"]) -> Int32[np.ndarray, " token"]:
        """Number of each key, ``UNKNOWN`` where the table lacks it."""
        slot = self._home(keys)
        numbers = self._numbers[slot]
        waiting = np.flatnonzero((self._keys[slot] != keys) & (numbers != UNKNOWN))
        slot = slot[waiting]
        while waiting.size:
            slot = (slot + 1) & self._mask
            here = self._numbers[slot]
            settled = (self._keys[slot] == keys[waiting]) | (here == UNKNOWN)
            numbers[waiting[settled]] = here[settled]
            waiting, slot = waiting[~settled], slot[~settled]
        return numbers

    def _home(self, keys: UInt64[np.ndarray, " key"]) -> Int64[np.ndarray, " key"]:
        """The slot where the search for a key begins."""
        mixed = keys * _ODD
        mixed ^= mixed >> np.uint64(32)  # or else keys that begin alike would crowd together
        mixed *= _ODD
        return (mixed >> self._shift).view(np.int64)


class Vocabulary:
    """Distinct tokens by number; equal bytes and nothing else share a number."""

    def __init__(self, entries: pa.BinaryArray) -> None:
        """Number the tokens by their position.

        Args:
            entries: Distinct tokens.
        """
        offsets = np.frombuffer(entries.buffers()[1], np.int32)[: len(entries) + 1]
        self._start = offsets[:-1].astype(np.int64)
        self._length = np.diff(offsets).astype(np.int64)
        self._longest = int(self._length.max(initial=0))
        content = entries.buffers()[2]
        self._words = _words(b"" if content is None else content.to_pybytes(), PADDING)
        self._seed = 0
        while len(np.unique(keys := self._keys())) < len(keys):
            self._seed += 1
        self._table = Table(keys)

    def find(self, tokens: Tokens) -> Int32[np.ndarray, " token"]:
        """Number of each token, ``UNKNOWN`` where it is no entry."""
        words = _words(tokens.data, 0)
        # A token beyond the longest entry is none; its hash would cost as much as it is long.
        length = np.where(tokens.length <= self._longest, tokens.length, 0)
        numbers = self._table.find(_keys(words, tokens.start, length, self._seed))
        numbers[length != tokens.length] = UNKNOWN
        # The key of a short token is the token; that of a long one is a hash.
        long = np.flatnonzero((length > SHORT_BYTES) & (numbers != UNKNOWN))
        equal = self._equal(words, tokens.start[long], length[long], numbers[long])
        numbers[long[~equal]] = UNKNOWN
        return numbers

    def _keys(self) -> UInt64[np.ndarray, " entry"]:
        return _keys(self._words, self._start, self._length, self._seed)

    def _equal(
        self,
        words: UInt64[np.ndarray, " byte"],
        start: Int64[np.ndarray, " token"],
        length: Int64[np.ndarray, " token"],
        numbers: Int32[np.ndarray, " token"],
    ) -> Bool[np.ndarray, " token"]:
        """Whether each token has the bytes of its entry."""
        equal = self._length[numbers] == length
        entry_start = self._start[numbers]
        going, offset = np.flatnonzero(equal), 0
        while going.size:
            left = length[going] - offset
            theirs = _word(self._words, entry_start[going] + offset, left)
            same = _word(words, start[going] + offset, left) == theirs
            equal[going[~same]] = False
            offset += WORD_BYTES
            going = going[same & (left > WORD_BYTES)]
        return equal


def pair_keys(
    first: Int[np.ndarray, " token"], second: Int[np.ndarray, " token"]
) -> UInt64[np.ndarray, " token"]:
    """One key per pair of numbers below 2^31."""
    return (first.astype(np.int64) << 32 | second).view(np.uint64)


def _words(data: bytes, padding: int) -> UInt64[np.ndarray, " byte"]:
    """The eight bytes from every place on as a little-endian number, without copies."""
    data += bytes(padding)
    shape = (len(data) - WORD_BYTES + 1,)
    return cast(np.ndarray, np.ndarray(shape, "<u8", data, strides=(1,)))


def _word(
    words: UInt64[np.ndarray, " byte"],
    start: Int64[np.ndarray, " token"],
    left: Int64[np.ndarray, " token"],
) -> UInt64[np.ndarray, " token"]:
    """The first eight bytes of what is left of each token, zeros behind its end."""
    # Indexing, not ``take``, which would copy the overlapping words first.
    return words[start] & _LOW_BYTES[np.minimum(left, WORD_BYTES)]


def _keys(
    words: UInt64[np.ndarray, " byte"],
    start: Int64[np.ndarray, " token"],
    length: Int64[np.ndarray, " token"],
    seed: int,
) -> UInt64[np.ndarray, " token"]:
    """Short tokens: seven bytes and the length. Longer ones: a hash with the highest bit set."""
    keys = _word(words, start, np.minimum(length, SHORT_BYTES))
    keys |= length.astype(np.uint64) << np.uint64(8 * SHORT_BYTES)
    long = np.flatnonzero(length > SHORT_BYTES)
    keys[long] = _hashes(words, start[long], length[long], seed) | _LONG_KEY
    return keys


def _hashes(
    words: UInt64[np.ndarray, " byte"],
    start: Int64[np.ndarray, " token"],
    length: Int64[np.ndarray, " token"],
    seed: int,
) -> UInt64[np.ndarray, " token"]:
    """A hash of each token's bytes and length."""
    hashes = (length + (seed << 32)).astype(np.uint64) * _ODD
    going, offset = np.arange(len(start)), 0
    while going.size:
        left = length[going] - offset
        state = (hashes[going] ^ _word(words, start[going] + offset, left)) * _ODD
        hashes[going] = state ^ (state >> np.uint64(32))
        offset += WORD_BYTES
        going = going[left > WORD_BYTES]
    return hashes
