r"""Which queries does a caption contain? All of them, overlapping ones too.

Two profiles, each a text form for captions and queries; a query matches where its form, with a
space before and behind, stands in the caption's form:

``literal``, the published rule (MetaCLIP): the marks ``, . ; : ? ! ` `` of a caption get spaces
around them, tab, LF and CR become spaces, and upper case counts. Queries are taken as they are,
so a query with one of the seven marks never matches.

``normalised``: HTML entities unescaped once, case folded, Unicode NFC, and every word (a run of
letters, marks, digits and connectors) and every other sign stands alone between single spaces.
Captions and queries are treated alike.

=============  ==================================  ==============  ==========
query          caption                             literal         normalised
=============  ==================================  ==============  ==========
``cat``        ``a cat, asleep``                   yes             yes
``cat``        ``Cat (asleep)``                    no: upper case  yes
``cat``        ``concatenate``                     no              no
``(cat)``      ``a (cat)``                         yes             yes
``(cat)``      ``a ( CAT )``                       no              yes
``cat``        ``a (cat)``                         no: brackets    yes
``St. Louis``  ``Map of St. Louis``                no: the mark    yes
``a b``        ``a  b``                            no: two spaces  yes
``R&D``        ``our R&amp;D team``                no: the entity  yes
=============  ==================================  ==============  ==========

The automaton is built once per process from the list (about 3 s for 500,000 queries) and never
sent to another one.
"""

import html
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import regex
from ahocorasick_rs import BytesAhoCorasick, MatchKind

from pipeline.errors import DataError
from pipeline.queries.config import Profile

SEVEN_MARKS = ",.;:?!`"

_WRAPPED = [(mark, f" {mark} ") for mark in SEVEN_MARKS]
_TOKEN = regex.compile(r"\w+|[^\w\s]")


def literal_caption(caption: str) -> str:
    """A caption's form under the published rule, without the outer spaces."""
    for mark, wrapped in _WRAPPED:
        if mark in caption:
            caption = caption.replace(mark, wrapped)
    return caption.replace("\t", " ").replace("\n", " ").replace("\r", " ")


def normalised(text: str) -> str:
    """The normalised form of a caption or a query: words and signs, one space between two."""
    text = html.unescape(text) if "&" in text else text
    if not text.isascii():
        text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join(_TOKEN.findall(text.lower() if text.isascii() else text))


def caption_form(profile: Profile) -> Callable[[str], str]:
    """The function that gives captions their form."""
    return literal_caption if profile == "literal" else normalised


def query_form(query: str, profile: Profile) -> str:
    """A query's form; two queries of one form match the same captions."""
    return query if profile == "literal" else normalised(query)


class Matcher:
    """Finds the queries in captions. One per process; not to be pickled."""

    def __init__(self, queries: Sequence[str], profile: Profile) -> None:
        """Build the automaton.

        Args:
            queries: Query strings; the position of a query is its id.
            profile: How captions and queries are compared.

        Raises:
            DataError: A query is empty in this profile, so it would match everywhere.
        """
        forms = [query_form(query, profile) for query in queries]
        for index, form in enumerate(forms):
            if not form.strip():
                raise DataError(
                    f"query {index} ({queries[index]!r}) is empty in profile {profile!r}; build "
                    "the list with jobs.queries, which leaves such queries out"
                )
        self._form = caption_form(profile)
        self._automaton = BytesAhoCorasick(
            [f" {form} ".encode() for form in forms], matchkind=MatchKind.Standard
        )

    def match(self, captions: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.ListArray:
        """The ids of the queries that each caption contains.

        Args:
            captions: Captions; null counts as empty.

        Returns:
            ``list<uint32>``, one list per caption: ascending ids, each once.
        """
        form, find = self._form, self._automaton.find_matches_as_indexes
        texts = captions if isinstance(captions, Sequence) else captions.to_pylist()
        ids: list[int] = []
        offsets = [0]
        for text in texts:
            # Neighbours share their boundary space, so only an overlapping search finds both.
            found = find(f" {form(text or '')} ".encode(), overlapping=True)
            if found:
                ids.extend(sorted({match[0] for match in found}))
            offsets.append(len(ids))
        return pa.ListArray.from_arrays(
            pa.array(np.array(offsets, np.int32)), pa.array(np.array(ids, np.uint32))
        )
