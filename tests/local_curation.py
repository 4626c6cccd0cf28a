"""The whole stage ``curate`` in this process, on pictures that lie in a folder: no web, no Ray."""

import hashlib
import io

import pyarrow as pa

from pipeline import steps, storage
from pipeline.candidates import schema, urls
from pipeline.candidates.config import FolderConfig
from pipeline.curation import balance
from pipeline.curation.config import CurateConfig
from pipeline.curation.curate import curate
from pipeline.curation.limits import PAIRS, pairs_name
from pipeline.images.rejects import REJECT
from pipeline.progress import Progress
from pipeline.queries import yields
from pipeline.results import publish_result
from pipeline.shards.writer import publish_table

VALUES = {
    "crawl": {"user_agent": "TestBot/1.0 (+https://test.example/bot)"},
    "filters": {"min_side_px": 8},
    "shards": {"samples_per_shard": 100, "views_px": [16]},
}


def url_of(name):
    return urls.local(name)


def pair(name, caption):
    return pair_of(url_of(name), caption)


def pair_of(url, caption):
    """A balanced pair of a canonical address."""
    key = urls.url_id(url)
    return {
        schema.URL: url,
        schema.URL_ID: key,
        schema.UID: urls.uid(key, caption),
        schema.CAPTION: caption,
        schema.QUERY_IDS: [0],
    }


def by_address(pair):
    """A number that deals pairs out to buckets: one per address."""
    return int(pair[schema.URL_ID], 16)


def balanced_of(folder, pairs, num_buckets, number_of=by_address):
    """A finished balance stage of pairs, dealt out to buckets by a number of each."""
    uri, entries = storage.join(str(folder), "balance"), []
    for bucket in range(num_buckets):
        mine = [each for each in pairs if number_of(each) % num_buckets == bucket]
        mine.sort(key=lambda each: (each[schema.URL_ID], each[schema.UID]))
        table = pa.Table.from_pylist(mine, schema=schema.MATCHED)
        place = storage.join(uri, PAIRS, pairs_name(bucket))
        sha256 = publish_table(place, table)
        entries.append({"name": pairs_name(bucket), "num_pairs": len(mine), "sha256": sha256})
    publish_table(storage.join(uri, balance.REJECTS), REJECT.empty_table())
    publish_table(storage.join(uri, yields.FILE), pa.table({schema.QUERY: ["alpha"]}))
    funnel = {"candidates": len(pairs), "kept": len(pairs), "dropped": {}}
    content = {"pairs": entries, "funnel": funnel}
    return publish_result(
        uri,
        stage="balance",
        identity="x",
        config={},
        inputs={"queries": "of a list"},
        content=content,
        circumstance={},
    )


def curate_pictures(
    folder, pictures, monkeypatch, *, output=None, captions=None, num_buckets=2, **changes
):
    """Curate a folder's pictures; the stage's folder, and its result.

    Args:
        folder: An empty folder to work in.
        output: Where results go, if not there.
        pictures: Content of each file by name.
        monkeypatch: pytest's.
        captions: Captions of a name; by default its hash.
        num_buckets: Parts of the work.
        changes: To ``VALUES``.
    """
    source = folder / "pictures"
    for name, body in pictures.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(body)
    monkeypatch.setattr(steps, "map_partitions", lambda work, rows: map(work, rows))
    texts = captions or {}
    pairs = [
        pair(name, caption)
        for name in pictures
        for caption in texts.get(name, [f"alpha {hashlib.md5(name.encode()).hexdigest()[:6]}"])
    ]
    output = str(output or folder)
    uri = storage.join(output, "curate")
    done = curate(
        CurateConfig.model_validate(VALUES | changes),
        FolderConfig(type="folder", path=str(source)),
        balanced_of(output, pairs, num_buckets),
        uri,
        Progress(io.StringIO()),
    )
    result = publish_result(
        uri,
        stage="curate",
        identity="x",
        config={},
        inputs={},
        content=done.content,
        circumstance={},
    )
    return uri, result
