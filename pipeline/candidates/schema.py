"""Columns and Arrow types at every stage boundary of the text side: the contract.

A *candidate* is one (url, caption) row before any request is sent:

==========  =====================  ================================================================
column      type                   meaning
==========  =====================  ================================================================
url         string                 canonical address (``urls.canonical``)
url_id      string, 32 hex digits  blake2b-128 of ``url``: the unit of crawling, and a sample's key
uid         string, 32 hex digits  blake2b-128 of ``url_id``, a line end, ``caption``: a pair's id
caption     string                 stripped, Unicode NFC, never empty
page_url    string, nullable       the page that shows the picture
licence     string, nullable       as the source states it
==========  =====================  ================================================================

Columns that a source was told to carry through follow in the order of its configuration, with
the source's own types; Common Crawl's files carry ``language``, as the page writes it. A *matched*
candidate has one more column, the last: ``query_ids``, the
ascending ids of the queries that its caption contains.
"""

import pyarrow as pa

URL = "url"
URL_ID = "url_id"
UID = "uid"
CAPTION = "caption"
PAGE_URL = "page_url"
LICENCE = "licence"
LANGUAGE = "language"
QUERY_IDS = "query_ids"

CANDIDATE = pa.schema(
    [
        pa.field(URL, pa.string(), nullable=False),
        pa.field(URL_ID, pa.string(), nullable=False),
        pa.field(UID, pa.string(), nullable=False),
        pa.field(CAPTION, pa.string(), nullable=False),
        pa.field(PAGE_URL, pa.string()),
        pa.field(LICENCE, pa.string()),
    ]
)

QUERY_IDS_FIELD = pa.field(QUERY_IDS, pa.list_(pa.uint32()), nullable=False)

MATCHED = CANDIDATE.append(QUERY_IDS_FIELD)

NGRAM = "ngram"
COUNT = "count"
NGRAM_COUNTS = pa.schema(
    [pa.field(NGRAM, pa.string(), nullable=False), pa.field(COUNT, pa.int64(), nullable=False)]
)
"""Word sequences or titles and what was counted of them (captions that hold them, occurrences,
views); sorted by ``ngram``."""

ID = "id"
QUERY = "query"
SOURCE = "source"
WEIGHT = "weight"
QUERY_LIST = pa.schema(
    [
        pa.field(ID, pa.uint32(), nullable=False),
        pa.field(QUERY, pa.string(), nullable=False),
        pa.field(SOURCE, pa.string(), nullable=False),
        pa.field(WEIGHT, pa.int64(), nullable=False),
    ]
)
"""The query list: row i has id i; sorted by ``query``; ``weight`` is the source's count."""

QUERY_ID = "query_id"
QUERY_COUNTS = pa.schema(
    [pa.field(QUERY_ID, pa.uint32(), nullable=False), pa.field(COUNT, pa.int64(), nullable=False)]
)
"""Pairs per query in one partition, queries without pairs left out; sorted by ``query_id``."""

RANK = "rank"
QUERY_RANKS = pa.schema(
    [pa.field(QUERY_ID, pa.uint32(), nullable=False), pa.field(RANK, pa.uint64(), nullable=False)]
)
"""One row per pair that has a query: its owner and its rank there; sorted by both."""

INVALID_URL = "invalid_url"
EMPTY_CAPTION = "empty_caption"
UNREADABLE_ROW = "unreadable_row"
OPTED_OUT_PAGE = "opted_out_page"
NOT_IN_SAMPLE = "not_in_sample"
NO_QUERY = "no_query"
OVER_QUERY_LIMIT = "over_query_limit"
OVER_HOST_LIMIT = "over_host_limit"


def matched(candidate: pa.Schema) -> pa.Schema:
    """The schema of candidates (with whatever columns they carry) once they are matched."""
    return candidate.append(QUERY_IDS_FIELD)
