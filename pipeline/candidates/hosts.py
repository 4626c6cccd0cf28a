"""How many pictures each host would have to give.

What a crawl asks of one host in its time is limited. Where that is known before balancing, queries
are filled with pairs that can be fetched; where not, the crawl leaves pictures out and they miss.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.candidates import schema, urls


def beyond_limit(pairs: pa.Table, limit: int) -> pa.ChunkedArray:
    """Whether each pair's picture is not among the first of its host, in the order of ``url_id``.

    That is the crawl's own order, and it is random: ids are hashes.

    Args:
        pairs: ``url, url_id``; all pairs of the hosts that occur. Files of a folder have no host.
        limit: Pictures per host.
    """
    hosts = _hosts(pairs.column(schema.URL))
    table = pa.table({"host": hosts, schema.URL_ID: pairs.column(schema.URL_ID)})
    pictures = table.filter(hosts.is_valid()).group_by(table.column_names).aggregate([])
    pictures = pictures.sort_by([("host", "ascending"), (schema.URL_ID, "ascending")])
    runs = pc.call_function("run_end_encode", [pictures.column("host").combine_chunks()])
    ends = runs.run_ends.to_numpy().astype(np.int64)
    starts = np.append(0, ends)[:-1]
    ranks = np.arange(pictures.num_rows) - np.repeat(starts, ends - starts)
    beyond = pictures.column(schema.URL_ID).filter(pa.array(ranks >= limit))
    options = pc.SetLookupOptions(value_set=beyond.combine_chunks())
    return pc.call_function("is_in", [table.column(schema.URL_ID)], options)


def _hosts(addresses: pa.ChunkedArray) -> pa.Array:
    """The host of each canonical address, null for files; works once per site."""
    coded = urls.sites(addresses)
    sites = coded.dictionary.to_pylist()
    found = [None if site.startswith(urls.LOCAL) else urls.host(site) for site in sites]
    return pa.array(found, pa.string()).take(coded.indices)
