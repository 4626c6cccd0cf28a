r"""Wikitext → the words that a reader sees, with none of the markup.

One pass over the marks that nest (templates, tables, links, tags), then a few regular expressions
over what is left. Nothing is expanded: what only a template knows is not text here.

==========================================  ======================================================
markup                                      what stays
==========================================  ======================================================
``{{template|a=b}}``, ``{{{parameter}}}``   nothing, nested ones included
``{| table |}``, ``<table>``                nothing, nested ones included
``<ref>…</ref>`` and its like (``OPAQUE``)  nothing; of ``<nowiki>`` and formulas neither
``<!-- comment -->``                        nothing, and the text closes up as on the page
``[[target|shown]]``, ``[[shown]]``         ``shown``, joined with what follows: ``[[cat]]s``
``[[File:…|caption]]``, ``[[Category:…]]``  nothing, the caption neither
``[[de:Katze]]``, ``[[wikt:cat]]``          nothing; of ``[[wikt:cat|cat]]`` its ``cat``
``[http://… shown]``, ``http://…``          ``shown``; nothing
``<b>bold</b>``, ``'''bold'''``             ``bold``, joined with its neighbours
``== heading ==``, ``* item``               the words; the signs are no words
``__NOTOC__``                               nothing
``&nbsp;``, ``&amp;lt;``                    the character, unescaped once: ``&lt;``
==========================================  ======================================================

Where something was left out a line ends, so that no two words become neighbours that were none; a
reference leaves a space, a comment nothing. An unclosed template or table takes the text with it up
to the next heading, an unclosed link its line, an unclosed comment the rest (as in MediaWiki).

Source of the rules: https://www.mediawiki.org/wiki/Help:Formatting, Help:Links, Help:Tables and the
preprocessor's order (comments and tags before templates before links).
"""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

BREAK = "\n"
"""What stands for markup that was left out: no word, and no pair of words goes across it."""

OPAQUE = (
    "categorytree", "ce", "chem", "code", "gallery", "graph", "hiero", "imagemap", "includeonly",
    "indicator", "inputbox", "mapframe", "maplink", "math", "nowiki", "pre", "ref", "references",
    "score", "script", "section", "source", "style", "syntaxhighlight", "templatedata",
    "templatestyles", "timeline",
)  # fmt: skip
"""Tags whose content is no text; it ends at the first closing tag, whatever stands between."""

_BLOCK = (
    "blockquote", "br", "caption", "center", "dd", "div", "dl", "dt", "h[1-6]", "hr", "li",
    "noinclude", "ol", "onlyinclude", "p", "poem", "table", "tbody", "td", "tfoot", "th", "thead",
    "tr", "ul",
)  # fmt: skip
_INLINE = (
    "abbr", "b", "bdi", "bdo", "big", "cite", "data", "del", "dfn", "em", "font", "i", "ins", "kbd",
    "langconvert", "mark", "q", "rb", "rp", "rt", "rtc", "ruby", "s", "samp", "small", "span",
    "strike", "strong", "sub", "sup", "time", "tt", "u", "var", "wbr",
)  # fmt: skip

MAX_LINK_DEPTH = 8
"""A link inside more links than this is plain text: no page has one, and work stays linear."""
MAX_INDENT = 64
"""A table may stand so far from the beginning of its line, behind blanks and list marks."""
MAX_UNCLOSED = 4
"""After so many unclosed templates and tables the rest of the page is given up."""

_NESTED = rf"<!--|<({'|'.join(OPAQUE)})(?=[\s/>])|\{{\{{"
_IN_TEXT = re.compile(rf"{_NESTED}|\{{\||<table(?=[\s>])|\[\[|\]\]", re.IGNORECASE)
_IN_TEMPLATE = re.compile(rf"{_NESTED}|\}}\}}", re.IGNORECASE)
_IN_TABLE = re.compile(rf"{_NESTED}|\{{\||\|\}}|<table(?=[\s>])|</table\s*>", re.IGNORECASE)
_CLOSING = {name: re.compile(rf"</{name}\s*>", re.IGNORECASE) for name in OPAQUE}
_HEADING = re.compile(r"^==", re.MULTILINE)
_MEDIA = re.compile(
    r"\.(?:jpe?g|png|svg|gif|tiff?|webp|og[agvx]|web[mp]|pdf|djvu?|mp[34]|wav|flac|midi?|stl|xcf)\s*\Z",
    re.IGNORECASE,
)
_INTERWIKI = re.compile(r"[a-z][a-z-]{0,11}\Z")

# Rows of a table whose beginning a template wrote.
_LOST_ROW = re.compile(r"^(?:\|.*|!\s.*)$", re.MULTILINE)
_BLOCK_TAG = re.compile(rf"</?(?:{'|'.join(_BLOCK)})(?=[\s/>])[^<>]*+>", re.IGNORECASE)
_INLINE_TAG = re.compile(rf"</?(?:{'|'.join(_INLINE + OPAQUE)})(?=[\s/>])[^<>]*+>", re.IGNORECASE)
_EXTERNAL_LINK = re.compile(
    r"\[(?:(?:https?|s?ftps?|ircs?|gopher|telnet|nntp|svn|git|mms|worldwind)://|//|"
    r"(?:mailto|tel|news|urn|geo|magnet|sips?|sms|xmpp|bitcoin):)"
    r"[^\s\[\]<>\"]*+[ \t]*+([^\[\]\n]*+)\]",
    re.IGNORECASE,
)
_HTTP = re.compile(r"http://[^\s\[\]<>\"|{}]*")
_ADDRESS = re.compile(r"\b[A-Za-z]{2,9}://[^\s\[\]<>\"|{}]*")
_QUOTES = re.compile(r"'{2,}")
_SWITCH = re.compile(r"__[^\W\d_]+__")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][\da-fA-F]{1,6}|[A-Za-z][A-Za-z\d]{1,31});")


@dataclass(frozen=True)
class Namespaces:
    """Prefixes of a wiki's link targets, in lower case with spaces."""

    hidden: frozenset[str] = frozenset({"file", "image", "media", "category"})
    """Links to them show a picture or nothing; a local name, such as ``datei``, comes on top."""
    others: frozenset[str] = frozenset(
        {"book", "draft", "help", "mediawiki", "module", "portal", "project", "special", "talk",
         "template", "timedtext", "user", "user talk", "wikipedia", "wikipedia talk", "wp", "wt"}
    )  # fmt: skip
    """Links to them show a name that nobody reads, unless they say what to show."""

    def extended(self, hidden: Iterable[str], others: Iterable[str]) -> "Namespaces":
        """With the names that a dump states for its own wiki."""
        more_hidden, more_others = (
            {name.replace("_", " ").lower() for name in names} for names in (hidden, others)
        )
        return Namespaces(self.hidden | more_hidden, self.others | more_others)


def plain_text(wikitext: str, namespaces: Namespaces) -> str:
    """The visible words of a page, without markup; lines end where something was left out.

    Args:
        wikitext: A page's source, not XML-escaped.
        namespaces: The wiki's link prefixes.
    """
    return _without_signs(_Scanner(wikitext, namespaces).visible())


@dataclass
class _Scanner:
    """Leaves out what nests: templates, tables, opaque tags and comments; resolves links."""

    text: str
    namespaces: Namespaces
    out: list[str] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    """Where in ``out`` the content of each open link begins."""
    unending: set[str] = field(default_factory=set)
    """Opaque tags that no closing tag follows: they are not searched for again."""
    num_unclosed: int = 0

    def visible(self) -> str:
        text, out, position = self.text, self.out, 0
        while found := _IN_TEXT.search(text, position):
            out.append(text[position : found.start()])
            position = self._after(found)
        out.append(text[position:])
        for start in reversed(self.links):
            unclosed = "".join(out[start:])
            out[start:] = [unclosed[unclosed.find("\n") :] if "\n" in unclosed else BREAK]
        return "".join(out)

    def _after(self, found: re.Match[str]) -> int:
        """Write what a mark of the text leaves there; returns where the text goes on."""
        mark, end = found[0], found.end()
        if mark == "[[" and len(self.links) < MAX_LINK_DEPTH:
            self.links.append(len(self.out))
        elif mark == "]]" and self.links:
            start = self.links.pop()
            self.out[start:] = [shown("".join(self.out[start:]), self.namespaces)]
        elif mark == "<!--":
            end = self._after_comment(end)
        elif found[1]:
            end = self._after_tag(found)
            self.out.append(self._left_by(found[1].lower(), end))
        elif mark == "{{" or self._opens_table(found):
            after = self._after_template(end) if mark == "{{" else self._after_table(end)
            end = self._after_unclosed(end) if after is None else after
            self.out.append(BREAK)
        else:
            self.out.append(mark)
        return end

    def _after_template(self, position: int) -> int | None:
        depth = 1
        while found := _IN_TEMPLATE.search(self.text, position):
            position = found.end()
            if found[0] == "{{":
                depth += 1
            elif found[0] == "}}":
                depth -= 1
                if depth == 0:
                    return position
            else:
                position = self._after_tag(found) if found[1] else self._after_comment(position)
        return None

    def _after_table(self, position: int) -> int | None:
        depth = 1
        while found := _IN_TABLE.search(self.text, position):
            mark, position = found[0], found.end()
            if mark == "{{":
                after = self._after_template(position)
                position = len(self.text) if after is None else after
            elif found[1] or mark == "<!--":
                position = self._after_tag(found) if found[1] else self._after_comment(position)
            elif self._opens_table(found):
                depth += 1
            elif mark[0] == "<" or (mark == "|}" and self._starts_line(found.start())):
                depth -= 1
                if depth == 0:
                    return position
        return None

    def _after_comment(self, position: int) -> int:
        end = self.text.find("-->", position)
        return len(self.text) if end < 0 else end + 3

    def _after_tag(self, found: re.Match[str]) -> int:
        """Behind an opaque tag and its content; behind the tag alone where it has no end."""
        end = self.text.find(">", found.end()) + 1
        if end == 0:
            return len(self.text)
        name = found[1].lower()
        if self.text[end - 2] == "/" or name in self.unending:
            return end
        closing = _CLOSING[name].search(self.text, end)
        if closing is None:
            self.unending.add(name)
            return end
        return closing.end()

    def _left_by(self, name: str, end: int) -> str:
        if name == "ref":
            return " "
        # A lone <nowiki/> keeps marks apart and shows nothing.
        return "" if name == "nowiki" and self.text[end - 2] == "/" else BREAK

    def _after_unclosed(self, position: int) -> int:
        self.num_unclosed += 1
        heading = _HEADING.search(self.text, position)
        if heading is None or self.num_unclosed > MAX_UNCLOSED:
            return len(self.text)
        return heading.start()

    def _opens_table(self, found: re.Match[str]) -> bool:
        mark = found[0].lower()
        return mark == "<table" or (mark == "{|" and self._starts_line(found.start()))

    def _starts_line(self, position: int) -> bool:
        before = self.text[max(0, position - MAX_INDENT) : position].rpartition("\n")
        is_near = bool(before[1]) or position <= MAX_INDENT
        return is_near and not before[2].strip(" \t:*#;")


def shown(link: str, namespaces: Namespaces) -> str:
    """What a link shows.

    Args:
        link: What stands between the brackets, with inner links resolved.
        namespaces: The wiki's link prefixes.
    """
    target, bar, text = link.partition("|")
    if ":" in target:
        name, _, rest = target.lstrip(": ").partition(":")
        prefix = name.strip().replace("_", " ").lower()
        is_local = target.lstrip().startswith(":")
        if not is_local and (prefix in namespaces.hidden or _MEDIA.search(target)):
            return BREAK
        if prefix in namespaces.hidden or prefix in namespaces.others or _is_wiki(name, rest):
            return text if bar else BREAK
    return text if bar else target


def _is_wiki(name: str, rest: str) -> bool:
    """``de:Katze`` is another wiki's page, ``Alien: Covenant`` a title."""
    return _INTERWIKI.match(name) is not None and not rest.startswith(" ")


def _without_signs(text: str) -> str:
    """Without tags, addresses, quotes and switches; entities unescaped last, and once."""
    if "\n|" in text or "\n! " in text:
        text = _LOST_ROW.sub("", text)
    if "<" in text:
        text = _INLINE_TAG.sub("", _BLOCK_TAG.sub(BREAK, text))
    if "//" in text or "[" in text:
        text = _EXTERNAL_LINK.sub(r"\1", text)
    if "://" in text:
        text = _HTTP.sub(BREAK, text.replace("https://", "http://"))
        if "://" in text:
            text = _ADDRESS.sub(BREAK, text)
    if "''" in text:
        text = _QUOTES.sub(_apostrophes, text)
    if "__" in text:
        text = _SWITCH.sub("", text)
    return _ENTITY.sub(_character, text) if "&" in text else text


def _apostrophes(quotes: re.Match[str]) -> str:
    """Italic, bold or both take two, three or five; what is left over is shown."""
    num = quotes.end() - quotes.start()
    return "" if num in (2, 3) else "'" * max(num - 5, int(num == 4))


def _character(entity: re.Match[str]) -> str:
    return html.unescape(entity[0])
