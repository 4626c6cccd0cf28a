import gzip

import pytest

from pipeline.candidates import sources
from pipeline.candidates.config import WarcConfig
from pipeline.errors import ConfigError

PAGE = "http://site.example/blog/post.html"


def record(html, *, url=PAGE, status="200 OK", headers=(), kind="text/html; charset=utf-8"):
    """One WARC response record, as Common Crawl writes it."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *headers]
    payload = "\r\n".join([*lines, "", ""]).encode() + html.encode()
    warc = [
        "WARC/1.0",
        "WARC-Type: response",
        "WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-000000000001>",
        "WARC-Date: 2024-01-01T00:00:00Z",
        f"WARC-Target-URI: {url}",
        "Content-Type: application/http; msgtype=response",
        f"Content-Length: {len(payload)}",
    ]
    return "\r\n".join([*warc, "", ""]).encode() + payload + b"\r\n\r\n"


def archive(tmp_path, *records, name="a.warc.gz", cut=0):
    packed = [gzip.compress(r, mtime=0) if name.endswith(".gz") else r for r in records]
    content = b"".join(packed)
    (tmp_path / name).write_bytes(content[: len(content) - cut])
    return tmp_path / name


def read(path):
    config = WarcConfig(type="warc", path=str(path))
    (partition,) = sources.plan(config)
    return sources.read(config, partition)


def pairs(found):
    columns = (found.table.column(name).to_pylist() for name in ("url", "caption"))
    return list(zip(*columns, strict=True))


def read_page(tmp_path, html, **values):
    return read(archive(tmp_path, record(html, **values)))


def test_pictures_have_absolute_addresses_text_and_page(tmp_path):
    found = read_page(
        tmp_path,
        """<img src="a.jpg" alt=" a cat "><img src="/b.jpg" alt="" title="a dog">
        <img src="//cdn.example/c.jpg" alt=three><img src="../d.jpg?x=1&amp;y=2" alt="four">
        <img alt="no address"><img src="e.jpg"><noscript><img src=f.jpg alt=six></noscript>""",
    )
    assert pairs(found) == [
        ("http://site.example/blog/a.jpg", "a cat"),
        ("http://site.example/b.jpg", "a dog"),
        ("http://cdn.example/c.jpg", "three"),
        ("http://site.example/d.jpg?x=1&y=2", "four"),
        ("http://site.example/blog/f.jpg", "six"),
    ]
    assert set(found.table.column("page_url").to_pylist()) == {PAGE}
    assert found.dropped == {"empty_caption": 1}
    assert found.damage == []


@pytest.mark.parametrize(
    ("base", "expected"),
    {
        '<base href="http://other.example/x/">': "http://other.example/x/a.jpg",
        '<base href="/y/">': "http://site.example/y/a.jpg",
        '<base target="_top"><base href="/y/"><base href="/z/">': "http://site.example/y/a.jpg",
    }.items(),
)
def test_base_element_is_obeyed(tmp_path, base, expected):
    html = f"<head>{base}</head><img src=a.jpg alt=x>"
    assert pairs(read_page(tmp_path, html)) == [(expected, "x")]


@pytest.mark.parametrize(
    ("attributes", "expected"),
    {
        "src=blank.gif data-src=real.jpg": "real.jpg",
        "src='data:image/gif;base64,AA' data-src=real.jpg": "real.jpg",
        "src='data:image/gif;base64,AA' srcset='s.jpg 320w, m.jpg 640w'": "s.jpg",
        "src=real.jpg srcset='s.jpg 1x'": "real.jpg",
        "srcset='s.jpg, m.jpg 2x'": "s.jpg",
    }.items(),
)
def test_a_picture_that_is_loaded_later_gives_its_real_address(tmp_path, attributes, expected):
    found = read_page(tmp_path, f"<img {attributes} alt=x>")
    assert pairs(found) == [(f"http://site.example/blog/{expected}", "x")]


def test_a_data_value_alone_is_an_invalid_address(tmp_path):
    found = read_page(tmp_path, "<img src='data:image/gif;base64,AA' alt=x>")
    assert found.dropped == {"invalid_url": 1}


def test_entities_are_unescaped_once(tmp_path):
    found = read_page(tmp_path, '<img src="a.jpg" alt="R&amp;amp;D &eacute;">')
    assert pairs(found)[0][1] == "R&amp;D é"


def test_bytes_are_decoded_by_the_pages_own_charset(tmp_path):
    html = '<meta charset="windows-1251"><img src="a.jpg" alt="кошка">'
    encoded = record(html, kind="text/html").replace(
        html.encode(), html.encode("windows-1251").ljust(len(html.encode()))
    )
    assert pairs(read(archive(tmp_path, encoded)))[0][1] == "кошка"


@pytest.mark.parametrize(
    ("head", "headers"),
    [
        ('<meta name="robots" content="noai">', []),
        ('<META NAME="Robots" CONTENT="index, NoImageIndex">', []),
        ('<meta name="otherbot" content="noimageai">', []),
        ("", ["X-Robots-Tag: noindex"]),
        ("", ["x-robots-tag: all", "X-Robots-Tag: otherbot: noai"]),
    ],
)
def test_a_page_that_opts_out_gives_nothing(tmp_path, head, headers):
    html = f"<head>{head}</head><img src=a.jpg alt=x><img src=b.jpg>"
    found = read_page(tmp_path, html, headers=headers)
    assert found.table.num_rows == 0
    assert found.dropped == {"opted_out_page": 2}


def test_only_successful_html_responses_count(tmp_path):
    html = "<img src=a.jpg alt=x>"
    path = archive(
        tmp_path,
        record(html, status="404 Not Found"),
        record(html, kind="application/json"),
        record(html, url="http://second.example/", kind="application/xhtml+xml"),
    )
    assert pairs(read(path)) == [("http://second.example/a.jpg", "x")]


def three_pages():
    return [record(f"<img src={i}.jpg alt=x>" + "<p>text</p>" * 9) for i in range(3)]


def test_plain_and_packed_archives_give_the_same(tmp_path):
    plain = read(archive(tmp_path, *three_pages(), name="a.warc"))
    packed = read(archive(tmp_path, *three_pages()))
    assert plain.table.equals(packed.table)
    assert plain.table.num_rows == 3
    assert plain.damage == packed.damage == []


@pytest.mark.parametrize("name", ["a.warc", "a.warc.gz"])
def test_an_archive_cut_in_a_record_gives_what_lies_before_and_is_named(tmp_path, name):
    # The cut keeps the last record's picture or loses it; the two records before it always stay.
    found = read(archive(tmp_path, *three_pages(), name=name, cut=60))
    assert found.table.num_rows >= 2
    assert len(found.damage) == 1
    assert found.damage[0].startswith(f"{name}: ")


def test_a_gzip_member_without_its_end_is_noticed(tmp_path):
    # The record is whole; only the checksum behind it is cut.
    found = read(archive(tmp_path, *three_pages(), cut=4))
    assert found.table.num_rows == 3
    assert "has no end" in found.damage[0]


def test_damage_in_the_middle_is_named_with_its_place(tmp_path):
    path = archive(tmp_path, *three_pages())
    first = len(gzip.compress(three_pages()[0], mtime=0))
    content = bytearray(path.read_bytes())
    content[first + 40 : first + 120] = bytes(80)
    path.write_bytes(content)
    found = read(path)
    assert pairs(found)[0][0].endswith("/0.jpg")
    assert found.damage
    assert found.damage[0].startswith("a.warc.gz: ")


def test_an_empty_archive_has_no_candidates(tmp_path):
    found = read(archive(tmp_path, name="a.warc"))
    assert found.table.num_rows == 0


def test_wrong_path_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match="must end in one of"):
        sources.plan(WarcConfig(type="warc", path=str(archive(tmp_path, name="a.txt"))))
