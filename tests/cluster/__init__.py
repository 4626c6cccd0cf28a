"""A chain on a cluster of several nodes, with real services: ``python -m tests.cluster --help``."""
