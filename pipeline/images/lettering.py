"""Words on labels, drawn on pictures: what CLIP is attacked with, and what it can learn to read."""

from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

LABEL_SHARE = 0.22
"""Height of a label, of the picture's side."""
_FONT_SHARE = 0.75
_MAX_WIDTH_SHARE = 0.75
_MARGIN_SHARE = 1 / 40


@dataclass(frozen=True)
class Label:
    """A word in black on white; its middle and its height in fractions of the picture's side."""

    word: str
    x: float = 0.5
    y: float = 0.5
    height: float = LABEL_SHARE


def draw_label(image: Image.Image, label: Label) -> None:
    """Draw a label onto a square picture; long words are set smaller, not wider than it."""
    side = image.width
    font_px = side * label.height * _FONT_SHARE
    wide = ImageFont.load_default(font_px).getlength(label.word)
    font = ImageFont.load_default(font_px * min(1.0, _MAX_WIDTH_SHARE * side / max(wide, 1)))
    half = font.getlength(label.word) / 2 + side * _MARGIN_SHARE
    x, y = label.x * side, label.y * side
    top = y - side * label.height / 2
    pen = ImageDraw.Draw(image)
    pen.rectangle((x - half, top, x + half, top + side * label.height), "white", "black")
    pen.text((x, y), label.word, fill="black", font=font, anchor="mm")
