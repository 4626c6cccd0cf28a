import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.queries.wikitext import Namespaces, plain_text

ROOT = Path(__file__).resolve().parents[3]
NAMESPACES = Namespaces().extended(["Datei", "Kategorie"], ["Vorlage", "Benutzer_Diskussion"])

LEAKS_NOTHING = {
    "template": "a {{hidden}} b",
    "template over lines": "a {{Infobox\n| hidden = hidden\n|}} b",
    "nested templates": "a {{hidden|{{hidden|x={{hidden}}}}|hidden}} b",
    "template parameter": "a {{{hidden|}}} b",
    "template in a template's name": "a {{{{hidden}}|hidden}} b",
    "lone braces in a template": "a {{hidden|{hidden}|}hidden{}} b",
    "formula in a template": r"a {{hidden|<math>\frac{1}{\sqrt{hidden}}</math>|hidden}} b",
    "nowiki in a template": "a {{hidden|<nowiki>}}</nowiki>hidden}} b",
    "comment in a template": "a {{hidden|<!-- }} -->hidden}} b",
    "table": "a\n{| class='hidden'\n! hidden !! hidden\n|-\n| hidden || hidden\n|}\nb",
    "nested tables": "a\n{|\n| hidden\n{|\n| hidden\n|}\n| hidden\n|}\nb",
    "indented table": "a\n:::{| class=hidden\n| hidden\n|}\nb",
    "template in a table": "a\n{|\n| {{hidden|\n|}} || hidden\n|}\nb",
    "table in a template": "a {{hidden|\n{|\n| hidden\n|}\n}} b",
    "table of tags": "a <table class=hidden><td>hidden<table></table>hidden</td></table > b",
    "rows whose table a template began": "a {{hidden}}\n|-\n| hidden || hidden\n! hidden\n|}\nb",
    "reference": "a<ref>hidden</ref> b",
    "named reference": 'a<ref name="hidden" group=hidden>hidden</ref> b<ref name=hidden />',
    "reference with a template": "a<ref name='hidden'>{{hidden}} [http://hidden hidden]</ref> b",
    "list of references": "a\n<references responsive>\n<ref>hidden</ref>\n</references>\nb",
    "upper-case tag": "a <REF>hidden</Ref> b",
    "nowiki": "a <nowiki>hidden [[hidden]] {{hidden}}</nowiki> b",
    "code": "a <syntaxhighlight lang=hidden>{{ hidden }}</syntaxhighlight> <code>hidden</code> b",
    "formula": r"a <math display=hidden>\hidden</math> b",
    "gallery": "a <gallery>\nFile:hidden.jpg|hidden [[hidden]]\n</gallery> b",
    "comment": "a <!-- hidden --> b",
    "comment with marks": "a <!-- {{ [[ <ref> hidden --> b",
    "unclosed comment": "a b <!-- hidden",
    "file": "a [[File:Hidden.jpg|thumb|upright=1.2|hidden]] b",
    "file with a link in its caption": "a [[Image:Hidden.png|hidden [[hidden|hidden]] hidden]] b",
    "file with a template in its caption": "a [[File:Hidden.svg|hidden {{hidden|[[x]]}}]] b",
    "file under a local name": "a [[Datei:Hidden.jpg|mini|hidden]] b",
    "file under an unknown name": "a [[Bild:Hidden.jpg|hidden]] b",
    "category": "a b [[Category:Hidden|hidden]][[Kategorie:Hidden]]",
    "link to another language": "a b [[de:Hidden]] [[zh-min-nan:Hidden]]",
    "link to another wiki": "a [[wikt:hidden]] b",
    "link to a namespace": "a [[Help:Hidden]] [[Vorlage:Hidden]] [[:Category:Hidden]] b",
    "target of a link": "a [[hidden|b]]",
    "target of a link to another wiki": "a [[wikt:hidden#hidden|b]]",
    "target of an external link": "a [https://hidden.org/hidden?x=hidden b]",
    "external link without a text": "a [http://hidden.org] b [//hidden.org] [mailto:hidden@hidden]",
    "address": "a https://hidden.org/hidden_(hidden) b ftp://hidden.org/hidden",
    "attributes": "a <span class='hidden' style=\"hidden\">b</span><br clear=hidden />",
    "tags themselves": "a<br><div><small>b</small></div></ref>",
    "switch": "__NOTOC__ a __KEINE__ b",
    "unclosed template": "a b {{hidden|hidden\nhidden",
    "unclosed template before a heading": "a {{hidden\nhidden\n== b ==",
    "unclosed table": "a b\n{|\n| hidden",
    "unclosed table before a heading": "a\n{|\n| hidden {{hidden\n== b ==",
    "unclosed link": "a [[hidden|hidden\nb",
    "unclosed tag": "a b <ref name=hidden",
}


@pytest.mark.parametrize("name", LEAKS_NOTHING)
def test_markup_leaks_no_word(name):
    found = plain_text(LEAKS_NOTHING[name], NAMESPACES)
    assert re.findall(r"\w+", found) == ["a", "b"]


SHOWN = {
    "link": ("a [[b]] c", "a b c"),
    "link with a text": ("[[x|a b]]", "a b"),
    "link with two bars": ("[[x|a|b]]", "a|b"),
    "ending behind a link": ("[[cat]]s [[x|dog]]gies", "cats doggies"),
    "title with a colon": ("[[Alien: Covenant]]", "Alien: Covenant"),
    "link that a colon shows": ("[[:Category:Cats|cats]] [[:de:Katze|cat]]", "cats cat"),
    "bold and italic": ("'''''a''''' '''b''' ''c''s don't", "a b cs don't"),
    "possessive of bold": ("'''Cat''''s", "Cat's"),
    "heading": ("==a==\n=== b c ===", "==a== === b c ==="),
    "list": ("* a\n*# b\n; c : d", "* a *# b ; c : d"),
    "inline tags join": ("H<sub>2</sub>O <b>a</b>b", "H2O ab"),
    "block tags part": ("a<br/>b<p>c</p>d", "a b c d"),
    "comments join": ("ca<!-- x -->t", "cat"),
    "references part": ("cat<ref>x</ref>dog", "cat dog"),
    "lone nowiki joins": ("[[cat]]<nowiki />s", "cats"),
    "entity": ("a&nbsp;b &eacute;t&#233; &#x26;", "a b été &"),
    "entity once": ("&amp;lt; &lt;ref&gt;", "&lt; <ref>"),
    "no entity": ("R&D AT&T &; &unknown;", "R&D AT&T &; &unknown;"),
    "comparison": ("a < b and c<d, e > f", "a < b and c<d, e > f"),
    "unknown tag": ("a <foo> b", "a <foo> b"),
    "lone marks": ("a ]] b }} c |} d", "a ]] b }} c |} d"),
    "braces inside a line": ("a {| b", "a {| b"),
    "text behind an unclosed reference": ("a <ref>b\nc", "a b c"),
    "external link": ("[https://x.org a b] c", "a b c"),
    "brackets": ("[sic] a[1]", "[sic] a[1]"),
}


@pytest.mark.parametrize("name", SHOWN)
def test_what_readers_see_stays(name):
    wikitext, expected = SHOWN[name]
    assert plain_text(wikitext, NAMESPACES).split() == expected.split()


def test_no_words_meet_across_what_was_left_out():
    for mark in ("{{x}}", "<math>x</math>", "[[File:x.jpg]]", "<nowiki>x</nowiki>", "http://x"):
        assert "\n" in plain_text(f"a {mark} b", NAMESPACES), mark


def hidden(inner):
    """Constructs of which nothing may stay, around anything."""
    return st.one_of(
        inner.map(lambda text: f"{{{{hidden|{text}}}}}"),
        inner.map(lambda text: f"\n{{| hidden\n| {text}\n|}}\n"),
        inner.map(lambda text: f"[[File:hidden.jpg|{text}]]"),
        inner.map(lambda text: f"<table hidden><tr><td>{text}</table>"),
        st.sampled_from(
            ["<!--hidden-->", "<ref>hidden</ref>", "<ref hidden />", "<nowiki>{{hidden</nowiki>"]
        ),
    )


HIDDEN = st.recursive(
    st.sampled_from(["hidden", " hidden ", "\nhidden", "[[hidden]]", "''hidden''", "&amp;"]),
    lambda inner: st.lists(st.one_of(inner, hidden(inner)), max_size=4).map("".join),
    max_leaves=12,
)
SEEN = st.sampled_from(["seen", "[[seen]]", "[[hidden|seen]]", "'''seen'''", "<i>seen</i>"])


@settings(deadline=None)
@given(pieces=st.lists(st.one_of(SEEN, hidden(HIDDEN)), max_size=8))
def test_any_nesting_leaks_no_word(pieces):
    found = plain_text(" ".join(pieces), NAMESPACES)
    assert "hidden" not in found
    assert re.findall(r"\w+", found) == ["seen"] * sum("seen" in piece for piece in pieces)


MARKS = ["{{", "}}", "{|", "|}", "[[", "]]", "<ref>", "</ref>", "<ref/>", "<!--", "-->", "|", "\n"]
MARKS += ["==", "''", "<table>", "</table>", "[http://", "]", "<br", ">", "&", ";", "__", "a", " "]


@settings(deadline=None)
@given(st.lists(st.sampled_from(MARKS), max_size=40).map("".join))
def test_any_text_is_read_to_its_end(wikitext):
    assert isinstance(plain_text(wikitext, NAMESPACES), str)


def test_no_mark_takes_more_than_linear_time():
    marks = [*MARKS, "{{\n==a==\n", "{|\n==a\n", "[[a|", "[[File:", "[http://a ", "<br ", "</p"]
    # In a process of its own, since tests check the types of every call.
    code = f"""
import time
from pipeline.queries.wikitext import Namespaces, plain_text
for mark in {marks!r}:
    started = time.process_time()
    plain_text(mark * (200_000 // len(mark)), Namespaces())
    assert time.process_time() - started < 2, mark
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
