"""Where pairs come from: tables of addresses and web archives become candidates.

Reading order: ``schema`` (the columns at every stage boundary), ``config``, ``urls`` (one form per
address, ids, owners of hosts), ``rows`` (raw columns → candidates), ``files`` (paths, globs and
folders), ``url_tables`` with ``text_tables``, ``common_crawl`` with ``opt_outs``, and ``sources``,
which chooses between the two.
"""
