"""From address to trusted pixels.

Reading order: ``config``, ``resolver`` (names → addresses), ``network_guard`` (which of them may
be contacted), ``politeness`` (host budgets), ``site_rules`` (robots.txt, opt-outs), ``failures``
(how a fetch may end), ``transfer`` (one body), ``fetch`` (one picture), ``crawl`` (a partition of
hosts), ``local_files`` (a source's own folder), ``decode`` (bytes → pixels), ``resize`` (the size
in which they are kept), ``decoder`` and ``decode_child`` (decoding where it can be killed),
``filters`` and ``block_list`` (row → drop reason), ``near_hashes`` and ``dedup`` (which pictures
are the same), ``rejects`` (what people may look at), ``pool`` (all of it for one partition); by
itself ``lettering`` (words drawn on pictures).
"""
