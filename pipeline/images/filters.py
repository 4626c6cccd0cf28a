"""Cheap filters: pure functions from a picture's values to a drop reason, or None to keep it."""

from pipeline.images.config import FilterConfig


def bytes_reason(num_bytes: int, config: FilterConfig) -> str | None:
    """Why a received file falls before anybody decodes it.

    Args:
        num_bytes: Its length.
        config: ``min_bytes``.
    """
    return "too_few_bytes" if num_bytes < config.min_bytes else None


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
