"""From pictures to pictures, by the two halves of what an unCLIP stack knows of one (paper §3-4).

``asked`` (what is wanted, checked), ``pictures`` (files, samples and masks as squares),
``embeddings`` (ways between embeddings: mathematics only), ``manipulator`` (the networks).
"""
