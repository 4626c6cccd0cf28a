"""Composes candidates, queries, images and shards into Ray Data graphs.

Two stages. ``balance`` chooses the pairs that shall be crawled: its tasks are in ``match`` (match,
gather, find repeats, count) and ``limits`` (rank, keep), and ``exchange`` is how rows change
partition. ``curate`` turns them into shards: its tasks are in ``pictures`` (crawl, judge, write).
``costs``, ``extrapolation`` and ``pilot`` lead from a sample to the whole; ``pairs`` reads balanced
pairs for people.
"""
