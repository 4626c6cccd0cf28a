"""Addresses and captions in any number, drawn from a made-up language with Zipf's law.

Word r of the vocabulary has a probability proportional to 1 / r, so that a few queries are in most
captions and most queries in few. One caption in twenty is of a small stock and so stands often.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.draws import generator

NUM_WORDS = 200_000
NUM_DOMAINS = 50_000
ROWS_PER_FILE = 50_000
STOCK = 2_000
STOCK_SHARE = 0.05
SYLLABLES = [first + second for first in "bdfgklmnprst" for second in "aeiou"]


def write_pairs(folder: Path, num_rows: int) -> None:
    """Parquet files of ``url`` and ``caption``; the same rows for the same number."""
    folder.mkdir(parents=True)
    words = pa.array(vocabulary())
    stock = _captions(generator(0, "stock", 0), words, STOCK)
    for number, first in enumerate(range(0, num_rows, ROWS_PER_FILE)):
        num = min(ROWS_PER_FILE, num_rows - first)
        rng = generator(0, "pairs", number)
        often = pa.array(rng.random(num) < STOCK_SHARE)
        captions = pc.if_else(
            often, stock.take(pa.array(_ranks(rng, STOCK, num))), _captions(rng, words, num)
        )
        domains = pa.array(_ranks(rng, NUM_DOMAINS, num)).cast(pa.string())
        numbers = pa.array(np.arange(first, first + num)).cast(pa.string())
        urls = pc.binary_join_element_wise(
            "https://img.shop", domains, ".com/photos/", numbers, ".jpg", ""
        )
        table = pa.table({"url": urls, "caption": captions})
        pq.write_table(table, folder / f"{number:05d}.parquet")


def queries(num: int) -> list[str]:
    """All words, then pairs of words as they follow each other in captions."""
    words, rng = vocabulary(), generator(0, "queries", 0)
    found = dict.fromkeys(words)
    while len(found) < num:
        pairs = zip(_ranks(rng, NUM_WORDS, num), _ranks(rng, NUM_WORDS, num), strict=True)
        found.update((f"{words[first]} {words[second]}", None) for first, second in pairs)
    return list(found)[:num]


def vocabulary() -> list[str]:
    """Distinct made-up words of two to four syllables."""
    base, words = len(SYLLABLES), []
    for number in range(base, base + NUM_WORDS):
        syllables = []
        while number:
            number, digit = divmod(number, base)
            syllables.append(SYLLABLES[digit])
        words.append("".join(syllables))
    return words


def _captions(rng: np.random.Generator, words: pa.Array, num: int) -> pa.Array:
    """Captions of five to fifteen words."""
    offsets = np.concatenate([[0], np.cumsum(rng.integers(5, 16, num))]).astype(np.int32)
    chosen = words.take(pa.array(_ranks(rng, len(words), int(offsets[-1]))))
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets), chosen), " ")


def _ranks(rng: np.random.Generator, num_ranks: int, num: int) -> np.ndarray:
    """Ranks from 0 with probabilities in proportion to 1 / (rank + 1), nearly."""
    return np.exp(rng.random(num) * np.log(num_ranks)).astype(np.int64) - 1
