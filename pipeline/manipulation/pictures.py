"""Pictures and masks that somebody gives, as squares; no torch before all are checked.

Dimension names: ``batch``; ``side`` (pixels).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from pipeline import storage
from pipeline.errors import ConfigError
from pipeline.images.config import DecodeConfig
from pipeline.models.pictures import to_unit
from pipeline.shards.adopt_sample import upright
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.views import centre_square, view

PAINTED_FROM = 128
"""Least grey of a mask that says: paint here."""


@dataclass(frozen=True)
class Given:
    """A picture to work on."""

    name: str
    """Its file, or its key."""
    image: Image.Image
    """Upright RGB."""
    caption: str
    """A sample's first; empty of a file."""


def read_file(path: str, option: str = "--picture") -> Image.Image:
    """A picture file, upright and RGB.

    Raises:
        ConfigError: There is no such file, or it is no picture.
    """
    try:
        return upright(storage.read_bytes(path), DecodeConfig().max_pixels)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{option} {path}: {error}; give a JPEG, PNG, WebP or GIF file"
        ) from error


def read_samples(curated: CuratedDataset, keys: Sequence[str]) -> list[Given]:
    """Samples of a data set by key, in the order of ``keys``.

    Raises:
        ConfigError: A key is not there.
    """
    found: dict[str, Given] = {}
    for shard in range(len(curated.shards)):
        table = curated.rows(shard, ["key", "captions"])
        captions = dict(zip(table["key"].to_pylist(), table["captions"].to_pylist(), strict=True))
        here = captions.keys() & {*keys}
        stored = curated.pictures(shard, keys=here) if here else {}
        for key, encoded in stored.items():
            found[key] = Given(key, curated.open_picture(encoded), captions[key][0])
    for key in keys:
        if key not in found:
            raise ConfigError(
                f"--key {key}: {curated.uri} holds no such sample; jobs.inspect --sample shows "
                "some, --held-out 4 takes the first held-out ones"
            )
    return [found[key] for key in keys]


def read_mask(path: str, given: Given) -> Image.Image:
    """A mask as large as its picture: white where shall be painted, black where it is known.

    Raises:
        ConfigError: It is no picture, has another size, or leaves nothing known or to paint.
    """
    mask = read_file(path, "--mask").convert("L")
    if mask.size != given.image.size:
        raise ConfigError(
            f"--mask {path} is {_size(mask)} px, its picture {given.name} is {_size(given.image)}; "
            "a mask must be as large as its picture"
        )
    is_known = known_square(mask, min(mask.size))
    if is_known.all() or not is_known.any():
        what = "black: nothing is to paint" if is_known.all() else "white: nothing is known"
        raise ConfigError(f"--mask {path}: its centred square is all {what}; paint a part white")
    return mask


def square(image: Image.Image, side_px: int) -> Float[Tensor, " 3 side side"]:
    """The largest centred square, as the run's views are made, in [-1, 1]."""
    pixels = torch.from_numpy(np.array(view(image, side_px))).permute(2, 0, 1)
    return to_unit(pixels[None])[0]


def known_square(mask: Image.Image, side_px: int) -> Bool[Tensor, " 1 side side"]:
    """The same square of a mask: whether a pixel stands for known pixels alone."""
    painted = mask.point([255 if grey >= PAINTED_FROM else 0 for grey in range(256)])
    box = centre_square(*mask.size)
    small = painted.resize((side_px, side_px), Image.Resampling.BOX, box=box)
    return torch.from_numpy(np.array(small) == 0)[None]


def _size(image: Image.Image) -> str:
    return f"{image.width} x {image.height}"
