"""unclip-pipeline: from web addresses to a trained DALL·E 2 (unCLIP) system.

Read the folders in the order of the data: ``candidates``, ``queries``, ``images``, ``shards``
(composed by ``curation``), ``models`` and ``diffusion`` (joined by ``training``),
``generation``, ``evaluation``; then ``chain``, which runs them all. ``looking`` shows a curator
what a run did, at any time.
"""
