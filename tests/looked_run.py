"""A small finished run to look at: pictures, embeddings of a real CLIP, scores, two keep-lists."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from PIL import Image

from pipeline import storage
from pipeline.candidates import schema
from pipeline.curation.limits import PAIRS
from pipeline.draws import hash64
from pipeline.images.rejects import REJECT
from pipeline.models.presets import load_clip
from pipeline.models.tokenizer import tokenizer
from pipeline.queries import yields
from pipeline.results import INDEX, Result, publish_result
from pipeline.shards.assemble import PoolSample
from pipeline.shards.clip_encoder import ClipEncoder
from pipeline.shards.curated import CuratedDataset, decode
from pipeline.shards.embedding_files import ShardEmbeddings
from pipeline.shards.keep_list import SCHEMA, SPLITS, write_keep_list
from pipeline.shards.views import shrunk
from pipeline.shards.writer import publish_rejects, publish_table
from tests.synthetic import VIEW_PX, sample_key, write
from tests.tiny_stack import make_stack

HOSTILE = "<script>alert('x')</script> | a *red* `thing` & more"
QUERIES = ["circle", "never found", "<b>square</b>", "star"]
COUNTS = {
    schema.QUERY: QUERIES,
    yields.MATCHED: [40, 0, 3, 2],
    yields.OWNED: [30, 0, 2, 2],
    yields.KEPT: [30, 0, 2, 2],
}
BOUNDS = {"aesthetic": {"min": 0.3}, "unsafe": {"max": 0.8}}
PER_SHARD = 10


@dataclass(frozen=True)
class Looked:
    """A run and the truth about it."""

    uri: str
    results: dict[str, Result]
    rows: list[dict]
    """Every sample with its captions, scores and outcomes, in the data set's order."""
    min_similarity: float
    """Of the profile ``generative``."""


def caption_of(number: int) -> list[str]:
    captions = {
        0: [HOSTILE],
        1: ["a woman with a dog", "a girl"],
        2: ["a Black man in a red coat"],
        3: ["ein kleines rotes Haus steht am Meer und niemand wohnt darin"],
    }
    return captions.get(number, [f"a picture of a thing, number {number} of many on the shelf"])


def make_looked(folder: Path, num_samples: int = 50) -> Looked:
    """Publish ``balance, curate, clip, embed, score, select`` as their stages do."""
    uri = str(folder / "run")
    results = {"balance": _balance(uri)}
    results["curate"] = _curate(uri, num_samples, results["balance"])
    results["clip"] = make_stack(Path(uri))["clip"]
    results["embed"] = _embed(uri, results["curate"], results["clip"])
    rows, min_similarity = _rows(results)
    results["score"] = _score(uri, rows, results)
    results["select"] = _select(uri, rows, results, min_similarity)
    places = {name: storage.absolute(result.uri) for name, result in results.items()}
    base = storage.absolute(uri) + "/"
    stages = {name: place.removeprefix(base) for name, place in places.items()}
    config = {"candidates": {"type": "url_table", "url_column": "URL", "sample": 1.0}}
    index = {"name": "looked", "config": config, "stages": stages}
    storage.write_json(storage.join(uri, INDEX), index)
    return Looked(uri, results, rows, min_similarity)


def publish(uri: str, stage: str, content, config=None, inputs=None) -> Result:
    return publish_result(
        storage.join(uri, stage, "000000000000"),
        stage=stage,
        identity=f"{stage:0<64}",
        config=config or {},
        inputs=inputs or {},
        content=content,
        circumstance={"ended_s": 1.7e9, "commit": "c0ffee"},
    )


def _balance(uri: str) -> Result:
    place = storage.join(uri, "balance", "000000000000")
    keys = sorted(sample_key(number) for number in range(60))
    rows = [
        {
            schema.URL: f"https://img.host{number % 4}.co.uk/{number}.png",
            schema.URL_ID: key,
            schema.UID: f"{key[:28]}{index:04d}",
            schema.CAPTION: text,
            schema.QUERY_IDS: [0],
        }
        for number, key in enumerate(keys)
        for index, text in enumerate(caption_of(number))
    ]
    table = pa.Table.from_pylist(rows, schema=schema.MATCHED)
    publish_table(storage.join(place, yields.FILE), pa.table(COUNTS))
    sha256 = publish_table(storage.join(place, PAIRS, "00000.parquet"), table)
    content = {
        PAIRS: [{"name": "00000.parquet", "num_pairs": len(rows), "sha256": sha256}],
        "funnel": {"candidates": 200, "kept": len(rows), "dropped": {"over_query_limit": 139}},
        "queries": {"limit": 40.0},
        "num_files": 3,
        "num_damaged_files": 1,
    }
    return publish(uri, "balance", content, inputs={"candidates": "f" * 64})


def _curate(uri: str, num_samples: int, balanced: Result) -> Result:
    place = storage.join(uri, "curate", "000000000000")
    samples, pictures = [], b""
    keys = sorted(sample_key(number) for number in range(num_samples))
    for number, key in enumerate(keys):
        colour = tuple(hash64("colour", key, channel) % 256 for channel in range(3))
        picture = io.BytesIO()
        image = Image.new("RGB", (40 + number % 5, 32 + number % 3), colour)
        image.paste("white", (0, 0, 10 + number % 20, 12))
        image.save(picture, "PNG")
        captions = caption_of(number)
        metadata = {
            "key": key,
            "url": f"https://img.host{number % 4}.co.uk/{number}.png",
            "captions": captions,
            "uids": [f"{key[:28]}{index:04d}" for index in range(len(captions))],
            "sha256": f"{number:064x}",
            "width": image.width,
            "height": image.height,
            "original_width": image.width,
            "original_height": image.height,
            "phash": f"{number:016x}",
            "cluster": key,
            "queries": [0] if number % 3 == 0 else [2, 3] if number % 7 == 0 else [],
            "page_url": None,
            "licence": "CC BY | 4.0" if number % 2 else None,
        }
        samples.append(PoolSample(metadata, len(pictures), len(picture.getvalue())))
        pictures += picture.getvalue()
    written = write(place, samples, pictures, PER_SHARD)
    _rejects(place)
    in_shards = {"in_shards": [17, 0, 5, 5]}
    publish_table(storage.join(place, yields.FILE), pa.table(COUNTS | in_shards))
    num_captions = sum(len(caption_of(number)) for number in range(num_samples))
    before = balanced.content["funnel"]
    fallen = before["kept"] - num_captions
    content = {
        "shards": [shard.shard.as_json() for shard in written],
        "views": {str(VIEW_PX): [shard.views[str(VIEW_PX)].as_json() for shard in written]},
        "num_samples": num_samples,
        "funnel": {
            "candidates": before["candidates"],
            "kept": num_captions,
            "dropped": {**before["dropped"], "http_error": fallen},
        },
        "licences": {"CC BY | 4.0": num_samples // 2, "unknown": num_samples - num_samples // 2},
        "clusters": {"num_clusters": 3, "num_pictures": 8, "largest": 4},
    }
    return publish(uri, "curate", content, inputs={"balance": balanced.manifest_hash})


def _rejects(place: str) -> None:
    thumbnail = io.BytesIO()
    Image.new("RGB", (9, 9), "red").save(thumbnail, "JPEG")
    rows = [
        {
            "drop_reason": "http_error",
            "uid": f"{number}",
            "key": f"{number:032x}",
            "url": "https://gone.example/x.png",
            "caption": f"gone <i>{number}</i>",
            "thumbnail": thumbnail.getvalue() if number else None,
        }
        for number in range(4)
    ]
    publish_rejects(storage.join(place, "rejects"), pa.Table.from_pylist(rows, schema=REJECT))


def _embed(uri: str, curated: Result, clip: Result) -> Result:
    weights = clip.content["weights"]
    encoder = ClipEncoder(
        load_clip(storage.join(clip.uri, weights["name"])), 4, torch.device("cpu")
    )
    dataset, entries = CuratedDataset(curated), []
    for shard, entry in enumerate(dataset.shards):
        rows = dataset.rows(shard, ["key", "uids", "captions"]).to_pylist()
        tokens = [[tokenizer().encode(text) for text in row["captions"]] for row in rows]
        pictures = dataset.pictures(shard, VIEW_PX)
        embeddings = ShardEmbeddings(
            keys=[row["key"] for row in rows],
            uids=[row["uids"] for row in rows],
            text_tokens=tokens,
            z_img=encoder.images(
                list(pictures.values()), lambda one: shrunk(decode(one), encoder.side_px)
            ),
            z_txt=encoder.texts([ids for lists in tokens for ids in lists]),
        )
        name = entry["name"].replace(".tar", ".parquet")
        table = embeddings.table(weights["sha256"], entry["sha256"])
        sha256 = publish_table(storage.join(uri, "embed", "000000000000", name), table)
        facts = {"shard": entry["name"], "shard_sha256": entry["sha256"]}
        entries.append({"name": name, "sha256": sha256, "num_samples": len(rows), **facts})
    content = {"dim": encoder.texts([[1]]).shape[1], "clip_sha256": weights["sha256"]}
    return publish(uri, "embed", {**content, "shards": entries}, {"pictures": "view"})


def _rows(results) -> tuple[list[dict], float]:
    """Samples with scores of the embeddings or drawn by hash, and a bound on similarity."""
    dataset, rows = CuratedDataset(results["curate"]), []
    for shard, entry in enumerate(dataset.shards):
        table = pa.parquet.read_table(
            storage.join(results["embed"].uri, entry["name"].replace(".tar", ".parquet"))
        )
        best = [max(values) for values in table["similarity"].to_pylist()]
        for row, similarity in zip(dataset.rows(shard).to_pylist(), best, strict=True):
            number = len(rows)
            rows.append(
                {
                    **row,
                    "shard": shard,
                    "side_px": min(row["width"], row["height"]),
                    "similarity": similarity,
                    "aesthetic": _head("aesthetic", number),
                    "unsafe": None if number == 5 else _head("unsafe", number),
                    "overlap_set": "coco|val" if number % 10 == 0 else None,
                    "overlap_cosine": 0.9375 if number % 10 == 0 else None,
                    "overlap_bits": number // 10 if number % 10 == 0 else None,
                }
            )
    least = sorted(row["similarity"] for row in rows)[12]
    for number, row in enumerate(rows):
        split = SPLITS[0] if number % 5 else SPLITS[number // 5 % 3]
        row["split"] = split
        row["outcomes"] = {"clip": "kept", "generative": _outcome(row, least)}
    return rows, least


def _head(name: str, number: int) -> float:
    return float(np.float32(hash64(name, number) % 1000 / 1000))


def _outcome(row, min_similarity: float) -> str:
    unsafe = np.inf if row["unsafe"] is None else row["unsafe"]
    if row["similarity"] < min_similarity:
        return "low_similarity"
    if row["aesthetic"] < BOUNDS["aesthetic"]["min"]:
        return "out_of_bounds_aesthetic"
    return "kept" if unsafe <= BOUNDS["unsafe"]["max"] else "out_of_bounds_unsafe"


SCORES = pa.schema(
    [
        ("key", pa.string()),
        ("cluster", pa.string()),
        ("url", pa.string()),
        ("side_px", pa.int32()),
        ("similarity", pa.float32()),
        ("queries", pa.list_(pa.uint32())),
        ("aesthetic", pa.float32()),
        ("unsafe", pa.float32()),
        ("overlap_set", pa.string()),
        ("overlap_cosine", pa.float32()),
        ("overlap_bits", pa.int16()),
    ]
)


def _score(uri: str, rows, results) -> Result:
    entries = []
    for shard, entry in enumerate(CuratedDataset(results["curate"]).shards):
        table = pa.Table.from_pylist([r for r in rows if r["shard"] == shard], schema=SCORES)
        name = f"scores/{entry['name'].replace('.tar', '.parquet')}"
        sha256 = publish_table(storage.join(uri, "score", "000000000000", name), table)
        facts = {"shard": entry["name"], "shard_sha256": entry["sha256"]}
        entries.append({"name": name, "sha256": sha256, "num_samples": table.num_rows, **facts})
    return publish(uri, "score", {"scores": entries})


def _select(uri: str, rows, results, min_similarity: float) -> Result:
    names = [entry["name"] for entry in CuratedDataset(results["curate"]).shards]
    profiles = {}
    for profile in ("clip", "generative"):
        tables = [
            pa.Table.from_pylist(
                [_decided(row, names[shard], profile) for row in rows if row["shard"] == shard],
                schema=SCHEMA,
            )
            for shard in range(len(names))
        ]
        name = f"keep/{profile}.parquet"
        place = storage.join(uri, "select", "000000000000", name)
        entry = write_keep_list(place, names, tables)
        kept = {s: sum(each[f"num_kept_{s}"] for each in entry["shards"]) for s in SPLITS}
        outcomes = [row["outcomes"][profile] for row in rows]
        dropped = {reason: outcomes.count(reason) for reason in sorted(set(outcomes) - {"kept"})}
        profiles[profile] = {**entry, "name": name, "kept": kept, "dropped": dropped}
    limits = {"min_similarity": min_similarity, "bounds": BOUNDS}
    config = {"profiles": {"clip": {}, "generative": limits}}
    return publish(uri, "select", {"profiles": profiles}, config)


def _decided(row, shard: str, profile: str) -> dict:
    outcome = row["outcomes"][profile]
    return {
        "shard": shard,
        "key": row["key"],
        "kept": outcome == "kept",
        "split": row["split"],
        "drop_reason": None if outcome == "kept" else outcome,
        "similarity": row["similarity"],
        "weight": 1.0,
    }
