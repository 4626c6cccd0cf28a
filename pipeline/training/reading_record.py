"""The record of what a training read; imports no torch.

``reading.json`` in a training's folder names its keep-lists and all that fixes the order in which
they are read, so that anybody can say later which samples it saw, and how often. Where the lists
lie is a circumstance: the record is outside every hash.
"""

from collections.abc import Iterable
from typing import Any

from pipeline import storage
from pipeline.shards.keep_list import KeepList
from pipeline.shards.mixture import MixedOrder
from pipeline.shards.sampler import Order, SampleOrder
from pipeline.shards.skipping import without
from pipeline.training.config import TrainConfig

RECORD = "reading.json"


def write(uri: str, config: TrainConfig, sources: Iterable[tuple[str, KeepList]]) -> None:
    """Write down what a training reads, before it reads.

    Args:
        uri: Folder of the training.
        config: Its section.
        sources: Data set and keep-list of each source, in the order of the mixture.
    """
    home = _home(uri)
    told = [
        {
            "curated": curated_uri.removeprefix(home),
            "keep": keep.uri.removeprefix(home),
            "entry": dict(keep.entry),
        }
        for curated_uri, keep in sources
    ]
    order = {
        "seed": config.seed,
        "num_lanes": config.num_lanes,
        "global_batch_size": config.global_batch_size,
        "quotas": list(config.quotas()),
        "skipped": [list(each) for each in config.skipped],
    }
    storage.write_json(storage.join(uri, RECORD), {**order, "sources": told})


def differences(uri: str, other_uri: str) -> list[str]:
    """What a training and another one that it leaves read differently, but for its own skips.

    Args:
        uri: Folder of the training.
        other_uri: Folder of the other.

    Returns:
        Names of fields of the record; empty where both read the same samples in the same order.
    """
    if not storage.exists(storage.join(other_uri, RECORD)):
        return ["all"]
    own, other = (storage.read_json(storage.join(each, RECORD)) for each in (uri, other_uri))
    own["skipped"], other["skipped"] = [], other.get("skipped", [])
    return sorted(name for name in own if own[name] != other.get(name))


class Reading:
    """What a training read, from its record."""

    def __init__(self, uri: str) -> None:
        """Open the record in a training's folder."""
        told: dict[str, Any] = storage.read_json(storage.join(uri, RECORD))
        home = _home(uri)
        self._told = told
        self.curated_uris = [_placed(home, each["curated"]) for each in told["sources"]]
        """Data set of each source."""
        self.keeps = [
            KeepList(_placed(home, each["keep"]), each["entry"]) for each in told["sources"]
        ]
        """Keep-list of each source."""
        self.first_shards = [0]
        """Number of each source's first shard in the order, and their total at the end."""
        for keep in self.keeps:
            self.first_shards.append(self.first_shards[-1] + len(keep.entry["shards"]))

    def order(self) -> SampleOrder:
        """The order in which it reads the training split."""
        told, counts = self._told, [keep.counts("train") for keep in self.keeps]
        order: SampleOrder
        if len(counts) == 1:
            order = Order(counts[0], told["seed"], told["num_lanes"])
        else:
            order = MixedOrder(counts, told["quotas"], told["seed"], told["num_lanes"])
        return without(order, [(first, end) for first, end in told.get("skipped", [])])


def _home(uri: str) -> str:
    """The run's folder, with a slash: two above the folder of a stage."""
    return uri.rstrip("/").rsplit("/", 2)[0] + "/"


def _placed(home: str, place: str) -> str:
    return place if "://" in place or place.startswith("/") else home + place
