"""From a sample to the arrays of one training example; all in NumPy.

Dimension names: ``side`` (pixels); ``event`` (shape of what is diffused).
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, Int64, UInt8
from PIL import Image

from pipeline.diffusion.config import DiffusionConfig
from pipeline.errors import DataError
from pipeline.models.config import OwnText, TextInput
from pipeline.models.text import own_tokens
from pipeline.models.tokenizer import pad, tokenizer
from pipeline.shards.loader import Sample


def picture(sample: Sample) -> UInt8[np.ndarray, " side side 3"]:
    """The sample's picture, which must be there."""
    if sample.image is None:
        raise DataError(f"sample {sample.key} has no picture; this task reads a view")
    return sample.image


def embedding(sample: Sample) -> Float32[np.ndarray, " dim"]:
    """The sample's raw image embedding, which must be there."""
    if sample.z_img is None:
        raise DataError(f"sample {sample.key} has no z_img; run the embed stage")
    return np.asarray(sample.z_img, dtype=np.float32)


def channels_first(
    image: UInt8[np.ndarray, " height width 3"],
) -> UInt8[np.ndarray, " 3 height width"]:
    """As the networks read it."""
    return np.ascontiguousarray(image.transpose(2, 0, 1))


def crop(
    image: UInt8[np.ndarray, " side side 3"], top: int, left: int, size: int
) -> UInt8[np.ndarray, " size size 3"]:
    """A square part of the picture."""
    return image[top : top + size, left : left + size]


def random_square(
    image: UInt8[np.ndarray, " side side 3"], rng: np.random.Generator, min_share: float
) -> UInt8[np.ndarray, " side side 3"]:
    """A random square of the picture, scaled to the picture's own side.

    The only augmentation of Radford et al. 2021 §2.4, with the scaling of open_clip's training.

    Args:
        image: The picture.
        rng: Decides size and place.
        min_share: Least share of the area, above 0; the share is drawn evenly up to 1.
    """
    whole = len(image)
    side = whole * rng.uniform(min_share, 1) ** 0.5
    left, top = rng.uniform(0, whole - side, size=2)
    box = (left, top, left + side, top + side)
    scaled = Image.fromarray(image).resize((whole, whole), Image.Resampling.BICUBIC, box)
    return np.asarray(scaled)


@dataclass(frozen=True)
class DrawnCaption:
    """One caption of a sample, as a task reads it."""

    index: int
    """Its place among the sample's captions, also where it is dropped."""
    text: str
    """Empty where it is dropped."""
    tokens: Int64[np.ndarray, " 77"]
    """CLIP's ids."""


def drawn_caption(sample: Sample, rng: np.random.Generator, drop_prob: float) -> DrawnCaption:
    """One caption drawn evenly, emptied with probability ``drop_prob``."""
    index = int(rng.integers(len(sample.captions)))
    if rng.random() < drop_prob:
        return DrawnCaption(index, "", _empty_tokens().copy())
    text = sample.captions[index]
    if sample.text_tokens:
        return DrawnCaption(index, text, pad([sample.text_tokens[index].tolist()])[0])
    return DrawnCaption(index, text, pad([tokenizer().encode(text)])[0])


def empty_caption() -> DrawnCaption:
    """What stands for a caption that is dropped."""
    return DrawnCaption(0, "", _empty_tokens().copy())


@lru_cache(maxsize=1)
def _empty_tokens() -> Int64[np.ndarray, " 77"]:
    return pad([tokenizer().encode("")])[0]


def text_arrays(caption: DrawnCaption, text: TextInput) -> dict[str, np.ndarray]:
    """The caption's ids for CLIP, and for the model's own encoder where it has one."""
    arrays: dict[str, np.ndarray] = {"text_tokens": caption.tokens}
    if isinstance(text, OwnText):
        arrays["own_tokens"] = own_tokens([caption.text], text)[0]
    return arrays


def caption_embedding(sample: Sample, index: int) -> Float32[np.ndarray, " dim"]:
    """The raw text embedding of one of the sample's captions, which must be there."""
    if not sample.z_txt:
        raise DataError(f"sample {sample.key} has no z_txt; run the embed stage")
    return np.asarray(sample.z_txt[index], dtype=np.float32)


def diffusion_draws(
    shape: tuple[int, ...], config: DiffusionConfig, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Step ``t``, uniform over the process, and standard normal noise ``eps``."""
    t = np.array(rng.integers(config.num_steps), dtype=np.int64)
    return {"t": t, "eps": rng.standard_normal(shape, dtype=np.float32)}
