"""What a CLIP knows without training on it: zero-shot accuracy, and retrieval.

Dimension names: ``picture``, ``caption``, ``class``, ``dim`` (joint embedding).
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int64
from PIL import UnidentifiedImageError

from pipeline.errors import DataError
from pipeline.evaluation.labelled_data import Labelled, LabelledData
from pipeline.evaluation.metrics import Z95, Estimate, normalised, proportion
from pipeline.evaluation.protocols import Estimates
from pipeline.images.decode import open_rgb
from pipeline.models.clip import ClipModel
from pipeline.models.tokenizer import tokenizer
from pipeline.models.zero_shot import class_embeddings
from pipeline.progress import Progress
from pipeline.shards.clip_encoder import ClipEncoder, open_clip_square

READ_AHEAD = 1024
"""Encoded pictures held at a time."""
RECALLS = (1, 5, 10)
BLOCK = 1024


@dataclass
class _Embedded:
    """Embeddings of a data set, in its order."""

    z_img: list[np.ndarray] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    captions: list[str] = field(default_factory=list)
    owners: list[int] = field(default_factory=list)
    """Number of each caption's picture."""


def check_clip(
    clip: ClipModel, data: LabelledData, name: str, batch_size: int, progress: Progress
) -> Estimates:
    """Zero-shot accuracy of a data set with classes, recall at k of one with captions.

    Pictures are prepared as open_clip does: the shorter side scaled, the centre cut out.

    Args:
        clip: The model, on the device that computes.
        data: What it is asked about.
        name: Of the CLIP, in the metrics' names.
        batch_size: Pictures computed together.
        progress: Where to tell people how far it is.

    Raises:
        DataError: A picture cannot be decoded, or there are fewer than two.
        ConfigError: A template has no place for the class's name.
    """
    classes = None
    if data.classes:  # before the first picture, so that a bad template costs nothing
        classes = class_embeddings(clip, data.classes, data.templates).float().cpu().numpy()
    device = clip.logit_scale.device
    encoder = ClipEncoder(clip, batch_size, device)
    found = _Embedded()
    with progress.stage(data.name, total=len(data.files), unit="files") as bar:
        for part in _parts(data.samples()):
            found.z_img.append(_pictures(encoder, part))
            for sample in part:
                if sample.label is not None:
                    found.labels.append(sample.label)
                owner = len(found.owners) and found.owners[-1] + 1
                found.captions += sample.captions
                found.owners += [owner] * len(sample.captions)
            bar.to(part[-1].file + 1)
    if not found.z_img or sum(map(len, found.z_img)) < 2:
        raise DataError(f"{data.name}: fewer than two pictures; nothing can be measured")
    z_img = normalised(np.concatenate(found.z_img))
    start = f"{data.name}_{name}".replace(".", "_").replace("-", "_")
    if classes is not None:
        return _accuracy(z_img, np.array(found.labels), classes, start)
    tokens = [tokenizer().encode(text, clip.config.text.context_length) for text in found.captions]
    z_txt = normalised(encoder.texts(tokens).astype(np.float32))
    return _retrieval(z_img, z_txt, np.array(found.owners), start)


def _parts(samples: Iterator[Labelled]) -> Iterator[list[Labelled]]:
    while part := list(itertools.islice(samples, READ_AHEAD)):
        yield part


def _pictures(encoder: ClipEncoder, part: list[Labelled]) -> Float32[np.ndarray, " picture dim"]:
    names = {id(sample.picture): sample.name for sample in part}

    def decode(picture: bytes) -> np.ndarray:
        try:
            return open_clip_square(open_rgb(picture), encoder.side_px)
        except (UnidentifiedImageError, OSError, ValueError) as error:
            raise DataError(
                f"{names[id(picture)]}: no picture that can be read: {error}"
            ) from error

    return encoder.images([sample.picture for sample in part], decode).astype(np.float32)


def _accuracy(
    z_img: Float32[np.ndarray, " picture dim"],
    labels: Int64[np.ndarray, " picture"],
    classes: Float32[np.ndarray, " class dim"],
    start: str,
) -> Estimates:
    """Accuracy at 1 and 5, and the mean of the classes' own accuracies (Radford et al. 2021)."""
    scores = z_img @ classes.T
    own = scores[np.arange(len(labels)), labels]
    ranks = (scores >= own[:, None]).sum(axis=1)  # ties count against the class
    num = len(labels)
    found = {f"{start}_accuracy_at_1_{num}": proportion(int((ranks == 1).sum()), num)}
    if len(classes) > 5:
        found[f"{start}_accuracy_at_5_{num}"] = proportion(int((ranks <= 5).sum()), num)
    found[f"{start}_mean_class_accuracy_{num}"] = _by_class(ranks == 1, labels)
    return found


def _by_class(
    right: Bool[np.ndarray, " picture"], labels: Int64[np.ndarray, " picture"]
) -> Estimate:
    """Normal interval of a mean of independent shares, one per class that has pictures."""
    shares = [right[labels == label] for label in np.unique(labels)]
    means = np.array([each.mean() for each in shares])
    variance = sum(m * (1 - m) / len(each) for m, each in zip(means, shares, strict=True))
    half = Z95 * math.sqrt(variance) / len(means)
    mean = float(means.mean())
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half), len(right))


def _retrieval(
    z_img: Float32[np.ndarray, " picture dim"],
    z_txt: Float32[np.ndarray, " caption dim"],
    owners: Int64[np.ndarray, " caption"],
    start: str,
) -> Estimates:
    """Recall at k in both directions; of a picture with several captions any one counts."""
    num, of_text = len(z_img), np.empty(len(z_txt), np.int64)
    best = np.full(num, -np.inf, np.float32)
    for first in range(0, len(z_txt), BLOCK):
        rows = slice(first, first + BLOCK)
        scores = z_txt[rows] @ z_img.T
        own = scores[np.arange(len(scores)), owners[rows]]
        of_text[rows] = (scores >= own[:, None]).sum(axis=1)
        np.maximum.at(best, owners[rows], own)
    of_picture = np.ones(num, np.int64)
    for first in range(0, len(z_txt), BLOCK):
        rows = slice(first, first + BLOCK)
        is_other = owners[rows][:, None] != np.arange(num)
        of_picture += ((z_txt[rows] @ z_img.T >= best) & is_other).sum(axis=0)
    directions = {"text_to_image": (of_text, num), "image_to_text": (of_picture, len(z_txt))}
    return {
        f"{start}_{direction}_recall_at_{k}_of_{size}": proportion(
            int((ranks <= k).sum()), len(ranks)
        )
        for direction, (ranks, size) in directions.items()
        for k in RECALLS
        if k < size
    }


def on_device(clip: ClipModel) -> ClipModel:
    """The model on CUDA where there is one."""
    return clip.eval().to("cuda" if torch.cuda.is_available() else "cpu")
