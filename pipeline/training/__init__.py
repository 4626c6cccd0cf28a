"""How a model is trained, on any number of workers.

Reading order: ``config`` (one run) and ``execution`` (on what it runs), ``tasks`` (sample → batch →
loss, the only place where networks and diffusion meet in training), ``reading`` (keep-lists, of
this run and of others), ``batches`` and ``feeding`` with ``decoder_child`` and ``decoder_actor``
(who makes them), ``optim``, ``ema``, ``parallel`` (how the model lies on the workers), ``loop``
with ``checkpointing``, ``reporting`` and ``moments`` beside it, ``validation`` and ``side`` (looks
at held-out samples, in the loop or beside it), ``node`` (readings of machines), ``launch``.
"""
