"""Cuts the texts of an Arrow column into tokens, all at once: no Python object per text or token.

Every byte has a class. Runs of class ``WORD`` are tokens, a sign is a token of its own, and a space
belongs to none. Where spaces count (``keep_empty``) two separators in a row hold an empty token
between them, as in ``str.split(" ")``; a sign counts as if it had a space on either side.

Dimensions: ``text`` of the column, ``token`` of all texts in order, ``cut`` between two tokens,
``byte`` of the joined texts, ``bound``: one more than texts.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex
from jaxtyping import Bool, Int64, UInt8

WORD, SPACE, SIGN, WIDE = range(4)
"""Classes. ``WIDE``: a UTF-8 lead byte, the class is that of the whole code point."""
PADDING = 8
"""Zero bytes behind the text, so that eight bytes may be read at every place."""

_UTF8_LEADS = range(0xC2, 0xF5)
_NUM_CODE_POINTS = 0x110000
_SURROGATES = range(0xD800, 0xE000)


@dataclass(frozen=True)
class Alphabet:
    """What separates tokens."""

    classes: bytes
    """Class of each of the 256 bytes."""
    keep_empty: bool
    """Whether nothing between two separators is a token."""
    fold_ascii: bool
    """Whether ``A`` to ``Z`` become lower-case letters."""


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of a column's texts lie."""

    data: bytes
    """The texts in UTF-8, a space after each, and ``PADDING``."""
    start: Int64[np.ndarray, " token"]
    """First byte of each token."""
    length: Int64[np.ndarray, " token"]
    """Bytes of each token."""
    first: Int64[np.ndarray, " bound"]
    """First token of each text; at the end the number of tokens."""


def alphabet(*, spaces: str, signs: str) -> Alphabet:
    """An alphabet of ASCII spaces and signs; every other byte is of a word, spaces count."""
    classes = bytearray(256)
    for characters, kind in ((spaces, SPACE), (signs, SIGN)):
        for character in characters:
            classes[ord(character)] = kind
    return Alphabet(bytes(classes), keep_empty=True, fold_ascii=False)


def unicode_alphabet() -> Alphabet:
    r"""Unicode's words (``\w``), spaces (``\s``), and signs, which is all else; ASCII folded."""
    classes = bytearray(_classes("".join(map(chr, range(128))))) + bytes(128)
    for lead in _UTF8_LEADS:
        classes[lead] = WIDE
    return Alphabet(bytes(classes), keep_empty=False, fold_ascii=True)


def split(texts: pa.Array, alphabet: Alphabet) -> Tokens:
    """The tokens of a column.

    Args:
        texts: Strings in valid UTF-8 without nulls, less than 2 GiB in all.
        alphabet: What separates them.
    """
    column = pa.ListArray.from_arrays(pa.array([0, len(texts)], pa.int32()), texts)
    joined = pc.call_function("binary_join", [column, pa.scalar(" ")])[0].as_buffer().to_pybytes()
    if alphabet.fold_ascii:
        joined = joined.lower()  # bytes: ASCII letters alone
    data = joined + b" " + bytes(PADDING)
    start, end = _between(*_cuts(data, len(joined), alphabet.classes), len(joined))
    if not alphabet.keep_empty:
        filled = end > start
        start, end = start[filled], end[filled]
    lengths = pc.call_function("binary_length", [texts]).to_numpy()
    text_start = np.zeros(len(texts) + 1, np.int64)
    np.cumsum(lengths + 1, dtype=np.int64, out=text_start[1:])
    return Tokens(data, start, end - start, np.searchsorted(start, text_start))


def _cuts(
    data: bytes, num_bytes: int, classes: bytes
) -> tuple[Int64[np.ndarray, " cut"], Int64[np.ndarray, " cut"], UInt8[np.ndarray, " cut"]]:
    """Place, width in bytes and class of every space and sign."""
    kinds = np.frombuffer(data.translate(classes), np.uint8, num_bytes)
    place = np.flatnonzero(kinds != WORD)
    kind = kinds[place]
    width = np.ones(len(place), np.int64)
    wide = np.flatnonzero(kind == WIDE)
    if wide.size:
        code_points, width[wide] = _decoded(np.frombuffer(data, np.uint8), place[wide])
        kind[wide] = _unicode_classes()[code_points]
        separates = kind != WORD
        place, width, kind = place[separates], width[separates], kind[separates]
    return place, width, kind


def _between(
    place: Int64[np.ndarray, " cut"],
    width: Int64[np.ndarray, " cut"],
    kind: UInt8[np.ndarray, " cut"],
    num_bytes: int,
) -> tuple[Int64[np.ndarray, " token"], Int64[np.ndarray, " token"]]:
    """First byte of each token and the byte after its last, empty tokens among them."""
    # A sign cuts twice, before itself and behind: SPACE and SIGN are the numbers of cuts.
    cut = np.repeat(np.arange(len(place)), kind)
    behind = np.zeros(len(cut), bool)
    behind[1:] = cut[1:] == cut[:-1]
    begins_behind: Bool[np.ndarray, " cut"] = behind | (kind[cut] == SPACE)
    place, width = place[cut], width[cut]
    start, end = np.zeros(len(cut) + 1, np.int64), np.empty(len(cut) + 1, np.int64)
    start[1:] = place + width * begins_behind
    end[:-1] = place + width * behind
    end[-1] = num_bytes
    return start, end


def _decoded(
    data: UInt8[np.ndarray, " byte"], place: Int64[np.ndarray, " cut"]
) -> tuple[Int64[np.ndarray, " cut"], Int64[np.ndarray, " cut"]]:
    """Code points of two to four bytes that begin at the places, and their widths (RFC 3629)."""
    lead, *following = (data[place + offset].astype(np.int64) for offset in range(4))
    width = 2 + (lead >= 0xE0) + (lead >= 0xF0)
    code_point = lead & (0xFF >> (width + 1))
    for offset, byte in enumerate(following, start=1):
        code_point = np.where(offset < width, code_point << 6 | byte & 0x3F, code_point)
    return code_point, width


def _classes(characters: str) -> bytes:
    """Class of each character."""
    classes = bytearray([SIGN]) * len(characters)
    for pattern, kind in ((r"\w+", WORD), (r"\s+", SPACE)):
        for match in regex.finditer(pattern, characters):
            first, last = match.span()
            classes[first:last] = bytes([kind]) * (last - first)
    return bytes(classes)


@lru_cache(maxsize=1)
def _unicode_classes() -> UInt8[np.ndarray, " code_point"]:
    """Class of every code point; about 0.2 s, once per process that meets one beyond ASCII."""
    everything = map(chr, range(_NUM_CODE_POINTS))
    text = "".join("a" if ord(each) in _SURROGATES else each for each in everything)
    return np.frombuffer(_classes(text), np.uint8)
