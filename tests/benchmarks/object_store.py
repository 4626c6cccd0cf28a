"""Shards read from a true S3 server, against a bare loop of ranged GETs of the same objects.

Ours compares each tar's SHA-256 with the manifest and gives every sample: of views as trainings
read them, by four threads; of the pool tar after tar, in memory as tars of this length are held,
and over the local disk as longer ones are. The loop asks one connection for the same bytes, range
after range, by addresses that were signed before, and throws them away. Both sides and the server
(Ceph's RADOS gateway, objects in memory) share this machine's cores. Needs Debian's
``radosgw ceph-mon ceph-osd``.
"""

import argparse
import http.client
import io
import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch
from urllib.parse import urlsplit

import numpy as np

from pipeline import storage
from pipeline.identity import fingerprint
from pipeline.results import Result
from pipeline.shards import manifest, verified
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.shard_source import READING_THREADS
from pipeline.shards.tars import read_shard
from pipeline.shards.writer import TarShardWriter, texts
from pipeline.stores.files import PIECE_BYTES
from tests.benchmarks.paired import NUM_PAIRS_NEAR_THE_BAR, compare, finish
from tests.rados_gateway import BUCKET, client, environment, gateway

AT_LEAST = 0.80
PICTURE_BYTES = 100_000
VIEW_PX = 64
DATASET = f"s3://{BUCKET}/curate"
FOLDER = manifest.folder(DATASET, VIEW_PX)


def main() -> int:
    """Write shards to a gateway and read them both ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--samples", type=int, default=640, help="of a shard, of 100 kB each")
    arguments = parser.parse_args()
    with gateway(num_bytes=4 << 30) as port:
        os.environ |= environment(port)
        entries = [_published(n, arguments.samples) for n in range(arguments.shards)]
        signed = [_signed(port, entry.name) for entry in entries]
        num_bytes = sum(entry.num_bytes for entry in entries)
        peer = {
            "command": "http.client, one connection, ranges in turn",
            "range_bytes": PIECE_BYTES,
            "version": sys.version.split()[0],
            "num_bytes": num_bytes,
            "sha256_of_input": fingerprint([entry.sha256 for entry in entries]),
        }

        def against_the_loop(name: str, read: Callable[[Sequence[ShardEntry]], float]) -> dict:
            return compare(
                f"object_store {name}",
                lambda: num_bytes / 1e6 / read(entries),
                lambda: num_bytes / 1e6 / _loop(signed, entries),
                unit="MB/s",
                at_least=AT_LEAST,
                peer_named=peer,
                num_pairs=NUM_PAIRS_NEAR_THE_BAR,
            )

        for warm in (_read_views, _read_pool, _read_pool_over_disk):
            warm(entries[:1])
        results = [
            against_the_loop("views", _read_views),
            against_the_loop("pool", _read_pool),
            against_the_loop("pool over disk", _read_pool_over_disk),
        ]
    return finish(results)


def _published(number: int, num_samples: int) -> ShardEntry:
    """A shard of noise in the place of pictures: nothing here opens them."""
    rng, buffer = np.random.default_rng(number), io.BytesIO()
    writer = TarShardWriter(buffer)
    for sample in range(num_samples):
        key = f"{number:04d}{sample:028d}"
        writer.add(texts({"key": key, "captions": ["noise"]}), rng.bytes(PICTURE_BYTES), "jpg")
    name = f"{number:05d}.tar"
    entry = writer.close(name, "")
    storage.write_bytes(storage.join(FOLDER, name), buffer.getvalue())
    return entry


def _signed(port: int, name: str) -> str:
    of = {"Bucket": BUCKET, "Key": f"{FOLDER}/{name}".removeprefix(f"s3://{BUCKET}/")}
    return client(port).generate_presigned_url("get_object", Params=of, ExpiresIn=86_400)


def _read_views(entries: Sequence[ShardEntry]) -> float:
    content = {"shards": [], "views": {str(VIEW_PX): [entry.as_json() for entry in entries]}}
    dataset = CuratedDataset(Result("curate", DATASET, {"content": content}, ""))
    started = time.perf_counter()
    with ThreadPoolExecutor(READING_THREADS) as threads:
        found = list(
            threads.map(lambda shard: len(dataset.pictures(shard, VIEW_PX)), range(len(entries)))
        )
    assert found == [entry.num_samples for entry in entries]
    return time.perf_counter() - started


def _read_pool(entries: Sequence[ShardEntry]) -> float:
    started = time.perf_counter()
    for entry in entries:
        uri = storage.join(FOLDER, entry.name)
        assert sum(1 for _ in read_shard(uri, entry.as_json())) == entry.num_samples
    return time.perf_counter() - started


def _read_pool_over_disk(entries: Sequence[ShardEntry]) -> float:
    with patch.object(verified, "IN_MEMORY_BYTES", 0):
        return _read_pool(entries)


def _loop(signed: Sequence[str], entries: Sequence[ShardEntry]) -> float:
    started = time.perf_counter()
    connection = http.client.HTTPConnection(urlsplit(signed[0]).netloc)
    for address, entry in zip(signed, entries, strict=True):
        parts = urlsplit(address)
        for start in range(0, entry.num_bytes, PIECE_BYTES):
            asked = {"Range": f"bytes={start}-{min(start + PIECE_BYTES, entry.num_bytes) - 1}"}
            connection.request("GET", f"{parts.path}?{parts.query}", headers=asked)
            answer = connection.getresponse()
            assert answer.status == 206
            assert answer.read()
    connection.close()
    return time.perf_counter() - started


if __name__ == "__main__":
    sys.exit(main())
