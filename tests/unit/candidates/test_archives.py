import gzip

import pytest

from pipeline.candidates import sources
from pipeline.candidates.config import WarcConfig, WatConfig
from tests import wat_records
from tests.warc_records import archive, record
from tests.wat_records import HtmlPage


def read(path):
    kind = WatConfig if ".wat" in path.name else WarcConfig
    config = kind(type="wat" if ".wat" in path.name else "warc", path=str(path))
    (partition,) = sources.plan(config)
    return sources.read(config, partition)


def names(found):
    return [url.rsplit("/", 1)[-1] for url in found.table.column("url").to_pylist()]


HTML = [f"<img src={i}.jpg alt=x>" + "<p>text</p>" * 9 for i in range(3)]


def three_pages():
    return [record(html) for html in HTML]


def three_extracts():
    page = "http://site.example/blog/post.html"
    documents = [wat_records.envelope(HtmlPage(page, html)) for html in HTML]
    return [gzip.decompress(wat_records.packed(document)) for document in documents]


MAKERS = {
    "a.warc": three_pages,
    "a.warc.gz": three_pages,
    "a.warc.wat": three_extracts,
    "a.warc.wat.gz": three_extracts,
}


def test_plain_and_packed_archives_give_the_same(tmp_path):
    found = [read(archive(tmp_path, *make(), name=name)) for name, make in MAKERS.items()]
    for other in found[1:]:
        assert other.table.equals(found[0].table)
    assert names(found[0]) == ["0.jpg", "1.jpg", "2.jpg"]
    assert [each.damage for each in found] == [[]] * 4


@pytest.mark.parametrize("name", MAKERS)
def test_an_archive_cut_in_a_record_gives_what_lies_before_and_is_named(tmp_path, name):
    # The cut keeps the last record's picture or loses it; the two records before it always stay.
    found = read(archive(tmp_path, *MAKERS[name](), name=name, cut=60))
    assert names(found)[:2] == ["0.jpg", "1.jpg"]
    assert found.damage
    assert all(line.startswith(f"{name}: ") for line in found.damage)
    assert "at byte" in found.damage[0]


@pytest.mark.parametrize("name", ["a.warc", "a.warc.wat"])
@pytest.mark.parametrize("kept", [1, 8, 100])
def test_an_archive_cut_in_the_header_of_a_record_is_named(tmp_path, name, kept):
    rest = len(MAKERS[name]()[-1]) - kept
    found = read(archive(tmp_path, *MAKERS[name](), name=name, cut=rest))
    assert names(found) == ["0.jpg", "1.jpg"]
    assert len(found.damage) == 1


def test_an_archive_cut_in_a_record_of_another_kind_is_named(tmp_path):
    request = record(HTML[0]).replace(b"Type: response", b"Type: request")
    found = read(archive(tmp_path, record(HTML[0]), request, name="a.warc", cut=30))
    assert names(found) == ["0.jpg"]
    assert found.damage == ["a.warc: the last record, at byte 0 or after it, has no end; it is "
                            "cut off"]  # fmt: skip


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc.wat.gz"])
def test_a_gzip_member_without_its_end_is_noticed(tmp_path, name):
    # The record is whole; only the checksum behind it is cut.
    found = read(archive(tmp_path, *MAKERS[name](), name=name, cut=4))
    assert found.table.num_rows == 3
    assert "has no end" in found.damage[0]


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc.wat.gz"])
def test_damage_in_the_middle_is_named_with_its_place(tmp_path, name):
    path = archive(tmp_path, *MAKERS[name](), name=name)
    first = len(gzip.compress(MAKERS[name]()[0], mtime=0))
    content = bytearray(path.read_bytes())
    content[first + 40 : first + 120] = bytes(80)
    path.write_bytes(content)
    found = read(path)
    assert names(found)[0] == "0.jpg"
    assert found.damage
    assert found.damage[0].startswith(f"{name}: ")


def test_a_record_that_is_no_document_is_named_and_the_others_are_read(tmp_path):
    broken = b'{"Envelope":{"Links":[{"path":"IMG@/src","url":'
    packed = [wat_records.packed(broken), *(gzip.compress(r, mtime=0) for r in three_extracts())]
    path = tmp_path / "a.wat.gz"
    path.write_bytes(b"".join([packed[1], packed[0], *packed[2:]]))
    found = read(path)
    assert names(found) == ["0.jpg", "1.jpg", "2.jpg"]
    assert len(found.damage) == 1
    assert found.damage[0].startswith(
        f"a.wat.gz: record at byte {len(packed[1])} holds no document"
    )


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("content", [b"", b"\r\n\r\n"])
def test_a_file_without_any_record_is_damaged(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    (tmp_path / f"packed.{name}").write_bytes(gzip.compress(content))
    for file in (name, f"packed.{name}"):
        found = read(tmp_path / file)
        assert found.table.num_rows == 0
        assert found.damage == [f"{file}: holds no record"]


def test_an_archive_without_a_record_of_its_kind_is_whole(tmp_path):
    request = record(HTML[0]).replace(b"Type: response", b"Type: request")
    assert read(archive(tmp_path, request)).damage == []


def as_one_member(tmp_path, make, name, cut=0):
    content = gzip.compress(b"".join(make()), mtime=0)
    (tmp_path / name).write_bytes(content[: len(content) - cut])
    return tmp_path / name


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc.wat.gz", "a.warc", "a.warc.wat"])
@pytest.mark.parametrize("cut", [1, 4, 8, 12])
def test_an_archive_packed_as_a_whole_is_checked_to_its_end(tmp_path, name, cut):
    assert read(as_one_member(tmp_path, MAKERS[name], name)).damage == []
    assert read(as_one_member(tmp_path, MAKERS[name], name, cut)).damage


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc.wat.gz"])
def test_a_plain_archive_named_as_a_packed_one_is_whole(tmp_path, name):
    (tmp_path / name).write_bytes(b"".join(MAKERS[name]()))
    found = read(tmp_path / name)
    assert names(found) == ["0.jpg", "1.jpg", "2.jpg"]
    assert found.damage == []


GARBAGE = [b"x", b"\n", b"garbage", bytes(100), b"\x1f\x8b\x08", b"garbage" * 9999,
           gzip.compress(b"garbage"), gzip.compress(b"WARC/1.0\r\n")]  # fmt: skip


@pytest.mark.parametrize("name", ["a.warc.gz", "a.warc.wat.gz"])
@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_what_follows_the_last_record_is_damage(tmp_path, name, garbage):
    for path in (archive(tmp_path, *MAKERS[name](), name=name),
                 as_one_member(tmp_path, MAKERS[name], f"one.{name}")):  # fmt: skip
        path.write_bytes(path.read_bytes() + garbage)
        found = read(path)
        assert names(found) == ["0.jpg", "1.jpg", "2.jpg"]
        assert len(found.damage) == 1
