"""Folders of the diffusers library; written and read without importing it.

Reading order: ``names`` (weights under its names), ``settings`` (its JSON files from our
configurations and back), ``tokens`` (CLIP's tokenizer as files), ``limits`` (what its pipelines
cannot do), ``write``, ``read``, and ``load``, which lies in every written folder.
"""
