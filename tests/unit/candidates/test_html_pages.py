import gzip
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resiliparse.parse.encoding import map_encoding_to_html5

from pipeline.candidates import html_pages, sources
from pipeline.candidates.config import WarcConfig
from tests.warc_records import PAGE, archive, record


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


KINDS = ["text/html; charset={}", 'text/html;Charset="{}"']


@pytest.mark.parametrize(
    ("label", "codec", "text"),
    [
        ("utf-8", "utf-8", "кошка"),
        ("windows-1251", "cp1251", "кошка"),
        ("latin1", "cp1252", "naïve “cat”"),
        ("windows-31j", "cp932", "猫①㈱"),
        ("Shift_JIS", "cp932", "猫①㈱"),
        ("euc-kr", "cp949", "똠방각하"),
        ("gb2312", "gb18030", "猫𠮷"),
        ("big5", "big5hkscs", "貓嘅"),
        ("windows-874", "cp874", "แมว “x”"),
        ("iso-2022-jp", "iso2022_jp", "猫"),
        ("utf-16", "utf-16-le", "кошка"),
    ],
)
def test_bytes_are_decoded_as_browsers_do(tmp_path, label, codec, text):
    html = f"<img src=a.jpg alt='{text}'>"
    meta = f"<meta charset={label}>"
    records = [record(html.encode(codec), kind=kind.format(label)) for kind in KINDS]
    if label != "utf-16":  # the element itself would have to be read as ASCII
        records.append(record((meta + html).encode(codec), kind="text/html"))
    found = read(archive(tmp_path, *records))
    assert [caption for _, caption in pairs(found)] == [text] * len(records)


UNKNOWN = ["none", "foo", "unicode", "binary", "x-user-defined", "base64", "punycode", "hex", "é"]


@pytest.mark.parametrize("label", UNKNOWN)
def test_a_charset_that_is_none_does_not_matter(tmp_path, label):
    html = "<img src=a.jpg alt='un café'>"
    records = [record(html, kind=kind.format(label)) for kind in KINDS]
    records.append(record(f"<meta charset={label}>{html}", kind="text/html"))
    found = read(archive(tmp_path, *records))
    assert [caption for _, caption in pairs(found)] == ["un café"] * 3


@settings(deadline=None)  # tests may share the machine
@given(
    st.sampled_from(["utf-8", "shift_jis", "iso-2022-jp", "utf-16", "gbk", "big5", "foo", ""]),
    st.binary(max_size=60)
    | st.lists(st.sampled_from(b"\x1b$B(J\0\xd8\xff<"), max_size=9).map(bytes),
)
def test_any_bytes_are_decoded(label, content):
    assert isinstance(html_pages._text(content, label), str)


def test_one_bad_byte_spoils_one_character(tmp_path):
    found = read_page(tmp_path, "<img src=a.jpg alt='кошка и |'>".encode().replace(b"|", b"\xff"))
    assert pairs(found)[0][1] == "кошка и \ufffd"


def test_charsets_of_browsers_are_codecs_of_python():
    for codec in html_pages.WIDER.values():
        assert "cat".encode(codec) == b"cat"
    assert set(html_pages.WIDER) <= {
        map_encoding_to_html5(label)
        for label in ("shift_jis", "euc-kr", "gbk", "big5", "windows-874")
    }


HTML = "<img src=a.jpg alt='a cat'>"


def chunked(body):
    return b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)


@pytest.mark.parametrize(
    ("headers", "body"),
    {
        ("Content-Encoding: gzip",): gzip.compress(HTML.encode()),
        ("Content-Encoding: deflate",): zlib.compress(HTML.encode()),
        ("Transfer-Encoding: chunked",): chunked(HTML.encode()),
        ("Transfer-Encoding: chunked", "Content-Encoding: gzip"): chunked(
            gzip.compress(HTML.encode())
        ),
    }.items(),
)
def test_a_packed_body_is_unpacked(tmp_path, headers, body):
    assert pairs(read_page(tmp_path, body, headers=headers))[0][1] == "a cat"


ENCODINGS = ["gzip", "br", "zstd", "deflate", "foo", "none", "utf-8", "gzip, br"]


@pytest.mark.parametrize(
    "headers",
    [*([f"Content-Encoding: {name}"] for name in ENCODINGS), ["Transfer-Encoding: chunked"]],
)
def test_archives_that_unpack_bodies_and_keep_the_header_are_read(tmp_path, headers):
    good = [record(HTML, url=f"http://good{i}.example/") for i in range(3)]
    found = read(archive(tmp_path, good[0], record(HTML, headers=headers), *good[1:]))
    assert [url for url, _ in pairs(found)] == [
        "http://good0.example/a.jpg",
        "http://site.example/blog/a.jpg",
        "http://good1.example/a.jpg",
        "http://good2.example/a.jpg",
    ]
    assert found.damage == []


def test_a_body_unpacked_half_way_is_read(tmp_path):
    headers = ["Transfer-Encoding: chunked", "Content-Encoding: gzip"]
    found = read_page(tmp_path, gzip.compress(HTML.encode()), headers=headers)
    assert pairs(found)[0][1] == "a cat"


@settings(deadline=None, max_examples=50)  # tests may share the machine
@given(
    st.sampled_from(["gzip", "br", "deflate", "zstd"]),
    st.binary(max_size=80),
    st.sampled_from([b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n"]),
)
def test_no_response_loses_the_ones_after_it(tmp_path_factory, encoding, body, start):
    whole = record(start + body, headers=[f"Content-Encoding: {encoding}", "", start.decode()])
    bare = record(body).replace(b"HTTP/1.1 200 OK\r\n", start[:16].ljust(17, b" "))
    good = record(HTML, url="http://good.example/")
    path = archive(tmp_path_factory.mktemp("any"), whole, bare, good, bare, good)
    found = read(path)
    assert [u for u, _ in pairs(found)].count("http://good.example/a.jpg") == 2
    assert found.damage == []


def test_a_body_that_unpacks_to_very_much_is_read_to_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(html_pages, "MAX_PAGE_BYTES", 1000)
    body = gzip.compress(HTML.encode() + b" " * 1_000_000 + HTML.encode())
    assert len(pairs(read_page(tmp_path, body, headers=["Content-Encoding: gzip"]))) == 1


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


@pytest.mark.parametrize(
    ("html", "expected"),
    {
        "<figure><img src=a.jpg><figcaption>A <b>red</b>\n fox</figcaption></figure>": "A red fox",
        "<figure><p><img src=a.jpg alt=' '></p><figcaption>under</figcaption></figure>": "under",
        "<figure><img src=a.jpg title=t><figcaption>under</figcaption></figure>": "t",
        "<figure><figure><img src=a.jpg></figure><figcaption>out</figcaption></figure>": None,
        "<figure><img src=a.jpg><figure><figcaption>in</figcaption></figure></figure>": None,
        "<figure><img src=a.jpg><figcaption>1</figcaption><figcaption>2</figcaption></figure>": "1",
        "<figure><figcaption>1<figcaption>2</figcaption></figcaption><img src=a></figure>": "12",
        f"<figure><img src=a.jpg><figcaption>{'x' * 5000}</figcaption></figure>": None,
        "<img src=a.jpg><figure><figcaption>elsewhere</figcaption></figure>": None,
    }.items(),
)
def test_a_picture_without_text_takes_the_caption_of_its_figure(tmp_path, html, expected):
    found = read_page(tmp_path, html)
    assert [text for _, text in pairs(found)] == ([expected] if expected else [])


@pytest.mark.parametrize(
    ("html", "expected"),
    {
        "<html lang=en-GB><img src=a.jpg alt=x>": "en-GB",
        "<html lang=en><div lang=fr><p><img src=a.jpg alt=x></p></div>": "fr",
        "<html lang=en><img lang=de src=a.jpg alt=x>": "de",
        "<html xml:lang=pt><img src=a.jpg alt=x>": "pt",
        "<html lang=en><div lang=''><img src=a.jpg alt=x></div>": None,
        "<html lang=en><div lang=fr xml:lang=de><img src=a.jpg alt=x></div>": "fr",
        "<html lang=en><div lang=fr></div><img src=a.jpg alt=x>": "en",
        f"<html lang=en><div lang='{'x' * 100}'><img src=a.jpg alt=x></div>": None,
        "<img src=a.jpg alt=x>": None,
    }.items(),
)
def test_the_language_is_that_of_the_nearest_element(tmp_path, html, expected):
    assert read_page(tmp_path, html).table.column("language").to_pylist() == [expected]


NUM = 4000
HOSTILE = {
    "deep": "<span>" * NUM + "<img src=a.jpg alt=x>" * NUM,
    "figures": "<figure>" * 1000 + "<img src=a.jpg>" * NUM,
    "one figure": "<figure>" + "<img src=a.jpg>" * NUM + "<figcaption>x</figcaption></figure>",
    "captions": "<figure><img src=a.jpg><figcaption>" * 1000 + "x" * 100_000,
    "languages": f"<html lang={'x' * 100_000}>" + "<img src=a.jpg alt=x>" * NUM,
    "long caption": "<figure>" + "<img src=a.jpg>" * NUM + f"<figcaption>{'x' * 100_000}",
    "elements": "<base href=/><meta name=a content=b>" * NUM,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_work_grows_with_the_page_and_no_faster(name, monkeypatch):
    # Steps are counted, because time says little on a shared machine: each element is visited once.
    steps = []
    inside = html_pages._inside
    monkeypatch.setattr(html_pages, "_inside", lambda *a: (steps.append(1), inside(*a))[1])
    html = HOSTILE[name]
    page = html_pages.read_page(PAGE, html, [])
    assert len(page.pictures) == html.count("<img")
    assert len(steps) <= html.count("<") + 3
    shared = [len(text) + len(language or "") for _, text, language in page.pictures]
    assert sum(shared) <= 20 * len(html)


def test_a_base_that_is_too_long_for_an_address_gives_none(tmp_path):
    images = "<img src=a.jpg alt=x><img src=http://o.example/b.jpg alt=x>"
    found = read_page(tmp_path, f"<base href='/{'x' * 10_000}/'>{images}")
    assert pairs(found) == [("http://o.example/b.jpg", "x")]
    assert found.dropped == {"invalid_url": 1}
