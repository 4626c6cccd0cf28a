"""Pairs of a batch of one shard or host, against a perfect shuffle: ``loader --mixing``."""

import json
import sys
from urllib.parse import urlsplit

import numpy as np

from pipeline.shards.curated import CuratedDataset
from pipeline.shards.mixing import Mixing, mixing
from pipeline.shards.sampler import Order
from tests.benchmarks.loop import settings_of

NUM_BATCHES = 200
SHARDS, PER_SHARD, HOSTS_PER_SHARD = 10_000, 10_000, 20
"""A data set of a hundred million samples; a host's pictures lie in one shard, as crawled."""
SCALE_LANES, SCALE_BATCHES = 3_840, (2_048, 3_840, 7_680)


def measure(run_uri: str | None) -> int:
    """Print both shares at scale, and those of a finished run's decoder."""
    found = [_at_scale(batch) for batch in SCALE_BATCHES]
    if run_uri is not None:
        found.append(_of_run(run_uri))
    for each in found:
        print(f"{each['what']}: {each}", file=sys.stderr)
    print(json.dumps(found))
    return 0


def _row(what: str, shards: Mixing, hosts: Mixing) -> dict:
    return {
        "what": what,
        "same_shard": shards.measured,
        "same_shard_shuffled": shards.shuffled,
        "same_host": hosts.measured,
        "same_host_shuffled": hosts.shuffled,
    }


def _at_scale(batch: int) -> dict:
    order = Order([PER_SHARD] * SHARDS, 1, SCALE_LANES)
    num_hosts = SHARDS * HOSTS_PER_SHARD
    shards = mixing(order, lambda p: p[:, 0], [PER_SHARD] * SHARDS, batch, 10)
    sizes = [PER_SHARD // HOSTS_PER_SHARD] * num_hosts
    hosts = mixing(
        order, lambda p: p[:, 0] * HOSTS_PER_SHARD + p[:, 1] % HOSTS_PER_SHARD, sizes, batch, 10
    )
    return _row(f"{SCALE_LANES} lanes, batch {batch}", shards, hosts)


def _of_run(run_uri: str) -> dict:
    settings = settings_of(run_uri, "decoder", 1)
    config, place = settings.config, settings.data
    source = settings.data.source(settings.task, "train", cache_bytes=0)
    hosts = _hosts(CuratedDataset.open(place.curated_uri), source)
    first = np.cumsum([0, *source.counts])

    def host_of(places: np.ndarray) -> np.ndarray:
        return hosts[first[places[:, 0]] + places[:, 1]]

    order, batch = source.order(config.seed, config.num_lanes), config.global_batch_size
    shards = mixing(order, lambda p: p[:, 0], source.counts, batch, NUM_BATCHES)
    of_hosts = mixing(order, host_of, np.bincount(hosts).tolist(), batch, NUM_BATCHES)
    return _row(f"{run_uri}: {config.num_lanes} lanes, batch {batch}", shards, of_hosts)


def _hosts(curated: CuratedDataset, source) -> np.ndarray:
    """Number of the host of each kept sample, shard by shard."""
    found = []
    for shard in range(len(source.counts)):
        rows = curated.rows(shard, ["key", "url"]).to_pylist()
        host_of = {row["key"]: urlsplit(row["url"]).hostname for row in rows}
        found += [host_of[key] for key in source.keys(shard)]
    return np.unique(found, return_inverse=True)[1]
