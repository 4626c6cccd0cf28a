"""Composes candidates, queries, images and shards into Ray Data graphs.

Reading order: ``config``, ``recipe`` (the steps from top to bottom), ``text`` (match, count,
balance), ``pictures`` (crawl, judge, write).
"""
