"""From address to trusted pixels.

Reading order: ``config``, ``network_guard`` (which addresses may be contacted), ``politeness``
(robots.txt, opt-outs, host budgets), ``fetch`` (one picture), ``crawl`` (a partition of hosts),
``decode`` (bytes → pixels), ``filters`` (row → drop reason), ``dedup`` (which pictures are the
same), ``rejects`` (what people may look at), ``pool`` (all of it for one partition).
"""
