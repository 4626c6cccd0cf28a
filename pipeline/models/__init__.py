"""Networks only: tensors in, tensors out; no diffusion, no data, no cluster.

Reading order: ``config`` (sizes), ``tokenizer`` (caption → ids), ``layers`` (shared blocks),
``clip``, ``prior``, ``unet``, ``decoder``, ``upsampler``, ``presets`` (sizes that are known to
work, and builders from a configuration).
"""
