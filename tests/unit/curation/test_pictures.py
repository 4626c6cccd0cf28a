"""Filters of the stage ``curate``, through the whole stage in this process."""

import hashlib
import io
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from pipeline.config import semantic
from pipeline.curation import crawling
from pipeline.curation.config import CurateConfig
from pipeline.identity import fingerprint
from pipeline.images import pool
from pipeline.images.dedup import signature
from pipeline.results import read_result
from pipeline.shards.manifest import merge_counts, stats_name
from pipeline.storage import read_json
from tests.local_curation import VALUES, curate_pictures, url_of
from tests.picture_corpus import photograph, saved


def bodies():
    return {f"{number}.jpg": saved(photograph(number), "JPEG", quality=92) for number in range(5)}


def phash(body):
    return signature(Image.open(io.BytesIO(body)).convert("RGB")).phash_hex


def reasons(uri):
    log = pq.read_table(f"{uri}/crawl_log").to_pylist()
    return {row["url"]: row["drop_reason"] for row in log if row["drop_reason"]}


def test_what_a_block_list_names_never_reaches_the_disk(tmp_path, monkeypatch):
    pictures = bodies()
    blocked = tmp_path / "blocked.txt"
    small = saved(photograph(3), "JPEG", quality=60)  # looks like the listed one
    pictures["4.jpg"] = small
    lines = [
        hashlib.md5(pictures["0.jpg"]).hexdigest(),
        hashlib.sha256(pictures["1.jpg"]).hexdigest(),
        phash(pictures["3.jpg"]),
    ]
    blocked.write_text("\n".join(lines))
    filters = {"min_side_px": 8, "block_lists": [str(blocked)]}
    execution = {"keep_working_files": True}
    uri, result = curate_pictures(
        tmp_path, pictures, monkeypatch, filters=filters, execution=execution
    )
    assert reasons(uri) == {
        url_of("0.jpg"): "blocked_bytes",
        url_of("1.jpg"): "blocked_bytes",
        url_of("3.jpg"): "blocked_picture",
        url_of("4.jpg"): "blocked_picture",
    }
    assert result.content["num_samples"] == 1
    content = b"".join(path.read_bytes() for path in Path(uri).rglob("*") if path.is_file())
    for name in ("0.jpg", "1.jpg", "3.jpg", "4.jpg"):
        assert pictures[name][-300:-100] not in content
    assert pictures["2.jpg"][-300:-100] in content
    assert not list(Path(uri, "rejects").rglob("*.jpg"))


def test_a_blocked_picture_that_is_too_small_as_well_is_not_kept_to_look_at(tmp_path, monkeypatch):
    pictures = bodies() | {"small.jpg": saved(photograph(9, 40, 30), "JPEG", quality=92)}
    blocked = tmp_path / "blocked.txt"
    blocked.write_text(phash(pictures["small.jpg"]))
    filters = {"min_side_px": 64, "block_lists": [str(blocked)]}
    uri, _ = curate_pictures(tmp_path, pictures, monkeypatch, filters=filters)
    assert reasons(uri) == {url_of("small.jpg"): "blocked_picture"}
    assert not list(Path(uri, "rejects").rglob("*.jpg"))


def test_files_of_few_bytes_fall_before_they_are_decoded(tmp_path, monkeypatch):
    pictures = bodies()
    least = sorted(map(len, pictures.values()))[2]
    filters = {"min_side_px": 8, "min_bytes": least}
    uri, result = curate_pictures(tmp_path, pictures, monkeypatch, filters=filters)
    fallen = {url_of(name) for name, body in pictures.items() if len(body) < least}
    assert reasons(uri) == dict.fromkeys(fallen, "too_few_bytes")
    assert result.content["funnel"]["dropped"] == {"too_few_bytes": len(fallen)}


def test_a_task_that_runs_again_beside_its_record_spoils_nothing(tmp_path, monkeypatch):
    """A task that was thought dead fills its pool in another order and dies before its record."""
    pictures, crawl_pass = bodies(), crawling.crawl_pass
    expected, _ = curate_pictures(tmp_path / "once", pictures, monkeypatch)
    real = pool.crawl

    def other_order(targets, *arguments):
        return list(reversed(real(list(reversed(targets)), *arguments)))

    def twice(plan, bucket, number):
        found = crawl_pass(plan, bucket, number)
        with monkeypatch.context() as patched:
            patched.setattr(pool, "crawl", other_order)
            crawl_pass(plan, bucket, number)
        return found

    monkeypatch.setattr(crawling, "crawl_pass", twice)
    uri, _ = curate_pictures(tmp_path / "twice", pictures, monkeypatch)
    for name in ("shards/00000.tar", "shards/00001.tar"):
        assert Path(uri, name).read_bytes() == Path(expected, name).read_bytes()
    assert len(pq.read_table(f"{uri}/crawl_log")) == len(pictures)


def test_every_shard_says_what_it_was_made_of_and_buckets_add_up(tmp_path, monkeypatch):
    pictures = bodies() | {"cut.jpg": bodies()["0.jpg"][:300], "copy.jpg": bodies()["1.jpg"]}
    uri, result = curate_pictures(tmp_path, pictures, monkeypatch, num_buckets=3)
    config = semantic(CurateConfig.model_validate(VALUES))
    del config["crawl"]  # shards are the same however their pictures came
    balanced = read_result(str(tmp_path / "balance"))
    for entry in result.content["shards"]:
        stats = read_json(f"{uri}/shards/{stats_name(entry['name'])}")
        assert stats["config_sha256"] == fingerprint(config)
        assert stats["upstream"] == balanced.manifest["inputs"] == {"queries": "of a list"}
        assert {name: stats[name] for name in entry} == entry
    buckets = result.content["buckets"]
    assert len(buckets) == 3
    assert sum(each["kept"] for each in buckets) == result.content["funnel"]["kept"] == 5
    dropped = merge_counts(each["dropped"] for each in buckets)
    assert dropped == result.content["funnel"]["dropped"]
    assert dropped == {"decode_error": 1, "exact_duplicate": 1}
