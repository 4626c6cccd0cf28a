"""What is kept, and how it is read back.

Reading order: ``config``, ``manifest`` (what a data set says of itself), ``writer`` (tars in
img2dataset's layout), ``views`` (small squares with the same keys), ``assemble`` (pool → shards),
``reader`` (shards → samples); then, for models, ``curated``, ``embeddings``, ``selection``,
``keep_list``, ``sampler`` and ``loader``.
"""
