"""Reads colour, kind and background of one shape back from a picture, blind to any prompt.

Answers "none" where it finds no single solid shape on a plain background: on blank, noisy,
blurred or smeared pictures. Colours can be read from 16 px upwards, kinds from 64 px.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Bool, Complex, Float, UInt8
from PIL import Image, ImageFilter
from scipy import ndimage

from pipeline.demo.shapes import BACKGROUNDS, COLOURS, KINDS, shape_mask

NONE = "none"
COLOUR_PX = 32
KIND_PX = 128
KIND_MIN_PX = 32
_BORDER = 0.02
_BACKGROUND_TOLERANCE = 50.0
_BACKGROUND_SHARE = 0.6
_FOREGROUND_DISTANCE = 58.0
_AREAS = (0.02, 0.40)
_MIN_ALPHA = 0.65
_COLOUR_TOLERANCE = 60.0
_COLOUR_MARGIN = 0.8
_DEPTH = 0.7
_CONTRAST = 0.7
_MIN_SLOPE = 5.0
_NUM_SLOPES = 3
_NUM_HARMONICS = 8
_KIND_TOLERANCE = 0.12
_KIND_MARGIN = 0.75

Pixels = Float[np.ndarray, " height width rgb"]
Mask = Bool[np.ndarray, " height width"]


@dataclass(frozen=True)
class Reading:
    """What the oracle sees; None where it does not know. Without a colour there is nothing else."""

    colour: str | None
    kind: str | None
    background: str | None


UNREADABLE = Reading(None, None, None)


def read(picture: UInt8[np.ndarray, " height width rgb"] | Image.Image) -> Reading:
    """Read one picture.

    Colour and background are read from a copy of at most 32 px, which averages noise and texture
    away; the kind from one of 128 px.

    Args:
        picture: RGB, 0 to 255, of any side.
    """
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    image = image.convert("RGB")
    side_px = min(image.size)
    small = min(side_px, COLOUR_PX)
    pixels = np.asarray(image.resize((small, small), Image.Resampling.BOX), dtype=np.float32)
    found = _background(pixels)
    if found is None:
        return UNREADABLE
    background, ground = found
    shape = _largest_shape(pixels, ground)
    if shape is None:
        return UNREADABLE
    colour = _colour(pixels, shape, ground)
    if colour is None:
        return UNREADABLE
    kind = _kind(image, ground) if side_px >= KIND_MIN_PX else None
    return Reading(colour, kind, background)


def _background(pixels: Pixels) -> tuple[str, Float[np.ndarray, " rgb"]] | None:
    """The background's name and colour, where most of the border has one known colour."""
    width = max(1, round(_BORDER * min(pixels.shape[:2])))
    inside = np.zeros(pixels.shape[:2], dtype=bool)
    inside[width:-width, width:-width] = True
    border = pixels[~inside]
    ground = np.median(border, axis=0)
    distances = {
        name: float(np.linalg.norm(ground - np.array(value, dtype=np.float32)))
        for name, value in BACKGROUNDS.items()
    }
    name = min(distances, key=distances.__getitem__)
    near = np.linalg.norm(border - ground, axis=1) < _BACKGROUND_TOLERANCE
    if distances[name] > _BACKGROUND_TOLERANCE or near.mean() < _BACKGROUND_SHARE:
        return None
    return name, ground


def _largest_shape(pixels: Pixels, ground: Float[np.ndarray, " rgb"]) -> Mask | None:
    """The largest connected region unlike the background, if it can be a shape.

    It must have a shape's area, outweigh all other regions together, and not run from one border
    to the opposite one.
    """
    unlike = np.linalg.norm(pixels - ground, axis=2) > _FOREGROUND_DISTANCE
    labels = np.zeros(unlike.shape, dtype=np.int32)
    ndimage.label(unlike, output=labels)
    if not labels.any():
        return None
    areas = np.bincount(labels.ravel())[1:]
    shape = labels == 1 + int(areas.argmax())
    share = areas.max() / unlike.size
    if not _AREAS[0] <= share <= _AREAS[1] or 2 * areas.max() < areas.sum():
        return None
    rows, columns = shape.any(axis=1), shape.any(axis=0)
    if (rows[0] and rows[-1]) or (columns[0] and columns[-1]):
        return None
    return shape


def _colour(pixels: Pixels, shape: Mask, ground: Float[np.ndarray, " rgb"]) -> str | None:
    """The colour whose mixtures with the background come closest to the shape's inside."""
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(shape, 1)))[1:-1, 1:-1]
    inside = pixels[depth >= _DEPTH * depth.max()]
    contrast = np.linalg.norm(inside - ground, axis=1)
    # A shape of a few pixels has mixed pixels even in its inside.
    inside = inside[contrast >= _CONTRAST * contrast.max()]
    mean = inside.mean(axis=0)
    distances = {
        name: _distance(mean, np.array(rgb, dtype=np.float32), ground)
        for name, rgb in COLOURS.items()
    }
    best, second = sorted(distances, key=distances.__getitem__)[:2]
    if distances[best] > _COLOUR_TOLERANCE:
        return None
    if distances[best] > _COLOUR_MARGIN * distances[second]:
        return None
    spread = np.linalg.norm(inside - mean, axis=1)
    if np.mean(spread < _COLOUR_TOLERANCE) < 0.8:
        return None
    return best if _steepest_slope(pixels, shape, mean - ground) > _MIN_SLOPE else None


def _distance(
    mean: Float[np.ndarray, " rgb"],
    colour: Float[np.ndarray, " rgb"],
    ground: Float[np.ndarray, " rgb"],
) -> float:
    """Distance to the nearest mixture that is at least two thirds this colour."""
    way = colour - ground
    alpha = np.clip((mean - ground) @ way / (way @ way), _MIN_ALPHA, 1.0)
    return float(np.linalg.norm(mean - (ground + alpha * way)))


def _steepest_slope(pixels: Pixels, shape: Mask, way: Float[np.ndarray, " rgb"]) -> float:
    """How steeply the background turns into the shape, in shapes per side.

    Measured down and across, of which the smaller counts: a blur flattens both, a smear one.
    """
    alpha = np.clip((pixels @ way) / (way @ way), -10, 10)
    near = ndimage.binary_dilation(shape)
    slopes = []
    for axis in (0, 1):
        steps = np.abs(np.diff(np.where(near, alpha, np.nan), axis=axis)).ravel()
        steepest = np.sort(steps[~np.isnan(steps)])[-_NUM_SLOPES:]
        slopes.append(steepest.mean() * shape.shape[0])
    return float(min(slopes))


def _kind(image: Image.Image, ground: Float[np.ndarray, " rgb"]) -> str | None:
    """The kind whose outline has the same harmonics, if one is clearly nearest."""
    image = image.resize((KIND_PX, KIND_PX), Image.Resampling.BICUBIC)
    image = image.filter(ImageFilter.GaussianBlur(1.0))
    shape = _largest_shape(np.asarray(image, dtype=np.float32), ground)
    if shape is None:
        return None
    found = _harmonics(shape)
    distances = {
        kind: float(np.linalg.norm(found - template)) for kind, template in _templates().items()
    }
    best, second = sorted(distances, key=distances.__getitem__)[:2]
    clear = distances[best] < _KIND_MARGIN * distances[second]
    return best if clear and distances[best] < _KIND_TOLERANCE else None


def _harmonics(shape: Mask) -> Float[np.ndarray, " harmonic"]:
    r"""Magnitudes of the harmonics 1 to 8 of the squared radius about the centroid.

    .. math:: |c_k| / c_0, \quad c_k = \int_{shape} e^{-ik\theta}\, dA
            = \tfrac12 \int r(\theta)^2 e^{-ik\theta}\, d\theta

    They do not change with place, size or rotation; a circle has none, a triangle the third, a
    square the fourth, a star the fifth.
    """
    rows, columns = np.nonzero(_filled(shape))
    y, x = rows - rows.mean(), columns - columns.mean()
    radius = np.hypot(x, y)
    turn: Complex[np.ndarray, " pixel"] = np.where(
        radius > 0.5, (x + 1j * y) / np.maximum(radius, 0.5), 0
    )
    powers = np.cumprod(np.broadcast_to(turn, (_NUM_HARMONICS, turn.size)), axis=0)
    return np.abs(powers.mean(axis=1))


def _filled(shape: Mask) -> Bool[np.ndarray, " rows columns"]:
    """The shape without holes, cut out with a rim of one pixel."""
    rows, columns = np.flatnonzero(shape.any(axis=1)), np.flatnonzero(shape.any(axis=0))
    cut = np.pad(shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    outside = np.zeros(cut.shape, dtype=np.int32)
    ndimage.label(~cut, output=outside)
    return outside != outside[0, 0]


@cache
def _templates() -> dict[str, Float[np.ndarray, " harmonic"]]:
    masks = {kind: shape_mask(kind, (256, 256), (128.0, 128.0), 80.0) for kind in KINDS}
    return {kind: _harmonics(np.asarray(mask) > 127) for kind, mask in masks.items()}
