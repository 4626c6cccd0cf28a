"""Columns of tables as plain arrays: numbers, hashes of keys."""

import hashlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float32, UInt64

from pipeline import draws
from pipeline.queries.balancing import UID_HEX_DIGITS, hashes, uid_words

UID = re.compile(r"[0-9a-f]{32}")
NUMBER = r"^\s*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?\s*$"


def as_float(column: pa.ChunkedArray) -> Float32[np.ndarray, " row"]:
    """A column of numbers, or of text that holds numbers, as float32; else NaN."""
    if pa.types.is_string(column.type):
        is_number = pc.call_function(
            "match_substring_regex", [column], pc.MatchSubstringOptions(NUMBER)
        )
        nothing = pa.scalar(None, pa.string())
        text = pc.call_function("if_else", [is_number, column, nothing])
        column = pc.cast(pc.call_function("utf8_trim_whitespace", [text]), pa.float64())
    found = column.cast(pa.float64(), safe=False).to_numpy()
    with np.errstate(over="ignore"):
        return found.astype(np.float32)


def best_similarity(lists: pa.ChunkedArray) -> Float32[np.ndarray, " row"]:
    """The highest of each list; -1 where there is none, NaN where all are NaN."""
    array = lists.combine_chunks()
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    values = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    best = np.full(len(array), -1, np.float32)
    filled = lengths > 0
    if filled.any():
        starts = np.cumsum(lengths) - lengths
        best[filled] = np.fmax.reduceat(values, starts[filled])
    return best


def phashes(column: pa.ChunkedArray) -> UInt64[np.ndarray, " row"]:
    """Perceptual hashes of 16 hex digits as numbers."""
    return np.array([int(text, 16) for text in column.to_pylist()], np.uint64)


def uids(keys: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Keys as 32 hex digits: as they are where they have that form, else hashed."""
    array = keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys
    if _are_uids(array):
        return array
    return pa.array([_uid(key) for key in array.to_pylist()], pa.string())


def key_hashes(
    keys: pa.Array | pa.ChunkedArray, purpose: str, seed: int
) -> UInt64[np.ndarray, " row"]:
    """A 64-bit hash of each key for a purpose: the same in any shard and at any place."""
    words = uid_words(uids(keys))
    return hashes(words, np.zeros(len(words), np.int64), draws.hash64(purpose, seed))


def _are_uids(array: pa.Array) -> bool:
    """Whether every key has 32 lower-case hex digits; no regular expression is as fast."""
    lengths = pc.call_function("binary_length", [array]).to_numpy(zero_copy_only=False)
    if (lengths != UID_HEX_DIGITS).any():
        return False
    letters = np.frombuffer(_joined(array), np.uint8)
    # Differences below zero wrap to large ones.
    is_digit, is_letter = letters - np.uint8(ord("0")) < 10, letters - np.uint8(ord("a")) < 6
    return bool((is_digit | is_letter).all())


def _joined(array: pa.Array) -> bytes:
    """All texts of an array in one."""
    column = pa.ListArray.from_arrays(pa.array([0, len(array)], pa.int32()), array)
    joined = pc.call_function("binary_join", [column, pa.scalar("")])[0]
    return joined.as_buffer().to_pybytes()


def _uid(key: str) -> str:
    return key if UID.fullmatch(key) else hashlib.blake2b(key.encode(), digest_size=16).hexdigest()
