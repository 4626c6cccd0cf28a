"""Exact search over a run's embeddings: the nearest pictures to a text or a picture, by cosine.

Every shard's ``z_img`` is read once, one shard in memory at a time, and only the best rows are
kept; nothing is approximated and no index is built. Dimension names: ``query``, ``sample``,
``dim``.
"""

import heapq
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float16, Float32

from pipeline import storage
from pipeline.errors import ConfigError, DataError
from pipeline.images.config import DecodeConfig
from pipeline.looking.pick import Place
from pipeline.looking.scores import Scored
from pipeline.models.presets import load_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.results import Result
from pipeline.shards import views
from pipeline.shards.adopt_sample import upright
from pipeline.shards.clip_encoder import ClipEncoder, open_clip_square
from pipeline.shards.curated import decode
from pipeline.shards.embedding_files import EmbeddedDataset
from pipeline.shards.views import shrunk

Vectors = Float32[np.ndarray, " query dim"]


class Hit(NamedTuple):
    """A sample and how near it is."""

    cosine: float
    place: Place


class QueryEncoder:
    """The run's own CLIP, for queries in the space of its embeddings."""

    def __init__(self, results: Mapping[str, Result], scored: Scored) -> None:
        """Load the weights by which the pictures were embedded.

        Raises:
            ConfigError: The run has no embeddings.
            DataError: The weights are not those of the embeddings.
        """
        embedded, clip = results.get("embed"), results.get("clip")
        if embedded is None or clip is None:
            raise ConfigError(
                "a search needs embeddings and their CLIP, and this run has none: run embed first"
            )
        uri = storage.join(clip.uri, clip.content["weights"]["name"])
        found = storage.sha256_of(uri)
        if found != embedded.content["clip_sha256"]:
            raise DataError(
                f"{uri}: sha256 {found[:12]}… is not the CLIP of these embeddings, "
                f"{embedded.content['clip_sha256'][:12]}…; embed again"
            )
        self._encoder = ClipEncoder(load_clip(uri), 1, torch.device("cpu"))
        self._dataset = scored.dataset
        self._of_shards = embedded.manifest["config"].get("pictures") == "shard"

    def text(self, text: str) -> Float16[np.ndarray, " dim"]:
        """``z_txt`` of a text."""
        return self._encoder.texts([tokenizer().encode(text)])[0]

    def picture(self, path: str) -> Float16[np.ndarray, " dim"]:
        """``z_img`` of a picture file, prepared as the data set's pictures were.

        Raises:
            ConfigError: There is no such file, or it is no picture.
        """
        try:
            image = upright(storage.read_bytes(path), DecodeConfig().max_pixels)
        except (OSError, ValueError) as error:
            raise ConfigError(
                f"--search-picture {path}: {error}; give a JPEG, PNG, WebP or GIF file"
            ) from error
        side = self._encoder.side_px
        if self._of_shards:
            pixels = open_clip_square(image, side)
        else:
            stored = views.encode_view(image, self._dataset.view_for(side))
            pixels = shrunk(decode(stored), side)
        return self._encoder.images([b""], lambda _: pixels)[0]


def nearest(
    embedded: EmbeddedDataset, num_shards: int, queries: Vectors, number: int
) -> list[list[Hit]]:
    """The samples nearest to each query, nearest first; equal ones in the data set's order.

    Args:
        embedded: The embeddings.
        num_shards: How many shards there are.
        queries: One vector each, of any length.
        number: Samples of each query.
    """
    directions = _normalised(queries)
    best: list[list[tuple[float, int, int, str]]] = [[] for _ in directions]
    for shard in range(num_shards):
        keys, z_img = embedded.images(shard)
        cosines = _normalised(z_img.astype(np.float32)) @ directions.T
        for found, column in zip(best, cosines.T, strict=True):
            rows = np.argsort(-column, kind="stable")[:number]
            new = [(float(-column[row]), shard, int(row), keys[row]) for row in rows]
            found[:] = list(heapq.merge(found, new))[:number]
    return [_hits(found) for found in best]


def _hits(found: Sequence[tuple[float, int, int, str]]) -> list[Hit]:
    return [Hit(-distance, Place(shard, key)) for distance, shard, _, key in found]


def _normalised(vectors: Float32[np.ndarray, " row dim"]) -> Float32[np.ndarray, " row dim"]:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(1e-12))
