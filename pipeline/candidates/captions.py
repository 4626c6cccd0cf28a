"""Which captions are worth matching: pure functions from a column to a drop reason, or none."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.candidates.config import CaptionFilterConfig

CAPTION_TOO_SHORT = "caption_too_short"
REPEATED_CAPTION = "repeated_caption"


def caption_reasons(
    captions: pa.StringArray | pa.ChunkedArray, config: CaptionFilterConfig
) -> pa.StringArray | pa.ChunkedArray:
    """Why captions fall; null where one stays.

    Args:
        captions: NFC texts without nulls.
        config: ``min_chars`` in characters, ``min_words`` in runs between spaces.
    """
    trimmed = pc.call_function("utf8_trim_whitespace", [captions])
    words = pc.call_function("utf8_split_whitespace", [trimmed])
    num_words = pc.call_function("list_value_length", [words])
    num_chars = pc.call_function("utf8_length", [captions])
    few_words = pc.call_function("less", [num_words, pa.scalar(config.min_words)])
    few_chars = pc.call_function("less", [num_chars, pa.scalar(config.min_chars)])
    return reason_where(pc.call_function("or", [few_words, few_chars]), CAPTION_TOO_SHORT)


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
