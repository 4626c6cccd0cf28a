"""How a model is trained, on any number of workers.

Reading order: ``config`` (one run), ``tasks`` (sample → batch → loss, the only place where
networks and diffusion meet in training), ``optim``, ``ema``, ``loop``, ``launch``.
"""
