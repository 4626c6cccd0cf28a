"""What a run takes, in hours, dollars, memory, storage and cores, before anything is taken.

Reading order: ``offers`` (what is rented, and what is assumed of it), ``failures``
(how often checkpoints pay), ``trainings`` (each model of a run file), ``data`` (what they read),
``plan`` (all of it), ``text`` and ``page`` (how it is told).
"""
