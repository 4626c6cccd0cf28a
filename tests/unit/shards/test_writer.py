import io
import json
import tarfile
import time
from datetime import date

import pyarrow as pa
import pytest

from pipeline.shards.writer import (
    RECORD,
    SAMPLE,
    TarShardWriter,
    publish_table,
    read_table,
    texts,
    write_stats,
)


class File(io.BytesIO):
    """A file in memory that has what the type of an open file demands."""

    name, mode = "memory", "rb+"


def row(key, **changes):
    return {
        "key": key,
        "url": f"http://a.com/{key}.jpg",
        "captions": [f"première légende de {key}", "second"],
        "uids": ["1", "2"],
        "sha256": "ab",
        "width": 3,
        "height": 2,
        "original_width": 3,
        "original_height": 2,
        "phash": "0" * 16,
        "cluster": key,
        "queries": [1, 5],
        "page_url": None,
        "licence": "CC BY 4.0",
    } | changes


def written(*keys, image=b"\xff\xd8\xff picture"):
    file = File()
    tar = TarShardWriter(file)
    for key in keys:
        tar.add(texts(row(key)), image, "jpg")
    return file, tar.close("00000.tar", "parquet hash")


def test_the_same_samples_give_the_same_bytes_at_any_time():
    first, entry = written("a", "b")
    time.sleep(1.1)
    second, again = written("a", "b")
    assert first.getvalue() == second.getvalue()
    assert entry == again


def test_members_follow_img2datasets_layout_with_plain_headers():
    file, entry = written("a", "b")
    with tarfile.open(fileobj=io.BytesIO(file.getvalue()), mode="r:") as tar:
        members = tar.getmembers()
        names = [member.name for member in members]
        assert names == ["a.jpg", "a.txt", "a.json", "b.jpg", "b.txt", "b.json"]
        assert all(member.mtime == member.uid == member.gid == 0 for member in members)
        assert all(member.mode == 0o644 and not member.pax_headers for member in members)
        assert tar.extractfile("b.txt").read().decode() == "première légende de b"
        assert json.loads(tar.extractfile("b.json").read()) == row("b")
    assert entry.num_samples == 2
    assert entry.num_bytes == len(file.getvalue())
    assert entry.num_bytes % RECORD == 0


def test_the_length_is_that_of_the_standard_librarys_own_tar():
    for size in (0, 511, 512, 513, 5000):
        file, _ = written("a", image=bytes(size))
        other = io.BytesIO()
        with (
            tarfile.open(fileobj=io.BytesIO(file.getvalue())) as tar,
            tarfile.open(fileobj=other, mode="w", format=tarfile.USTAR_FORMAT) as copy,
        ):
            for member in tar:
                copy.addfile(member, tar.extractfile(member))
        assert other.getvalue() == file.getvalue()


@pytest.mark.parametrize("keys", [("b", "a"), ("a", "a"), ("a.b",)])
def test_keys_out_of_order_or_twice_or_with_dots_are_our_own_mistake(keys):
    with pytest.raises(AssertionError):
        written(*keys)


def test_carried_values_that_json_cannot_say_become_text():
    assert json.loads(texts(row("a", taken=date(2024, 5, 1))).metadata)["taken"] == "2024-05-01"


def test_tables_come_back_as_they_were_and_hash_the_same(tmp_path):
    table = pa.Table.from_pylist([row("a"), row("b")], schema=SAMPLE)
    uri = str(tmp_path / "00000.parquet")
    first = publish_table(uri, table)
    assert publish_table(uri, table) == first
    assert read_table(uri).equals(table)
    assert read_table(uri, ["key"]).column_names == ["key"]


def test_stats_lie_beside_the_tar(tmp_path):
    _, entry = written("a")
    table = pa.Table.from_pylist([row("a")], schema=SAMPLE)
    write_stats(str(tmp_path), entry, table, {"upstream": {"a": "b"}, "count": "cannot be said"})
    stats = json.loads((tmp_path / "00000_stats.json").read_text())
    assert (stats["count"], stats["successes"], stats["sha256"]) == (1, 1, entry.sha256)
    assert (stats["schema_version"], stats["licences"]) == (1, {"CC BY 4.0": 1})
    assert stats["upstream"] == {"a": "b"}
