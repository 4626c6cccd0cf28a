"""unclip-pipeline: from web addresses to a trained DALL·E 2 (unCLIP) system.

Read the folders in the order of the data: ``candidates``, ``queries``, ``images``, ``shards``
(composed by ``curation.py``), ``models`` and ``diffusion`` (joined by ``training``),
``generation``, ``evaluation``; then ``chain.py``, which runs them all.
"""
