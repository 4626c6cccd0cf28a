"""Composes candidates, queries, images and shards into Ray Data graphs.

Two stages. ``balance`` chooses the pairs that shall be crawled: its tasks are in ``match`` (match,
gather, find repeats, count) and ``limits`` (rank, keep), and ``exchange`` is how rows change
partition. ``curate`` turns them into shards: its tasks are in ``pictures`` (crawl, judge, write)
and ``enrich`` (steps of your own); ``memory`` is what earlier crawls and refusals say, ``passes``
how a crawl asks again, ``clusters`` picks the duplicates that people look at. For trusted lists
``img2dataset_run`` does in its place what img2dataset can do. ``costs``,
``extrapolation`` and ``pilot`` lead from a sample to the whole; ``pairs``, ``trace`` and
``explain`` tell people what became of a pair.
"""
