"""Where pairs come from: tables, web archives and folders become candidates.

Reading order: ``schema`` (the columns at every stage boundary), ``config``, ``urls`` (one form per
address, ids, owners of hosts), ``rows`` (raw columns → candidates), ``files`` (paths, globs,
folders, lists of paths); ``url_tables`` with ``text_tables``; ``common_crawl`` with ``archives``
(records), ``pages``, ``html_pages`` (WARC), ``wat_pages`` (WAT) and ``opt_outs``; ``folders``;
``sources``, which chooses between them; and ``captions`` with ``languages``: which are worth
matching.
"""
