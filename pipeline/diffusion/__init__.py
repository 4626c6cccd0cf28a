"""Mathematics of diffusion only: no network, no data, no cluster.

Reading order: ``config``, ``schedule`` (alpha_bar), ``gaussian`` (q_sample, conversions,
posterior), ``losses``, ``guidance``, ``sampling``, ``degradation`` (how small pictures are spoilt
before an upsampler learns from them).
"""
