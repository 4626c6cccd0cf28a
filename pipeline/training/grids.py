"""Pictures of a training side by side, as PNG.

Dimension names: ``n`` (pictures); ``height width`` (pixels); ``scale`` (of guidance).
"""

import io
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

SHOWN_PX = 96
"""Side of a labelled picture; smaller ones are enlarged without smoothing."""
LINE_PX, GAP_PX = 16, 4
FONT_PX = 12


def grid_png(pictures: UInt8[Tensor, " n 3 height width"]) -> bytes:
    """Pictures side by side, as near to a square as their number allows."""
    tiles = pictures.cpu().permute(0, 2, 3, 1).numpy()
    number, height, width, _ = tiles.shape
    columns = math.ceil(math.sqrt(number))
    rows = math.ceil(number / columns)
    canvas = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, tile in enumerate(tiles):
        top, left = index // columns * height, index % columns * width
        canvas[top : top + height, left : left + width] = tile
    return _png(Image.fromarray(canvas))


def guidance_png(
    pictures: UInt8[Tensor, " scale n 3 side side"],
    scales: Sequence[float],
    captions: Sequence[str],
) -> bytes:
    """A row per caption, a column per guidance scale, both written beside the pictures.

    Args:
        pictures: By scale, then by caption.
        scales: Of guidance.
        captions: Written above their rows, cut where they are longer.
    """
    side = max(SHOWN_PX, pictures.shape[-1])
    step, row_px = side + GAP_PX, LINE_PX + side + GAP_PX
    canvas = Image.new("RGB", (len(scales) * step, LINE_PX + len(captions) * row_px), "white")
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(FONT_PX)
    for column, scale in enumerate(scales):
        draw.text((column * step + 2, 1), f"guidance {scale:g}", fill="black", font=font)
    tiles = pictures.cpu().permute(0, 1, 3, 4, 2).numpy()
    for row, caption in enumerate(captions):
        top = LINE_PX + row * row_px
        draw.text((2, top + 1), _cut(caption, canvas.width - 4, font), fill="black", font=font)
        for column in range(len(scales)):
            shown = Image.fromarray(tiles[column, row])
            shown = shown.resize((side, side), Image.Resampling.NEAREST)
            canvas.paste(shown, (column * step, top + LINE_PX))
    return _png(canvas)


def _cut(text: str, width: float, font: ImageFont.ImageFont | ImageFont.FreeTypeFont) -> str:
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}…") > width:
        text = text[:-1]
    return f"{text}…"


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()
