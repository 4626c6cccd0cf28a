"""Shards read from a true S3 server, against a bare loop of ranged GETs of the same objects.

Ours fetches each tar to local disk, compares its length and SHA-256 with the manifest, and gives
every sample; the loop asks one connection for the same bytes, range after range, by addresses that
were signed before, and throws them away. Both sides and the server (Ceph's RADOS gateway, objects
in memory) share this machine's cores. Needs Debian's ``radosgw ceph-mon ceph-osd``.
"""

import argparse
import hashlib
import http.client
import io
import os
import sys
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

import numpy as np

from pipeline import storage
from pipeline.s3.files import PIECE_BYTES
from pipeline.shards.manifest import ShardEntry
from pipeline.shards.tars import read_shard
from pipeline.shards.writer import TarShardWriter, texts
from tests.benchmarks.paired import compare, finish
from tests.rados_gateway import BUCKET, client, environment, gateway

AT_LEAST = 0.80
PICTURE_BYTES = 100_000
FOLDER = f"s3://{BUCKET}/shards"


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
        result = compare(
            "object_store",
            lambda: num_bytes / 1e6 / _read(entries),
            lambda: num_bytes / 1e6 / _loop(signed, entries),
            unit="MB/s",
            at_least=AT_LEAST,
            peer_named={
                "command": "http.client, one connection, ranges in turn",
                "range_bytes": PIECE_BYTES,
                "version": sys.version.split()[0],
                "num_bytes": num_bytes,
                "sha256_of_input": hashlib.sha256(
                    "".join(entry.sha256 for entry in entries).encode()
                ).hexdigest(),
            },
        )
    return finish([result])


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
    of = {"Bucket": BUCKET, "Key": f"shards/{name}"}
    return client(port).generate_presigned_url("get_object", Params=of, ExpiresIn=86_400)


def _read(entries: Sequence[ShardEntry]) -> float:
    started = time.perf_counter()
    for entry in entries:
        uri = storage.join(FOLDER, entry.name)
        assert sum(1 for _ in read_shard(uri, entry.as_json())) == entry.num_samples
    return time.perf_counter() - started


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
