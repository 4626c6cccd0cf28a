"""Which texts we want, and how many of each.

Reading order: ``config``, ``matching`` (captions → ids of the queries they contain), ``wordnet``,
``query_files`` and ``query_list`` (where the queries come from), ``build`` (the list as a stage),
``balancing`` (how many pairs each query keeps).
"""
