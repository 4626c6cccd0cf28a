"""A removal names exactly the samples that are meant, however it was written."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.errors import ConfigError
from pipeline.images.dedup import signature
from pipeline.shards import removals
from pipeline.shards.curated import CuratedDataset
from pipeline.shards.keep_list import SPLITS, keep_everything
from pipeline.shards.removal_requests import parse
from pipeline.shards.removals import Entry, Removals, entry
from pipeline.shards.select_config import SplitConfig
from tests.synthetic import make_curated

ROWS = [
    ("k1", "http://a.example/1.jpg", ["u1"], "aa" * 32, "00000000000000ff", None),
    ("k2", "http://img.a.example:8080/2.jpg", ["u2", "u3"], "bb" * 32, "00000000000000fe", None),
    ("k3", "https://ba.example/3.jpg", [], "cc" * 32, "ffffffffffffffff", "http://www.b.test/p"),
    ("k4", "", ["u4"], "dd" * 32, "0f0f0f0f0f0f0f0f", None),
]
TABLE = pa.table(
    {
        name: list(column)
        for name, column in zip(removals.COLUMNS, zip(*ROWS, strict=True), strict=True)
    },
    schema=pa.schema(
        [
            ("key", pa.string()),
            ("url", pa.string()),
            ("uids", pa.list_(pa.string())),
            ("sha256", pa.string()),
            ("phash", pa.string()),
            ("page_url", pa.string()),
        ]
    ),
)


def meant(*entries):
    mask = Removals(entries).mask(TABLE)
    return {row[0] for row, is_meant in zip(ROWS, mask, strict=True) if is_meant}


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        (entry("key", "k3"), {"k3"}),
        (entry("uid", "u3"), {"k2"}),
        (entry("url", "HTTP://A.example:80/x/../1.jpg#top"), {"k1"}),
        (entry("domain", "a.example"), {"k1", "k2"}),
        (entry("domain", "IMG.A.example."), {"k2"}),
        (entry("domain", "example"), {"k1", "k2", "k3"}),
        (entry("domain", "b.test"), {"k3"}),
        (entry("sha256", "CC" * 32), {"k3"}),
        (entry("phash", "00000000000000ff"), {"k1"}),
        (entry("phash", "00000000000000ff", 1), {"k1", "k2"}),
        (entry("key", "nothing"), set()),
    ],
)
def test_each_kind_names_what_it_says_and_nothing_else(named, expected):
    assert meant(named) == expected


def test_kinds_add_up_and_no_entry_means_nothing():
    assert meant(entry("uid", "u1"), entry("phash", "f" * 16, 0)) == {"k1", "k3"}
    assert meant() == set()
    assert not Removals([])


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        ("url", "ftp://a.example/1", "no http or https address"),
        ("domain", "a.example/path", "a host name"),
        ("sha256", "abc", "64 hex digits"),
        ("phash", "xyz", "16 hex digits"),
        ("colour", "red", "give a value of key, uid"),
        ("key", " ", "give a value"),
    ],
)
def test_a_value_that_cannot_be_one_is_refused(kind, value, words):
    with pytest.raises(ConfigError, match=words):
        entry(kind, value)


def test_the_ledger_keeps_each_entry_once_and_its_identity_knows_no_order_and_no_time(tmp_path):
    uri = str(tmp_path)
    one, two = entry("key", "k1"), entry("phash", "0" * 16, 3)
    assert removals.read(uri).entries == []
    assert removals.add(uri, [two]) == [two]
    before = (tmp_path / "removals").iterdir()
    kept = {path: path.read_bytes() for path in before}
    assert removals.add(uri, [one, two, one]) == [one]
    assert removals.add(uri, [two]) == []
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(list((tmp_path / "removals").iterdir())) == 2
    assert removals.read(uri).entries == sorted([one, two])
    assert removals.read(uri).content_hash == Removals([one, two]).content_hash
    assert Removals([one]).content_hash != Removals([two]).content_hash


def test_requests_are_values_files_of_values_and_pictures(tmp_path):
    listed = tmp_path / "keys.txt"
    listed.write_text("# asked for on Monday\nk1\n\n  k2 # twice\nk2\n")
    picture = tmp_path / "pictures" / "cat.png"
    picture.parent.mkdir()
    image = Image.radial_gradient("L").convert("RGB")
    image.save(picture)
    found = parse([f"key=@{listed}", "uid=u9", f"picture={picture.parent}"], max_hamming=2)
    assert Entry("key", "k1") in found
    assert Entry("key", "k2") in found
    assert Entry("phash", signature(image).phash_hex, 2) in found
    assert {each.kind for each in found} == {"key", "uid", "sha256", "phash"}
    assert len(found) == 5


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("k1", "expected kind=value"),
        ("colour=red", "expected kind=value"),
        ("key=@none.txt", "cannot read the list"),
        ("picture=none.jpg", "cannot read it"),
    ],
)
def test_a_request_that_cannot_be_read_is_refused(request_, words):
    with pytest.raises(ConfigError, match=words):
        parse([request_], 4)


def test_a_picture_is_found_again_when_it_was_encoded_anew(tmp_path):
    curated = make_curated(tmp_path, 20)
    dataset = CuratedDataset(curated)
    blocks = np.random.default_rng(1).integers(0, 255, (9, 12, 3), dtype=np.uint8)
    image = Image.fromarray(blocks).resize((120, 90), Image.Resampling.BICUBIC)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=40)
    place = tmp_path / "mine.jpg"
    place.write_bytes(buffer.getvalue())
    table = dataset.rows(0, removals.COLUMNS)
    hashes = table["phash"].to_pylist()
    hashes[3] = signature(image).phash_hex
    table = table.set_column(4, "phash", pa.array(hashes))
    mask = Removals(parse([f"picture={place}"], 4)).mask(table)
    assert mask.nonzero()[0].tolist() == [3]


def test_the_list_that_clip_reads_holds_nothing_removed(tmp_path):
    dataset = CuratedDataset(make_curated(tmp_path))
    split = SplitConfig(seed=3, validation_share=0.2, test_share=0.1)
    whole = keep_everything(dataset, split, str(tmp_path / "a.parquet"))
    gone = Removals([entry("domain", "host1.example")])
    rest = keep_everything(dataset, split, str(tmp_path / "b.parquet"), gone)
    named = {
        row["key"]
        for shard in range(6)
        for row in dataset.rows(shard, ["key", "url"]).to_pylist()
        if "host1.example" in row["url"]
    }
    assert len(named) == 12
    for split_name in SPLITS:
        for shard in range(6):
            kept = whole.keys(shard, split_name)
            assert rest.keys(shard, split_name) == [key for key in kept if key not in named]
    reasons = rest.table(0)["drop_reason"].to_pylist()
    assert set(reasons) == {None, "removed"}
    assert Path(rest.uri).exists()
