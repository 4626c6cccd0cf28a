"""Kills on purpose: ``python -m tests.chaos --help``."""
