"""All stages of a run file in one go: runs what is not done, skips what is.

Reading order: ``given`` (inputs that no stage made), ``oracle`` (what judges the small web),
``stages`` (their table), ``plan`` (what is finished), ``run`` (the chain itself), ``describe``
(what a dry run prints), ``report`` (the page), ``pilot`` (a run on a sample), ``headline`` (the
numbers a job prints last), ``card`` (the data card); ``lineage`` (who held or read a sample),
``removal`` and ``compaction``; ``status`` and ``cluster_check`` (before and while a run runs).
Beside a run, with its models: ``generation``, ``manipulate``, ``serving``, ``zero_shot``, and
``protocols`` (``protocol_work`` on held-out samples, ``drawn_protocols`` on pictures that are
drawn, ``protocol_report``).
"""
