"""Which samples train which model: scored once, chosen from the scores as often as one likes.

Reading order: ``config``, ``heads`` (small networks over embeddings), ``evaluation_sets`` and
``overlaps`` (pictures that no training may see), ``clustering`` and ``pairs`` (semantic
duplicates), ``histograms``, ``score`` (the stage that reads embeddings); then ``columns`` (score
tables, span by span), ``thresholds``, ``duplicates`` (of pairs the survivors; what no split
parts), ``balance``, ``reweight`` and ``select`` (the stage that writes keep-lists).
"""
