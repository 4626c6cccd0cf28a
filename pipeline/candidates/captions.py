"""Which captions are worth matching: pure functions from a column to a drop reason, or none."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.candidates.config import CaptionFilterConfig

CAPTION_TOO_SHORT = "caption_too_short"
CAPTION_TOO_LONG = "caption_too_long"
REPEATED_CAPTION = "repeated_caption"


def caption_reasons(
    captions: pa.StringArray | pa.ChunkedArray, config: CaptionFilterConfig
) -> pa.StringArray | pa.ChunkedArray:
    """Why captions fall; null where one stays.

    Args:
        captions: NFC texts without nulls.
        config: Least and largest numbers of characters, and of words (runs between spaces).
    """
    trimmed = pc.call_function("utf8_trim_whitespace", [captions])
    words = pc.call_function("utf8_split_whitespace", [trimmed])
    num_words = pc.call_function("list_value_length", [words])
    num_chars = pc.call_function("utf8_length", [captions])
    few = _outside("less", (num_words, config.min_words), (num_chars, config.min_chars))
    many = _outside("greater", (num_words, config.max_words), (num_chars, config.max_chars))
    short, long = reason_where(few, CAPTION_TOO_SHORT), reason_where(many, CAPTION_TOO_LONG)
    return pc.call_function("coalesce", [short, long])


def _outside(
    comparison: str, *numbers: tuple[pa.Array | pa.ChunkedArray, int | None]
) -> pa.BooleanArray | pa.ChunkedArray:
    """Where any of the numbers is less, or greater, than its limit; None is no limit."""
    fallen = [
        pc.call_function(comparison, [values, pa.scalar(limit)])
        if limit is not None
        else pc.call_function("is_null", [values])
        for values, limit in numbers
    ]
    return pc.call_function("or", fallen)


def are_repeated(
    num_pictures: pa.Int64Array | pa.ChunkedArray, config: CaptionFilterConfig
) -> pa.BooleanArray | pa.ChunkedArray:
    """Whether captions that stand on so many different addresses fall."""
    return pc.call_function("greater", [num_pictures, pa.scalar(config.max_repeats)])


def reason_where(
    fallen: pa.BooleanArray | pa.ChunkedArray, reason: str
) -> pa.StringArray | pa.ChunkedArray:
    """A drop reason per row: this one, or null."""
    stays = pa.scalar(None, pa.string())
    return pc.call_function("if_else", [fallen, pa.scalar(reason), stays])
