"""Sheets of pictures for people: rows are samples, columns are ways to make them.

Dimension names: ``picture``, ``side`` (pixels; may differ from column to column).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

HEAD_PX, GAP_PX = 18, 4


@dataclass(frozen=True)
class Column:
    """Pictures that were made in the same way, row by row."""

    name: str
    pictures: UInt8[np.ndarray, " picture side side 3"]


def sheet(
    columns: Sequence[Column], num_rows: int, side_px: int, row_names: Sequence[str] = ()
) -> bytes:
    """The first rows side by side under the columns' names, as PNG.

    Args:
        columns: Left to right.
        num_rows: Rows shown, at most.
        side_px: Side of a shown picture; others are resized without smoothing.
        row_names: One line above each row; none leaves no room for them.
    """
    rows = min(num_rows, *(len(column.pictures) for column in columns))
    above = HEAD_PX if row_names else 0
    step, down = side_px + GAP_PX, side_px + GAP_PX + above
    longest = max((ceil(ImageFont.load_default().getlength(name)) for name in row_names), default=0)
    width = max(len(columns) * step, longest + GAP_PX)
    canvas = Image.new("RGB", (width, HEAD_PX + rows * down), "white")
    draw = ImageDraw.Draw(canvas)
    for row, name in enumerate(row_names[:rows]):
        draw.text((2, HEAD_PX + row * down + 3), name, fill="black")
    for place, column in enumerate(columns):
        draw.text((place * step + 2, 3), column.name, fill="black")
        for row, picture in enumerate(column.pictures[:rows]):
            shown = Image.fromarray(picture).resize((side_px, side_px), Image.Resampling.NEAREST)
            canvas.paste(shown, (place * step, HEAD_PX + row * down + above))
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
