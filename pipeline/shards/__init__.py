"""What is kept, and how it is read back.

Reading order: ``config``, ``manifest`` (what a data set says of itself), ``writer`` (tars in
img2dataset's layout), ``views`` (small squares with the same keys), ``assemble`` (pool → shards),
``tars`` (our own, read back); ``foreign``, ``adopt_sample`` and ``adopt`` (other people's tars,
taken where they lie); ``disk_cache`` (copies of an object store's), ``curated`` (both, shard by
shard), ``reader`` (both, for people), ``verify``; then, for models, ``clip_encoder``,
``embedding_files``, ``z_statistics``, ``embeddings``, ``score_files``, ``removals`` and
``removal_requests`` (what no list may hold), ``keep_list``, ``sampler``, ``loader``,
``shard_source``, ``quotas`` and ``mixture`` (several lists in one order), ``mixing`` (how well an
order mixes); ``compact`` (a data set rewritten from a list).
"""
