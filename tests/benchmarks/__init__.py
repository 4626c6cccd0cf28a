"""Ours against the named peer, measured in pairs in one run: ``python -m tests.benchmarks``."""
