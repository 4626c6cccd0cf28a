"""How good the pictures are, with intervals, and the report that shows it.

``config``, ``metrics`` and ``distances`` (formulas), ``judges`` (who reads a picture),
``generated`` (shards of pictures read back), ``tasks`` (work per shard), ``protocols`` (which
question a number answers) and ``evaluate`` (the stage); ``features``, ``drawn`` and
``drawn_metrics`` (ways to draw the same prompts), ``probes`` and ``memorisation``; a ``…_check``
per model or question (priors, inversion, upsampling, manipulation, typographic, zero-shot); then
``report_data`` (what a report is made of), ``svg``, ``report_style``, ``report_sections``,
``report`` (one self-contained HTML file) and ``collect`` (what a run's folders say).
"""
