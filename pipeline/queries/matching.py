r"""Which queries does a caption contain? All of them, overlapping ones too.

Two profiles, each a text form for captions and queries; a query matches where its form, with a
space before and behind, stands in the caption's form:

``literal``, the published rule (MetaCLIP): the marks ``, . ; : ? ! ` `` of a caption get spaces
around them, tab, LF and CR become spaces, and upper case counts. Queries are taken as they are,
so a query with one of the seven marks in a word never matches.

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

In both a text is a sequence of tokens, and a query matches where a caption holds its tokens in a
row. The tree of the queries (``query_tree.py``) is built once per process from the list, in about
1 s for 500,000 queries, and never sent to another one.
"""

import html
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import regex

from pipeline.errors import DataError
from pipeline.queries.config import Profile
from pipeline.queries.query_tree import QueryTree
from pipeline.queries.tokens import Tokens, alphabet, split, unicode_alphabet

SEVEN_MARKS = ",.;:?!`"

BLOCK_BYTES = 1 << 20
"""Text that is matched at once; about 30 times as much memory is used meanwhile."""

_LITERAL = alphabet(spaces=" \t\n\r", signs=SEVEN_MARKS)
_LITERAL_QUERY = alphabet(spaces=" ", signs="")
_NORMALISED = unicode_alphabet()
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
    return " ".join(_TOKEN.findall(_folded(text)))


def caption_form(profile: Profile) -> Callable[[str], str]:
    """The function that gives captions their form."""
    return literal_caption if profile == "literal" else normalised


def query_form(query: str, profile: Profile) -> str:
    """A query's form; two queries of one form match the same captions."""
    return query if profile == "literal" else normalised(query)


class Matcher:
    """Finds the queries in captions. One per process; not to be pickled."""

    def __init__(self, queries: Sequence[str], profile: Profile) -> None:
        """Build the tree.

        Args:
            queries: Query strings; the position of a query is its id.
            profile: How captions and queries are compared.

        Raises:
            DataError: A query is empty in this profile, so it would match everywhere.
        """
        self._profile: Profile = profile
        texts = pa.array(queries, pa.string())
        if profile == "literal":
            tokens = split(texts, _LITERAL_QUERY)
            empty = [index for index, query in enumerate(queries) if not query.strip()]
        else:
            tokens = split(_folded_column(texts), _NORMALISED)
            empty = np.flatnonzero(np.diff(tokens.first) == 0).tolist()
        if empty:
            raise DataError(
                f"query {empty[0]} ({queries[empty[0]]!r}) is empty in profile {profile!r}; build "
                "the list with jobs.queries, which leaves such queries out"
            )
        self._tree = QueryTree(tokens)

    def match(self, captions: pa.Array | pa.ChunkedArray | Sequence[str]) -> pa.ListArray:
        """The ids of the queries that each caption contains.

        Args:
            captions: Captions; null counts as empty.

        Returns:
            ``list<uint32>``, one list per caption: ascending ids, each once.
        """
        if not isinstance(captions, pa.Array | pa.ChunkedArray):
            captions = pa.array(captions, pa.string())
        ids, numbers = [np.zeros(0, np.uint32)], [np.zeros(1, np.int64)]
        for block in _blocks(captions):
            found, num_found = self._tree.find(self._tokens(block))
            ids.append(found.astype(np.uint32))
            numbers.append(num_found)
        offsets = np.cumsum(np.concatenate(numbers)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.concatenate(ids)))

    def _tokens(self, captions: pa.Array) -> Tokens:
        """A block's tokens in the profile's form."""
        if self._profile == "literal":
            return split(captions, _LITERAL)
        return split(_folded_column(captions), _NORMALISED)


def _folded(text: str) -> str:
    """Entities unescaped, case folded, NFC: the normalised form before it is cut into tokens."""
    text = html.unescape(text) if "&" in text else text
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def _folded_column(texts: pa.Array) -> pa.Array:
    """``_folded`` of a column without nulls, but for plain ASCII, which ``_NORMALISED`` folds."""
    is_ascii = pc.call_function("string_is_ascii", [texts])
    has_entity = pc.call_function("match_substring", [texts], pc.MatchSubstringOptions("&"))
    rest = pc.call_function("or", [pc.call_function("invert", [is_ascii]), has_entity])
    folded = pa.array(map(_folded, texts.filter(rest).to_pylist()), pa.string())
    return pc.call_function("replace_with_mask", [texts, rest, folded])


def _blocks(captions: pa.Array | pa.ChunkedArray) -> Iterator[pa.Array]:
    """The captions in runs of at most about ``BLOCK_BYTES``, nulls as empty strings."""
    for chunk in captions.chunks if isinstance(captions, pa.ChunkedArray) else [captions]:
        lengths = pc.call_function("binary_length", [chunk]).fill_null(0).to_numpy()
        block = np.cumsum(lengths, dtype=np.int64) // BLOCK_BYTES
        bounds = [*np.flatnonzero(np.diff(block, prepend=-1)).tolist(), len(chunk)]
        for first, after in pairwise(bounds):
            yield chunk.slice(first, after - first).cast(pa.string()).fill_null("")
