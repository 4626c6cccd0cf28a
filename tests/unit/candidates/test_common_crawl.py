"""Both readers of Common Crawl's files against an HTML parser that shares nothing with them."""

from html.parser import HTMLParser
from urllib.parse import quote, urljoin

import pytest

from pipeline.candidates import sources
from pipeline.candidates.config import WarcConfig, WatConfig
from tests import wat_records
from tests.warc_records import archive, record

VOID = {"area", "base", "br", "hr", "img", "input", "link", "meta", "source", "wbr"}

ENGLISH = """<!doctype html><html lang="en-GB"><head><title>A blog</title>
<base href="/static/"><meta name="robots" content="index, follow"></head>
<body><img src="a.jpg" alt=" A cat "><p><img src="/b.jpg" alt="" title="Fish &amp; chips"></p>
<img src="//cdn.example/c.png?x=1&amp;y=2" alt="R&amp;amp;D &eacute;&#233;&#x1F98A;">
<img src="../d e.jpg" alt='"quoted" \\ {"path":"IMG@/src"}'><img src="https://o.example/e.jpg">
<div lang="fr"><p>Un <img src="f.jpg" alt="chat"></p><img lang="de" src="g.jpg" alt="Katze"></div>
<div lang=""><img src="h.jpg" alt="who knows"></div><IMG SRC="i.jpg" ALT="loud"><br>
<!-- <img src="comment.jpg" alt="no"> --><script>x = "<img src='script.jpg' alt='no'>"</script>
</body></html>"""
LATER = """<html xml:lang="pt"><head><meta name="keywords" content="noindex, nofollow"></head>
<body><img src="blank.gif" data-src="real.jpg" alt="later">
<img srcset="s.jpg 1x, m.jpg 2x" alt="set">
<img src="data:image/gif;base64,AA" data-src="x/y.jpg" alt="stand-in">
<img src="data:image/gif;base64,AA" srcset="t.jpg, u.jpg 2x" alt="stand-in of a set">
<img src="data:image/gif;base64,AA" alt="nothing else">
<img alt="no address"><img src="" alt="empty">
<picture><source srcset="w.webp"><img src="v.jpg" alt="fallback"></picture></body></html>"""
FIGURES = """<html><body><figure><img src="a.jpg"><figcaption>A <b>red</b>
 fox &lt;here&gt;</figcaption></figure><figure><a href="/"><img src="b.jpg" alt="own"></a>
<figcaption>not this</figcaption></figure><figure><figure><img src="c.jpg" alt=" "></figure>
<figcaption>outer</figcaption></figure><figure><img src="d.jpg"><img src="e.jpg" title="t">
<figcaption>first</figcaption><figcaption>second</figcaption></figure><img src="f.jpg">
</body></html>"""
RUSSIAN = "<html lang=ru><img src=a.jpg alt='Кошка сидит'><img src='б.jpg' alt='вторая'></html>"
JAPANESE = "<html lang=ja><meta charset=shift_jis><img src=a.jpg alt='猫①㈱の写真'></html>"
CHINESE = "<html lang=zh><img src=a.jpg alt='貓嘅相'></html>"
FRENCH = "<html lang=fr><img src=a.jpg alt='déjà “vu” – 5 €'></html>"
REFUSING = "<html><meta name=ChatGPT-User content=noai><img src=a.jpg alt=x><img src=b.jpg></html>"

PAGES = [
    ("http://one.example/blog/post.html", ENGLISH, "utf-8", 'text/html; charset="UTF-8"'),
    ("http://two.example/?p=1", LATER, "utf-8", "text/html"),
    ("https://three.example/a/b/", FIGURES, "utf-8", "application/xhtml+xml; charset=none"),
    ("http://four.example/x", RUSSIAN, "cp1251", "text/html;charset=windows-1251"),
    ("http://five.example/x", JAPANESE, "cp932", "text/html"),
    ("http://six.example/x", CHINESE, "big5hkscs", "text/html; charset=Big5"),
    ("http://seven.example/x", FRENCH, "cp1252", "text/html; charset=ISO-8859-1"),
    ("http://eight.example/x", FRENCH, "utf-8", "text/html; charset=foo"),
    ("http://nine.example/x", REFUSING, "utf-8", "text/html"),
]


class Reader(HTMLParser):
    """What the standard library's parser finds on a page."""

    def __init__(self, url, html):
        super().__init__()
        self.base, self.images, self.root_language, self.refuses = url, [], None, False
        self._open = [("", None, None)]  # tag, language, figure
        self._has_base, self._caption = False, None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        values = {name: (value or "").strip() for name, value in attrs}
        _, language, figure = self._open[-1]
        language = values.get("lang", values.get("xml:lang", language))
        if tag == "html":
            self.root_language = language
        elif tag == "figure":
            figure = {"captions": []}
        elif tag == "figcaption":
            self._caption = []
            figure["captions"].append(self._caption)
        elif tag == "img":
            self.images.append((values, language or None, figure))
        elif tag == "base" and not self._has_base:
            self.base, self._has_base = urljoin(self.base, values["href"]), True
        elif tag == "meta":
            self.refuses |= values.get("content") == "noai"
        if tag not in VOID:
            self._open.append((tag, language, figure))

    def handle_endtag(self, tag):
        if tag == "figcaption":
            self._caption = None
        while self._open.pop()[0] != tag:
            pass

    def handle_data(self, data):
        if self._caption is not None:
            self._caption.append(data)

    def address(self, written):
        return quote(urljoin(self.base, written), safe=":/?&=%")


def real(written):
    return "" if written.startswith("data:") else written


def of_page(reader):
    """Address, text and language of every picture that has all a candidate needs."""
    for values, language, figure in reader.images:
        first = values.get("srcset", "").replace(",", " ").split()[:1]
        address = real(values.get("data-src", "")) or real(values.get("src", "")) or "".join(first)
        text = values.get("alt") or values.get("title")
        if not text and figure and figure["captions"]:
            text = " ".join("".join(figure["captions"][0]).split())
        if address and text:
            yield reader.address(address), text, language


def of_extract(reader):
    """The same as far as an extract holds it: ``src``, ``alt``, ``title``, the root's language."""
    for values, _, _ in reader.images:
        address, text = real(values.get("src", "")), values.get("alt") or values.get("title")
        if address and text:
            yield reader.address(address), text, reader.root_language


def rows(readers, find):
    willing = [reader for reader in readers if not reader.refuses]
    return [row for reader in willing for row in find(reader)]


def read(config):
    (partition,) = sources.plan(config)
    found = sources.read(config, partition)
    columns = [found.table.column(name).to_pylist() for name in ("url", "caption", "language")]
    return found, list(zip(*columns, strict=True))


@pytest.fixture
def readers():
    return [Reader(url, html) for url, html, _, _ in PAGES]


@pytest.fixture
def of_archive(tmp_path):
    records = [record(html.encode(codec), url=url, kind=kind) for url, html, codec, kind in PAGES]
    return read(WarcConfig(type="warc", path=str(archive(tmp_path, *records))))


@pytest.fixture
def of_extracts(tmp_path):
    pages = [wat_records.HtmlPage(url, html) for url, html, _, _ in PAGES]
    path = wat_records.write(tmp_path / "a.warc.wat.gz", pages)
    return read(WatConfig(type="wat", path=str(path)))


def test_pages_give_what_another_parser_finds(of_archive, readers):
    found, pictures = of_archive
    assert pictures == rows(readers, of_page)
    assert len(pictures) == 23
    assert found.dropped["opted_out_page"] == 2
    assert found.damage == []


def test_extracts_give_all_that_they_hold(of_extracts, readers):
    found, pictures = of_extracts
    assert pictures == rows(readers, of_extract)
    assert found.dropped["opted_out_page"] == 2
    assert found.damage == []


def test_extracts_give_a_part_of_what_pages_give(of_archive, of_extracts):
    pages, extracts = ({row[:2] for row in pictures} for _, pictures in (of_archive, of_extracts))
    stand_in = ("http://two.example/blank.gif", "later")  # its data-src is not in the extract
    assert extracts - pages == {stand_in}
    assert {text for _, text in pages - extracts} == {
        *("later", "set", "stand-in", "stand-in of a set", "A red fox <here>", "first"),
    }
