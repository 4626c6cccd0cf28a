"""From text to pictures.

``config`` (what to sample and how), ``prompts`` (texts, checked), ``run_stages`` and ``weights``
(which networks belong together), ``upsampling`` and ``unclip`` (the public ``UnCLIP``),
``clip_guidance``, ``pictures`` (PNG with provenance), ``safety`` (what is refused); then ``plan``,
``partition`` and ``batch``: many pictures and ablations through Ray Data.
"""
