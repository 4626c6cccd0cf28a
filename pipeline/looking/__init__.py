"""Looking at a finished run: samples for a curator's eye, and the data set's card.

Reading order: ``scores`` (what is known of every sample), ``drawn`` (random by hash), ``asked``
(what a curator may ask), ``pick`` (samples of bands, queries, reasons), ``search`` (nearest to a
text or a picture), ``distributions`` (counts over every threshold), ``sheet`` (all answers),
``sheet_page`` and ``answer`` (as a page, in a terminal); ``tally`` and ``terms`` (what the card
counts), ``card`` and its sections; ``page`` (what sheets and cards are made of), ``html``,
``markdown`` and ``plots`` (how it is written).
"""
