"""Shards → samples for training, in the global order, one whole shard at a time.

A worker keeps at least one shard per lane it owns in memory, encoded; with what is left of its
byte budget it keeps more shards and decoded pictures. The prior's source opens no picture.

Dimension names: ``dim`` (joint embedding), ``token`` (caption), ``side`` (pixels).
"""

import queue
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
from jaxtyping import Float32, Float64, Int, Int64, UInt8

from pipeline.errors import DataError
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embedding_files import EmbeddedDataset, EmbeddedShard
from pipeline.shards.keep_list import KeepList
from pipeline.shards.sampler import Order, SampleOrder, micro_batch_positions


@dataclass(frozen=True)
class Sample:
    """What a task may read of one position of the global order."""

    position: int
    key: str
    image: UInt8[np.ndarray, " side side 3"] | None
    """The view's picture, RGB; None where the task reads no picture."""
    captions: tuple[str, ...]
    text_tokens: tuple[Int64[np.ndarray, " _"], ...]
    """Ids of each caption, unpadded; empty without embeddings."""
    z_img: Float32[np.ndarray, " dim"] | None
    """Raw image embedding, not normalised."""
    z_txt: tuple[Float32[np.ndarray, " dim"], ...]
    """Raw text embedding per caption, in caption order."""
    weight: float = 1.0
    """What its loss is multiplied by; 1 on the mean of its keep-list."""


@runtime_checkable
class SampleSource(Protocol):
    """Random access to the kept samples of one split, of one data set or of several."""

    @property
    def counts(self) -> list[int]:
        """Kept samples per shard."""
        ...

    @property
    def has_weights(self) -> bool:
        """Whether some sample's loss weighs more than another's."""
        ...

    def keys(self, shard: int) -> list[str]:
        """Keys of one shard's kept samples, without reading the samples."""
        ...

    def sample(self, position: int, shard: int, offset: int) -> Sample:
        """The sample at an offset among a shard's kept ones."""
        ...

    def order(self, seed: int, num_lanes: int) -> SampleOrder:
        """The order in which a training reads it."""
        ...

    def held_out(self, seed: int, num_samples: int) -> Int[np.ndarray, " sample 2"]:
        """Shards and offsets of a few samples, each at most once: those that validation reads."""
        ...

    def keep_open(self, lanes: Sequence[int]) -> None:
        """Never drop the shards that these lanes read."""
        ...


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


class ShardSource:
    """Random access to the kept samples of one split."""

    def __init__(
        self,
        curated: CuratedDataset,
        keep: KeepList,
        split: str,
        *,
        view_px: int | None,
        embedded: EmbeddedDataset | None,
        cache_bytes: int,
        open_shards: int,
    ) -> None:
        """Stand on finished stages; nothing is read yet.

        Args:
            curated: The dataset.
            keep: Which of its samples.
            split: ``train``, ``validation`` or ``test``.
            view_px: Side of the view to read, or None to open no picture.
            embedded: Embeddings of the same dataset, or None.
            cache_bytes: Memory for shards and decoded pictures, beyond the open shards.
            open_shards: Shards that are never dropped: the lanes this process reads.

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
        self._view_px, self._embedded = view_px, embedded
        self._cache_bytes, self._open_shards = cache_bytes, open_shards
        self._shards: OrderedDict[int, _Shard] = OrderedDict()
        self._held_bytes = 0

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

    def keep_open(self, lanes: Sequence[int]) -> None:
        """Never drop the shards that these lanes read: one per lane."""
        self._open_shards = max(1, len(lanes))

    def keys(self, shard: int) -> list[str]:
        """Keys of one shard's kept samples, without reading the samples."""
        known = self._shards.get(shard)
        return known.keys if known else self._keep.keys(shard, self._split)

    def sample(self, position: int, shard: int, offset: int) -> Sample:
        """The sample at an offset among a shard's kept ones."""
        held = self._shard(shard)
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
            image = decode(held.pictures[offset])
            if self._held_bytes + image.nbytes <= self._cache_bytes:
                held.decoded[offset] = image
                self._held_bytes += image.nbytes
        return image

    def _shard(self, shard: int) -> _Shard:
        held = self._shards.get(shard)
        if held is not None:
            self._shards.move_to_end(shard)
            return held
        held = self._shards[shard] = self._read(shard)
        self._held_bytes += held.num_bytes
        while len(self._shards) > self._open_shards and self._held_bytes > self._cache_bytes:
            _, dropped = self._shards.popitem(last=False)
            self._held_bytes -= dropped.num_bytes
        return held

    def _read(self, shard: int) -> _Shard:
        kept = self._keep.rows(shard, self._split)
        keys, weights = kept["key"].to_pylist(), self._keep.weights(kept, self._split)
        rows = self._curated.rows(shard, ["key", "captions"])
        captions = dict(zip(rows["key"].to_pylist(), rows["captions"].to_pylist(), strict=True))
        pictures = None
        if self._view_px is not None:
            stored = self._curated.pictures(shard, self._view_px)
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


class Loader:
    """Micro-batches of the global order."""

    def __init__(
        self,
        source: SampleSource,
        order: SampleOrder,
        global_batch_size: int,
        micro_batch_size: int,
    ) -> None:
        """Join a source and an order.

        Args:
            source: Where samples are read.
            order: Which sample each position is.
            global_batch_size: Samples of one step.
            micro_batch_size: Samples of one micro-batch; divides the global batch.
        """
        self._source, self._order = source, order
        self._batch, self._micro = global_batch_size, micro_batch_size
        self.per_step = global_batch_size // micro_batch_size
        """Micro-batches of a step."""
        self.has_weights = source.has_weights
        """Whether some sample's loss weighs more than another's."""

    def owned(self, rank: int, world: int) -> list[int]:
        """Numbers of the micro-batches that a worker computes in every step."""
        return list(range(rank, self.per_step, world))

    def micro_batch(self, step: int, number: int) -> list[Sample]:
        """The samples of one micro-batch, by position."""
        positions = micro_batch_positions(step, number, self._batch, self._micro)
        places = self._order.locate(positions).tolist()
        return [
            self._source.sample(position, shard, offset)
            for position, (shard, offset) in zip(positions.tolist(), places, strict=True)
        ]

    def micro_batches(self, step: int, rank: int, world: int) -> list[tuple[int, list[Sample]]]:
        """All micro-batches of a step that a worker owns, with their numbers."""
        return [(number, self.micro_batch(step, number)) for number in self.owned(rank, world)]

    def keys(self, step: int) -> list[str]:
        """Keys of a whole step over all workers, in order of position; reads no sample."""
        positions = np.arange(step * self._batch, (step + 1) * self._batch, dtype=np.int64)
        places = self._order.locate(positions).tolist()
        return [self._source.keys(shard)[offset] for shard, offset in places]


Item = TypeVar("Item")
_END = object()


def prefetch(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Make up to ``depth`` items ahead in a thread; its errors surface here.

    Closing the generator ends the thread.
    """
    waiting: queue.Queue[Any] = queue.Queue(maxsize=depth)
    closed = threading.Event()
    thread = threading.Thread(
        target=_fill, args=(items, waiting, closed), name="prefetch", daemon=True
    )
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        closed.set()
        thread.join()


def _fill(items: Iterable[Any], waiting: queue.Queue[Any], closed: threading.Event) -> None:
    try:
        for item in items:
            if not _offer(waiting, closed, (item, None)):
                return
        _offer(waiting, closed, (_END, None))
    except BaseException as error:
        _offer(waiting, closed, (_END, error))  # raised again by the consumer


def _offer(waiting: queue.Queue[Any], closed: threading.Event, entry: tuple[Any, Any]) -> bool:
    while not closed.is_set():
        try:
            waiting.put(entry, timeout=0.1)
            return True
        except queue.Full:
            continue
    return False
