"""CLIP's byte-pair tokenizer: caption → ids.

The vocabulary is the file that ships in open_clip's wheel; it is found without importing
open_clip, which costs ten seconds. Source: Sennrich et al. 2016; Radford et al. 2021 §2.4.
"""

import gzip
import html
import importlib.util
import itertools
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import ftfy
import numpy as np
import regex
from jaxtyping import Int64

from pipeline.errors import ConfigError
from pipeline.models.config import CONTEXT_LENGTH, VOCABULARY_SIZE

START, END = VOCABULARY_SIZE - 2, VOCABULARY_SIZE - 1
_VOCABULARY_FILE = "bpe_simple_vocab_16e6.txt.gz"
_NUM_MERGES = VOCABULARY_SIZE - 2 * 256 - 2
_WORD = regex.compile(
    r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


class Tokenizer:
    """Byte-pair encoder with CLIP's vocabulary."""

    def __init__(self) -> None:
        """Read the vocabulary."""
        merges = _read_merges()
        letters = _byte_letters()
        self._letter_of_byte = letters
        ordered = sorted(letters, key=_byte_order)
        symbols = [letters[byte] for byte in ordered]
        vocabulary = [*symbols, *(symbol + "</w>" for symbol in symbols)]
        vocabulary += ["".join(pair) for pair in merges]
        self._id = {symbol: index for index, symbol in enumerate(vocabulary)}
        self._id |= {"<start_of_text>": START, "<end_of_text>": END}
        self._symbols = vocabulary
        self._rank = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[int]] = {}

    @property
    def vocabulary(self) -> dict[str, int]:
        """Every symbol's id; marks are written ``<start_of_text>`` and ``<end_of_text>``."""
        return dict(self._id)

    @property
    def merges(self) -> list[tuple[str, str]]:
        """Pairs of symbols that become one, the most frequent first."""
        return list(self._rank)

    def encode(self, text: str, context_length: int = CONTEXT_LENGTH) -> list[int]:
        """Start mark, byte pairs, end mark; the end mark is always kept.

        Args:
            text: Any caption; mended, unescaped, lower-cased, with single spaces.
            context_length: Ids at most; CLIP's own weights read 77.
        """
        clean = html.unescape(html.unescape(ftfy.fix_text(text)))
        clean = " ".join(clean.split()).lower()
        ids = [index for word in _WORD.findall(clean) for index in self._word_ids(word)]
        return [START, *ids[: context_length - 2], END]

    def __call__(self, texts: Sequence[str]) -> Int64[np.ndarray, " caption 77"]:
        """Encode captions and pad them with zeros."""
        return pad([self.encode(text) for text in texts])

    def decode(self, ids: Iterable[int]) -> str:
        """The caption of ids as people read it: clean as `encode` made it, words apart.

        Args:
            ids: With or without marks; whatever stands behind the end mark is padding.
        """
        known = itertools.takewhile(lambda index: index != END, ids)
        letters = "".join(self._symbols[index] for index in known if index != START)
        bytes_of = {letter: byte for byte, letter in self._letter_of_byte.items()}
        words = letters.replace("</w>", " ").split()
        return " ".join(
            bytes(bytes_of[letter] for letter in word).decode(errors="replace") for word in words
        )

    def _word_ids(self, word: str) -> list[int]:
        if word in ("<start_of_text>", "<end_of_text>"):
            return [self._id[word]]
        if word not in self._known:
            letters = [self._letter_of_byte[byte] for byte in word.encode()]
            letters[-1] += "</w>"
            self._known[word] = [self._id[symbol] for symbol in self._merge(letters)]
        return self._known[word]

    def _merge(self, symbols: list[str]) -> list[str]:
        """Join the pair of lowest rank, everywhere, until no pair is in the table."""
        while len(symbols) > 1:
            pairs = list(itertools.pairwise(symbols))
            best = min(pairs, key=lambda pair: self._rank.get(pair, len(self._rank)))
            if best not in self._rank:
                break
            merged, index = [], 0
            while index < len(symbols):
                step = 2 if tuple(symbols[index : index + 2]) == best else 1
                merged.append("".join(symbols[index : index + step]))
                index += step
            symbols = merged
        return symbols


@lru_cache(maxsize=1)
def tokenizer() -> Tokenizer:
    """The process's one tokenizer; the first call reads the vocabulary (0.2 s)."""
    return Tokenizer()


def pad(token_lists: Sequence[Sequence[int]]) -> Int64[np.ndarray, " caption 77"]:
    """Stack id lists to the context length, zeros behind the end mark."""
    rows = np.zeros((len(token_lists), CONTEXT_LENGTH), dtype=np.int64)
    for row, ids in zip(rows, token_lists, strict=True):
        row[: len(ids)] = ids
    return rows


def _read_merges() -> list[tuple[str, str]]:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        raise ConfigError("the tokenizer's vocabulary ships with open_clip_torch: install it")
    lines = gzip.decompress((Path(spec.origin).parent / _VOCABULARY_FILE).read_bytes())
    pairs = (line.split() for line in lines.decode().split("\n")[1 : _NUM_MERGES + 1])
    return [(first, second) for first, second in pairs]


def _is_printable(byte: int) -> bool:
    return 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255


def _byte_order(byte: int) -> tuple[bool, int]:
    return (not _is_printable(byte), byte)


def _byte_letters() -> dict[int, str]:
    """A printable letter for every byte: itself, or one from U+0100 on."""
    others = [byte for byte in range(256) if not _is_printable(byte)]
    letters = {byte: chr(byte) for byte in range(256) if _is_printable(byte)}
    return letters | {byte: chr(256 + index) for index, byte in enumerate(others)}
