import json

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.candidates import sources, wat_pages
from pipeline.candidates.config import WarcConfig, WatConfig
from tests import wat_records
from tests.warc_records import PAGE, archive, record
from tests.wat_records import HtmlPage


def read(path):
    config = WatConfig(type="wat", path=str(path))
    (partition,) = sources.plan(config)
    return sources.read(config, partition)


def pairs(found):
    columns = (found.table.column(name).to_pylist() for name in ("url", "caption"))
    return list(zip(*columns, strict=True))


def read_page(tmp_path, html, date=wat_records.DATE, **values):
    return read(wat_records.write(tmp_path / "a.wat.gz", [HtmlPage(PAGE, html, **values)], date))


PAGES = [
    """<html lang=en><img src="a.jpg" alt=" a cat "><a href=/>home</a><img src="/b.jpg" title=dog>
    <img src="//cdn.example/c.jpg" alt=three><img src="../d.jpg?x=1&amp;y=2" alt="R&amp;amp;D">
    <img src="e.jpg"><img src="data:image/gif;base64,AA" alt=hidden><img alt="no address">""",
    "<html xml:lang=pt><head><base href=/y/></head><img src=a.jpg alt=a><img src='b c.jpg' alt=é>",
    "<head><meta name=robots content='index, NoImageAI'></head><img src=a.jpg alt=x>",
    "<p>no picture at all, but the words IMG@/src</p>",
]


def test_extracts_give_what_their_pages_give(tmp_path):
    urls = [f"http://site{i}.example/blog/post.html" for i in range(len(PAGES))]
    warc = archive(tmp_path, *(record(h, url=u) for h, u in zip(PAGES, urls, strict=True)))
    pages = [HtmlPage(url, html) for url, html in zip(urls, PAGES, strict=True)]
    config = WarcConfig(type="warc", path=str(warc))
    of_pages = sources.read(config, sources.plan(config)[0])
    of_extracts = read(wat_records.write(tmp_path / "a.warc.wat.gz", pages))
    assert of_extracts.table.equals(of_pages.table)
    assert of_extracts.dropped == of_pages.dropped
    assert of_extracts.damage == []
    assert pairs(of_extracts) == [
        ("http://site0.example/blog/a.jpg", "a cat"),
        ("http://site0.example/b.jpg", "dog"),
        ("http://cdn.example/c.jpg", "three"),
        ("http://site0.example/d.jpg?x=1&y=2", "R&amp;D"),
        ("http://site1.example/y/a.jpg", "a"),
        ("http://site1.example/y/b%20c.jpg", "é"),
    ]
    table = of_extracts.table
    assert table.column("language").to_pylist() == ["en"] * 4 + ["pt"] * 2
    assert table.column("page_url").to_pylist() == [urls[0]] * 4 + [urls[1]] * 2
    assert of_extracts.dropped == {"empty_caption": 1, "invalid_url": 1, "opted_out_page": 1}


@pytest.mark.parametrize(
    "headers",
    [
        {"X-Robots-Tag": "noai"},
        {"x-robots-tag": "otherbot: noimageai"},
        {"X-ROBOTS-TAG": ["all", "otherbot: nofollow, noindex"]},
    ],
)
def test_headers_opt_out_in_every_form(tmp_path, headers):
    found = read_page(tmp_path, "<img src=a.jpg alt=x><img src=b.jpg>", headers=headers)
    assert found.table.num_rows == 0
    assert found.dropped == {"opted_out_page": 2}


def test_a_harmless_header_and_a_page_that_failed(tmp_path):
    html = "<img src=a.jpg alt=x>"
    assert pairs(read_page(tmp_path, html, headers={"X-Robots-Tag": "nosnippet"}))
    assert not pairs(read_page(tmp_path, html, status=404))


def test_a_header_may_be_named_like_an_element(tmp_path):
    headers = {"Base": "http://header.example/", "Status": "500", "Metas": "x", "Head": "y"}
    found = read_page(tmp_path, "<img src=a.jpg alt=x>", headers=headers)
    assert pairs(found) == [("http://site.example/blog/a.jpg", "x")]


EVIL = "http://evil.example/"
HIDDEN = [
    {"WARC-Target-URI": EVIL},
    {'x"WARC-Target-URI': EVIL},
    {"WARC-Header-Metadata": EVIL, "Envelope": EVIL},
    {"Metas": ["a", "b"]},
    {'"Metas': ["robots", "all"], "HTML-Metadata": ["x", "y"]},
    {"Response-Message": "x", "Headers": ["a", "b"], "HTTP-Response-Metadata": "z"},
    {"Head": ["a", "b"], "Base": EVIL, "Links": ["a", "b"]},
    {"path": "IMG@/src", "url": EVIL, "alt": "evil"},
    {'{"path': "IMG@/src", "x": '{"path":"IMG@/src","url":"a"}'},
]


@pytest.mark.parametrize("headers", HIDDEN)
@pytest.mark.parametrize("turned", [False, True])
def test_no_header_is_taken_for_a_field_of_the_extract(headers, turned):
    html = "<head><meta name=robots content=noai><base href=/b/></head><img src=a.jpg alt=x>"
    document = wat_records.envelope(HtmlPage(PAGE, html))
    response = document["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
    response["Headers"] = headers
    if turned:  # the order of names differs between the extractor's versions
        document = _turned(document, keep="path")
    compact = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    searched = wat_pages._searched(compact)
    assert searched in (None, wat_pages._parsed(compact))
    assert (searched is None) == ("IMG@/src" in headers.values())
    page = wat_pages.read_page(compact.encode())
    assert page is not None
    assert (page.url, page.base, page.opts_out) == (PAGE, "/b/", True)
    assert [picture.address for picture in page.pictures] == ["a.jpg"]


def test_old_extracts_hold_raw_entities_and_new_ones_do_not(tmp_path):
    html = '<img src="a.jpg?x=1&amp;amp;copy=2" alt="Fish &amp;amp; chips &amp;amp;amp; peas">'
    old = read_page(tmp_path, html, date="2019-05-27T15:39:42Z")
    assert pairs(old) == [("http://site.example/blog/a.jpg?x=1&copy=2", "Fish & chips &amp; peas")]
    new = read_page(tmp_path, html, date="2019-06-30T00:00:00Z")
    assert pairs(new)[0][1] == "Fish &amp; chips &amp;amp; peas"


def test_half_a_character_is_replaced(tmp_path):
    document = wat_records.envelope(HtmlPage(PAGE, "<img src=a.jpg alt=HALF>"))
    text = json.dumps(document, separators=(",", ":")).replace(
        "HALF", "half \\ud83d, whole \\ud83d\\ude00"
    )
    (tmp_path / "a.wat.gz").write_bytes(wat_records.packed(text.encode()))
    assert pairs(read(tmp_path / "a.wat.gz"))[0][1] == "half \ufffd, whole \U0001f600"


NAMES = [
    *("IMG@/src", "path", "Metas", "Head", "Base", "Headers", "WARC-Target-URI", "Links"),
    *("HTML-Metadata", "WARC-Header-Metadata", "Response-Message", '{"path":"IMG@/src"'),
    *wat_pages.MARKS,
]
LETTERS = st.sampled_from('ab"\\/{}[]:,@ é\n\u2028') | st.characters(codec="utf-8")
TEXT = st.lists(st.sampled_from(NAMES) | LETTERS, max_size=6).map("".join)
LINK = st.fixed_dictionaries(
    {"path": st.sampled_from(["IMG@/src", "A@/href", "IMG@/longdesc"]), "url": TEXT},
    optional={"alt": TEXT, "title": TEXT, "text": TEXT},
).map(lambda link: {"path": link["path"], **link})
# All that a server decides: names of headers, and values that are a text or, for a name that comes
# twice, a list of texts; of meta elements the values.
HEADERS = st.dictionaries(
    st.sampled_from(NAMES) | TEXT, TEXT | st.lists(TEXT, min_size=2), max_size=4
)
METAS = st.lists(st.fixed_dictionaries({"name": TEXT, "content": TEXT}), max_size=2)


@settings(deadline=None)  # tests may share the machine
@given(st.lists(LINK, max_size=4), TEXT, TEXT, HEADERS, METAS, st.booleans())
def test_searching_a_document_finds_what_parsing_it_finds(
    links, title, base, headers, metas, turned
):
    document = wat_records.envelope(HtmlPage(PAGE, "<html lang=en><meta name=a content=b>"))
    response = document["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
    response["Headers"] = headers
    response["HTML-Metadata"] |= {"Links": links}
    response["HTML-Metadata"]["Head"] |= {"Title": title, "Base": base}
    response["HTML-Metadata"]["Head"]["Metas"] += metas
    if turned:
        document = _turned(document, keep="path")
    compact = json.dumps(document, separators=(",", ":"), ensure_ascii=False)
    parsed = wat_pages._parsed(compact)
    assert parsed.links == [link for link in links if link["path"] == "IMG@/src"]
    searched = wat_pages._searched(compact)
    assert searched == parsed or (searched is None and not _is_plain(links, compact))
    page = wat_pages.read_page(compact.encode())
    for other in (
        json.dumps(document, indent=1),
        compact.replace("/", "\\/"),
        json.dumps(_turned(document), separators=(",", ":")),
    ):
        assert wat_pages.read_page(other.encode()) == page


def _is_plain(links, compact):
    """Whether there is a picture, and nothing else that spells the end of a picture's path."""
    num = sum(link["path"] == "IMG@/src" for link in links)
    return num > 0 and compact.count('IMG@/src"') == num


def _turned(value, keep=None):
    """The same JSON with the names of every object in the opposite order; one may stay first."""
    if isinstance(value, dict):
        names = sorted(reversed(value), key=lambda name: name != keep)
        return {name: _turned(value[name], keep) for name in names}
    return [_turned(each, keep) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "document",
    [
        {},
        {"Envelope": None},
        {"Envelope": {"Payload-Metadata": {"HTTP-Response-Metadata": {"HTML-Metadata": 7}}}},
        {"path": "IMG@/src"},
        [{"path": "IMG@/src", "url": "a"}],
    ],
)
def test_a_document_of_another_form_is_no_page(document):
    compact = json.dumps(document, separators=(",", ":")).encode()
    assert wat_pages.read_page(compact) is None


def test_values_of_another_type_are_passed_over(tmp_path):
    document = wat_records.envelope(HtmlPage(PAGE, "<img src=a.jpg alt=x>"))
    response = document["Envelope"]["Payload-Metadata"]["HTTP-Response-Metadata"]
    response["HTML-Metadata"] = {
        "Head": {"Metas": [7, {"name": ["robots"], "content": 1}], "Base": 3},
        "Links": [
            {"path": "IMG@/src", "url": 7, "alt": "x"},
            {"path": "IMG@/src", "url": "b.jpg", "alt": ["first", "second"]},
            {"path": "IMG@/src", "url": "c.jpg", "alt": None, "title": "t"},
        ],
    }
    response["Headers"] = {"X-Robots-Tag": 7}
    (tmp_path / "a.wat.gz").write_bytes(wat_records.packed(document))
    assert [text for _, text in pairs(read(tmp_path / "a.wat.gz"))] == ["first", "t"]


def test_many_pages_give_one_table_in_order(tmp_path, monkeypatch):
    from pipeline.candidates import common_crawl

    pages = [HtmlPage(PAGE, f"<img src={i}.jpg alt=x><img src={i}b.jpg alt=y>") for i in range(7)]
    path = wat_records.write(tmp_path / "a.wat.gz", pages)
    whole = read(path).table
    monkeypatch.setattr(common_crawl, "ROWS_PER_TABLE", 3)
    assert read(path).table.equals(whole)
    assert isinstance(whole, pa.Table)
    assert whole.num_rows == 14
