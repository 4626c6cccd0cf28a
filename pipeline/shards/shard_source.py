"""The kept samples of one split of one data set, read one whole shard at a time.

The shards that coming steps read are announced: they are read ahead in threads and stay, encoded,
until no announced step needs them. With what is left of the byte budget more shards and decoded
pictures stay. The prior's source opens no picture.

Dimension names: ``sample``, ``side`` (pixels).
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64, Int, UInt8

from pipeline.errors import DataError
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embedding_files import EmbeddedDataset, EmbeddedShard
from pipeline.shards.keep_list import KeepList
from pipeline.shards.loader import Sample
from pipeline.shards.sampler import Order

READING_THREADS = 4


@dataclass
class _Shard:
    """The kept samples of one split of one shard."""

    keys: list[str]
    weights: Float64[np.ndarray, " sample"]
    captions: list[tuple[str, ...]]
    pictures: list[bytes] | None
    embedded: EmbeddedShard | None
    decoded: dict[int, UInt8[np.ndarray, " side side 3"]] = field(default_factory=dict)

    @property
    def num_bytes(self) -> int:
        pictures = sum(map(len, self.pictures or ()))
        decoded = sum(image.nbytes for image in self.decoded.values())
        return pictures + decoded + (self.embedded.num_bytes if self.embedded else 0)


class _Shelf:
    """Shards in memory: those that are announced, and others while there is room."""

    def __init__(self, read: Callable[[int], _Shard], cache_bytes: int) -> None:
        self._read, self._cache_bytes = read, cache_bytes
        self._held: OrderedDict[int, _Shard] = OrderedDict()
        self._held_bytes = 0
        self._announced: Collection[int] = ()
        self._coming: dict[int, Future[_Shard]] = {}
        self._threads = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="read-shard")

    def announce(self, shards: Collection[int]) -> None:
        self._announced = shards
        for shard in shards:
            if shard not in self._held and shard not in self._coming:
                self._coming[shard] = self._threads.submit(self._read, shard)
        self._drop()

    def get(self, shard: int) -> _Shard:
        held = self._held.get(shard)
        if held is None:
            coming = self._coming.pop(shard, None)
            held = self._held[shard] = coming.result() if coming else self._read(shard)
            self._held_bytes += held.num_bytes
            self._drop()
        self._held.move_to_end(shard)
        return held

    def has_room(self, num_bytes: int) -> bool:
        """Whether so many bytes more may stay; if so, they are counted."""
        fits = self._held_bytes + num_bytes <= self._cache_bytes
        self._held_bytes += num_bytes * fits
        return fits

    def _drop(self) -> None:
        for shard in list(self._held)[:-1]:
            if self._held_bytes <= self._cache_bytes:
                return
            if shard not in self._announced:
                self._held_bytes -= self._held.pop(shard).num_bytes


class ShardSource:
    """Random access to the kept samples of one split."""

    def __init__(
        self,
        curated: CuratedDataset,
        keep: KeepList,
        split: str,
        *,
        view_px: int | None,
        image_px: int | None = None,
        embedded: EmbeddedDataset | None,
        cache_bytes: int,
    ) -> None:
        """Stand on finished stages; nothing is read yet.

        Args:
            curated: The dataset.
            keep: Which of its samples.
            split: ``train``, ``validation`` or ``test``.
            view_px: Side of the view to read, or None to open no picture.
            image_px: Side to which views are shrunk; their own by default.
            embedded: Embeddings of the same dataset, or None.
            cache_bytes: Memory for shards and decoded pictures; announced shards may exceed it.

        Raises:
            ConfigError: The dataset has no such view.
            DataError: The keep-list names other shards than the dataset.
        """
        names = [entry["name"] for entry in curated.shards]
        listed = [entry["name"] for entry in keep.entry["shards"]]
        if names != listed:
            raise DataError(
                f"{keep.uri} lists {len(listed)} shards, {curated.uri} holds {len(names)} "
                "others; run select again on this dataset"
            )
        if view_px is not None:
            curated.require_view(view_px)
        self.counts = keep.counts(split)
        """Kept samples per shard."""
        self._curated, self._keep, self._split = curated, keep, split
        self._view_px, self._image_px, self._embedded = view_px, image_px, embedded
        self._shelf = _Shelf(self._read, cache_bytes)

    @property
    def has_weights(self) -> bool:
        """Whether some sample's loss weighs more than another's."""
        return self._keep.has_weights

    def order(self, seed: int, num_lanes: int) -> Order:
        """The order in which a training reads it."""
        return Order(self.counts, seed, num_lanes)

    def held_out(self, seed: int, num_samples: int) -> Int[np.ndarray, " sample 2"]:
        """Shards and offsets of a few samples, each at most once: those that validation reads."""
        total = min(sum(self.counts), num_samples)
        if total == 0:
            return np.empty((0, 2), np.int64)
        return Order(self.counts, seed, 1).locate(np.arange(total, dtype=np.int64))

    def announce(self, shards: Collection[int]) -> None:
        """Read these shards ahead, and keep them until another announcement leaves them out."""
        self._shelf.announce(shards)

    def keys(self, shard: int, offsets: Sequence[int] | None = None) -> list[str]:
        """Keys of one shard's kept samples, or of some, without reading the samples."""
        return self._keep.keys(shard, self._split, offsets)

    def sample(self, position: int, shard: int, offset: int) -> Sample:
        """The sample at an offset among a shard's kept ones."""
        held = self._shelf.get(shard)
        image = None if held.pictures is None else self._image(held, offset)
        if held.embedded is None:
            tokens, z_img, z_txt = (), None, ()
        else:
            tokens, z_img, z_txt = held.embedded.of(offset)
        key, captions = held.keys[offset], held.captions[offset]
        weight = float(held.weights[offset])
        return Sample(position, key, image, captions, tokens, z_img, z_txt, weight)

    def _image(self, held: _Shard, offset: int) -> UInt8[np.ndarray, " side side 3"]:
        image = held.decoded.get(offset)
        if image is None:
            assert held.pictures is not None
            image = decode(held.pictures[offset], self._image_px)
            if self._shelf.has_room(image.nbytes):
                held.decoded[offset] = image
        return image

    def _read(self, shard: int) -> _Shard:
        kept = self._keep.rows(shard, self._split, ["key", "weight"])
        keys, weights = kept["key"].to_pylist(), self._keep.weights(kept, self._split)
        rows = self._curated.rows(shard, ["key", "captions"])
        captions = dict(zip(rows["key"].to_pylist(), rows["captions"].to_pylist(), strict=True))
        pictures = None
        if self._view_px is not None:
            stored = self._curated.pictures(shard, self._view_px, set(keys))
            _require(keys, stored, f"the {self._view_px} px view of shard {shard}")
            pictures = [stored[key] for key in keys]
        embedded = None if self._embedded is None else self._embedded.shard(shard, keys)
        _require(keys, captions, f"the rows of shard {shard}")
        texts = [tuple(captions[key]) for key in keys]
        return _Shard(keys, weights, texts, pictures, embedded)


def _require(keys: list[str], stored: Mapping[str, Any], what: str) -> None:
    missing = [key for key in keys if key not in stored]
    if missing:
        raise DataError(f"{len(missing)} kept samples are missing in {what}, first {missing[0]}")
