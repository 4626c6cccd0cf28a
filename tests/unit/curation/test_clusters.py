import io
import random

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from pipeline.curation import clusters
from pipeline.evaluation.collect import duplicates
from pipeline.images.config import DedupConfig
from pipeline.images.dedup import Entry, group
from tests.local_curation import curate_pictures, url_of

CONFIG = DedupConfig(max_hamming=4)


def entry(key, phash, side_px=100):
    return Entry(key, key, f"pixels {key}", phash, bytes(192), side_px, key)


def table(entries):
    return clusters.largest(entries, group(entries, CONFIG)).to_pylist()


def test_the_largest_groups_come_first_and_their_leaders_in_front():
    pair = [entry("a", 0), entry("b", 1)]
    far = (1 << 60) - 1
    three = [entry("c", far, 50), entry("d", far ^ 3, 200), entry("e", far, 60)]
    rows = table([*pair, *three, entry("f", 0xFFFF << 24)])
    assert [(row["cluster"], row["key"], row["size"], row["place"]) for row in rows] == [
        ("d", "d", 3, 0),
        ("d", "e", 3, 1),
        ("d", "c", 3, 2),
        ("a", "a", 2, 0),
        ("a", "b", 2, 1),
    ]
    assert [row["num_bits"] for row in rows] == [0, 2, 2, 0, 1]
    assert [row["drop_reason"] is None for row in rows] == [True, False, False, True, False]


def test_few_members_of_few_groups_are_shown_and_all_are_counted():
    rng = random.Random(0)
    hashes = [rng.getrandbits(64) for _ in range(15)]
    entries = [
        entry(f"{number:02d}-{copy}", value)
        for number, value in enumerate(hashes)
        for copy in range(9)
    ]
    verdicts = group(entries, CONFIG)
    shown = clusters.largest(entries, verdicts)
    assert shown.num_rows == clusters.NUM_CLUSTERS * clusters.NUM_MEMBERS
    counts = clusters.sizes(verdicts)
    assert counts["num_pictures"] == len(entries)
    assert counts["num_clusters"] == 15


def test_without_duplicates_there_is_nothing_to_show():
    entries = [entry("a", 0)]
    assert table(entries) == []
    assert clusters.sizes(group(entries, CONFIG)) == {
        "num_clusters": 0,
        "num_pictures": 0,
        "largest": 0,
    }


def picture(number, quality=95, side=160):
    coarse = np.random.default_rng(number).integers(0, 256, (6, 8, 3), np.uint8)
    image = Image.fromarray(coarse).resize((side, side * 3 // 4), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def test_the_report_shows_groups_across_buckets_with_the_picture_that_stayed_first(
    tmp_path, monkeypatch
):
    pictures = {"leader.jpg": picture(0, side=320), "copy.jpg": picture(0, side=320)}
    pictures |= {f"near-{q}.jpg": picture(0, q) for q in (70, 80, 90)}
    pictures["other.jpg"] = picture(1)
    uri, result = curate_pictures(tmp_path, pictures, monkeypatch, num_buckets=3)
    assert result.content["clusters"] == {"num_clusters": 1, "num_pictures": 5, "largest": 5}
    rows = pq.read_table(f"{uri}/clusters.parquet").to_pylist()
    assert [row["place"] for row in rows] == [0, 1, 2, 3, 4]
    found = duplicates(result)
    assert found is not None
    assert (found.num_groups, found.num_pictures) == (1, 5)
    captions = [member.caption for member in found.shown[0].members]
    assert captions[:2] == ["kept", "exact duplicate"]
    assert all(caption.startswith("near duplicate") for caption in captions[2:])
    for member in found.shown[0].members:
        assert max(Image.open(io.BytesIO(member.image)).size) <= 104
    assert result.content["funnel"]["dropped"] == {"exact_duplicate": 1, "near_duplicate": 3}


def test_a_report_of_pictures_without_duplicates_has_no_such_section(tmp_path, monkeypatch):
    _, result = curate_pictures(tmp_path, {"a.jpg": picture(0)}, monkeypatch)
    assert duplicates(result) is None
    assert url_of("a.jpg") == "file:///a.jpg"
