"""Writes Wikipedia's dumps and page-view files as Wikimedia does, in miniature or at length.

``PAGES`` is small enough to be counted by hand; ``WORDS`` and ``PAIRS`` are that count, made
without the code they test.
"""

import bz2
import gzip
import random
import re
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

HEAD = """\
<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:schemaLocation=\
"http://www.mediawiki.org/xml/export-0.11/ http://www.mediawiki.org/xml/export-0.11.xsd" \
version="0.11" xml:lang="en">
  <siteinfo>
    <sitename>Wikipedia</sitename>
    <dbname>testwiki</dbname>
    <base>https://en.wikipedia.org/wiki/Main_Page</base>
    <generator>MediaWiki 1.44.0</generator>
    <case>first-letter</case>
    <namespaces>
      <namespace key="-2" case="first-letter">Media</namespace>
      <namespace key="0" case="first-letter" />
      <namespace key="1" case="first-letter">Talk</namespace>
      <namespace key="6" case="first-letter">Datei</namespace>
      <namespace key="10" case="first-letter">Vorlage</namespace>
      <namespace key="14" case="first-letter">Kategorie</namespace>
    </namespaces>
  </siteinfo>
"""
END = "</mediawiki>\n"
SYLLABLES = re.findall("..", "bacedifogulamenioporusatevioworyanderingonth")


@dataclass(frozen=True)
class Page:
    title: str
    text: str
    namespace: int = 0
    redirect: str = ""
    model: str = "wikitext"


PAGES = [
    Page(
        "Cat",
        """\
{{Infobox animal
| name = secret
| image = {{crop|[[File:Secret.jpg|thumb|a secret]]}}
}}
The '''cat''' is a [[Pet|small pet]].<ref name="a">{{cite book|title=Secret}}</ref> The [[cat]]s \
sleep.

== Food ==
{| class="wikitable"
! secret
|-
| {{n|1}} || secret
|}
A cat eats fish &amp; meat.
[[Datei:Secret.jpg|mini|A secret of the [[cat|secret]]]]
[[Kategorie:Secrets]]
""",
    ),
    Page("Kitty", "#REDIRECT [[Cat]] {{R from secret}}", redirect="Cat"),
    Page("Talk:Cat", "A secret about the cat", namespace=1),
    Page(
        "New York",
        "New York is a <!-- secret -->big city. New York's parks\nare big.<nowiki>secret</nowiki>",
    ),
    Page("Style", ".secret { color: red }", model="sanitized-css"),
    Page("Template:Secret", "secret", namespace=10),
    Page("Café", "A café, a CAFÉ; ''New'' <small>York</small>"),
]

NORMALISED_WORDS = {
    "a": 5, "are": 1, "big": 2, "café": 2, "cat": 2, "cats": 1, "city": 1, "eats": 1, "fish": 1,
    "food": 1, "is": 2, "meat": 1, "new": 3, "parks": 1, "pet": 1, "s": 1, "sleep": 1, "small": 1,
    "the": 2, "york": 3,
}  # fmt: skip
NORMALISED_PAIRS = {
    "a big": 1, "a café": 2, "a cat": 1, "a small": 1, "are big": 1, "big city": 1, "cat eats": 1,
    "cat is": 1, "cats sleep": 1, "eats fish": 1, "is a": 2, "new york": 3, "s parks": 1,
    "small pet": 1, "the cat": 1, "the cats": 1, "york is": 1,
}  # fmt: skip
LITERAL_WORDS = {
    "A": 2, "CAFÉ": 1, "Food": 1, "New": 3, "The": 2, "York": 2, "York's": 1, "a": 3, "are": 1,
    "big": 2, "café": 1, "cat": 2, "cats": 1, "city": 1, "eats": 1, "fish": 1, "is": 2, "meat": 1,
    "parks": 1, "pet": 1, "sleep": 1, "small": 1,
}  # fmt: skip
LITERAL_PAIRS = {
    "A café": 1, "A cat": 1, "New York": 2, "New York's": 1, "The cat": 1, "The cats": 1,
    "York is": 1, "York's parks": 1, "a CAFÉ": 1, "a big": 1, "a small": 1, "are big": 1,
    "big city": 1, "cat eats": 1, "cat is": 1, "cats sleep": 1, "eats fish": 1, "is a": 2,
    "small pet": 1,
}  # fmt: skip
WORDS = {"normalised": NORMALISED_WORDS, "literal": LITERAL_WORDS}
PAIRS = {"normalised": NORMALISED_PAIRS, "literal": LITERAL_PAIRS}
KINDS = {"articles": 3, "no_wikitext": 1, "other_namespaces": 2, "redirects": 1}


def page_xml(page: Page, number: int) -> str:
    redirect = f"    <redirect title={quoteattr(page.redirect)} />\n" if page.redirect else ""
    text = escape(page.text, {'"': "&quot;"})
    return f"""\
  <page>
    <title>{escape(page.title)}</title>
    <ns>{page.namespace}</ns>
    <id>{number}</id>
{redirect}    <revision>
      <id>{1000 + number}</id>
      <parentid>{900 + number}</parentid>
      <timestamp>2024-01-01T00:00:00Z</timestamp>
      <contributor>
        <username>Secret</username>
        <id>7</id>
      </contributor>
      <comment>/* Secret */ &lt;ref&gt;</comment>
      <origin>{1000 + number}</origin>
      <model>{page.model}</model>
      <format>text/x-wiki</format>
      <text bytes="{len(page.text.encode())}" sha1="0" xml:space="preserve">{text}</text>
      <sha1>0</sha1>
    </revision>
  </page>
"""


def write_plain(path: Path, pages: list[Page]) -> Path:
    path.write_bytes(b"".join(_pieces(pages)))
    return path


def write_one_stream(path: Path, pages: list[Page]) -> Path:
    path.write_bytes(bz2.compress(b"".join(_pieces(pages))))
    return path


def write_multistream(path: Path, pages: list[Page], per_stream: int = 2) -> Path:
    """Head, some pages and end in streams of their own, with the index file beside them."""
    head, *bodies, end = _pieces(pages)
    content, index = bz2.compress(head), ""
    for first in range(0, len(pages), per_stream):
        for number in range(first, min(first + per_stream, len(pages))):
            index += f"{len(content)}:{number}:{pages[number].title}\n"
        content += bz2.compress(b"".join(bodies[first : first + per_stream]))
    path.write_bytes(content + bz2.compress(end))
    name = path.name.replace("multistream.xml", "multistream-index.txt")
    path.with_name(name).write_bytes(bz2.compress(index.encode()))
    return path


def write_unaligned(path: Path, pages: list[Page], stream_bytes: int = 700) -> Path:
    """Streams that end anywhere, inside a tag as well: what parallel compressors write."""
    whole = b"".join(_pieces(pages))
    cuts = range(0, len(whole), stream_bytes)
    path.write_bytes(b"".join(bz2.compress(whole[cut : cut + stream_bytes]) for cut in cuts))
    return path


def _pieces(pages: list[Page]) -> list[bytes]:
    bodies = [page_xml(page, number) for number, page in enumerate(pages)]
    return [piece.encode() for piece in (HEAD, *bodies, END)]


def write_views(path: Path, lines: list[str]) -> Path:
    """A page-view file, packed as its name says."""
    content = "".join(f"{line}\n" for line in lines).encode()
    packed = {".gz": gzip.compress(content, mtime=0), ".bz2": bz2.compress(content)}
    path.write_bytes(packed.get(path.suffix, content))
    return path


def long_article(rng: random.Random, num_paragraphs: int = 12) -> str:
    """An article with about the share of markup that the English Wikipedia's have (half)."""
    words = [_word(rng) for _ in range(400)]

    def prose(num):
        return " ".join(rng.choices(words, k=num))

    def sentence():
        linked = f"[[{prose(2)}|{prose(1)}]]" if rng.random() < 0.5 else f"[[{prose(1)}]]s"
        cited = (
            f"<ref name={rng.randrange(99)}>{{{{cite web|url=https://example.org/{prose(1)}|title="
            f"{prose(6)}|date=2024-01-01|access-date=2024-02-02|publisher={prose(2)}}}}}</ref>"
        )
        marked = rng.choice(
            ["''{}''", "'''{}'''", "{}&nbsp;km", "({})", "“{}”", "{{{{nowrap|{}}}}}"]
        )
        tail = cited if rng.random() < 0.4 else ""
        first = f"{prose(6).capitalize()} {linked}, {prose(5)}"
        return f"{first} {marked.format(prose(1))} {prose(4)}.{tail}"

    rows = "\n".join(
        f"|-\n| {prose(2)} || align=right | {rng.randrange(999)} || [[{prose(1)}]]"
        for _ in range(6)
    )
    infobox = "\n".join(
        f"| {prose(1)} = {{{{val|{rng.randrange(99)}}}}} {prose(2)}" for _ in range(12)
    )
    parts = [f"{{{{Infobox {prose(1)}\n{infobox}\n}}}}"]
    for number in range(num_paragraphs):
        if number % 4 == 1:
            parts.append(
                f"== {prose(2)} ==\n[[File:{prose(1)}.jpg|thumb|{prose(6)} [[{prose(1)}]]]]"
            )
        parts.append(" ".join(sentence() for _ in range(6)))
    parts.append(f'{{| class="wikitable"\n! {prose(1)} !! {prose(1)}\n{rows}\n|}}')
    parts.append(
        f"== External links ==\n* [https://example.org/{prose(1).replace(' ', '')} {prose(3)}]"
    )
    parts.append("{{Reflist}}\n" + "\n".join(f"[[Category:{prose(2)}]]" for _ in range(5)))
    return "\n\n".join(parts)


def _word(rng: random.Random) -> str:
    """Mostly ASCII, as English is."""
    word = "".join(rng.choices(SYLLABLES, k=rng.randint(1, 4)))
    return word + "é" if rng.random() < 0.02 else word
