"""Cheap filters: pure functions from a row's values to a drop reason, or None to keep it."""

from pipeline.images.config import FilterConfig


def caption_reason(caption: str, config: FilterConfig) -> str | None:
    """Why a caption falls.

    Args:
        caption: Stripped NFC text.
        config: ``min_caption_chars`` in characters, ``min_caption_words`` in runs between spaces.
    """
    if len(caption) < config.min_caption_chars or len(caption.split()) < config.min_caption_words:
        return "caption_too_short"
    return None


def repeats_reason(num_pictures: int, config: FilterConfig) -> str | None:
    """Why a caption that stands on ``num_pictures`` different addresses falls."""
    return "repeated_caption" if num_pictures > config.max_caption_repeats else None


def picture_reason(width: int, height: int, config: FilterConfig) -> str | None:
    """Why a picture falls.

    Args:
        width: Of the received picture, upright, in pixels.
        height: Likewise.
        config: ``min_side_px`` for the shorter side; ``max_aspect_ratio``, longer / shorter side.
    """
    shorter, longer = sorted((width, height))
    if shorter < config.min_side_px:
        return "too_small"
    return "aspect_ratio" if longer > shorter * config.max_aspect_ratio else None
