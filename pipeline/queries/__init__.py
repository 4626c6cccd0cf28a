"""Which texts we want, and how many of each.

Reading order: ``config``; ``matching`` (captions → ids of the queries they contain) with its parts
``tokens``, ``vocabulary`` and ``query_tree``; ``wordnet``, ``query_files`` (queries that are
stated); ``dump_files``, ``wikipedia``, ``wikitext``, ``words`` (dumps → articles → text → words)
and ``page_views`` (titles); ``partial_counts``, ``collocations``, ``merging`` (counts of partitions
→ what passes); ``count_captions``, ``count_dumps``, ``count_views``, ``counted`` (the sources that
are counted); ``query_list`` and ``build`` (the list, as a stage); ``balancing`` (how many pairs
each query keeps) and ``yields`` (what the queries found and keep).
"""
