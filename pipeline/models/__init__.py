"""Networks only: tensors in, tensors out; no diffusion, no data, no cluster.

Reading order: ``config`` (sizes), ``tokenizer`` (caption → ids), ``layers`` (shared blocks),
``convnext``, ``clip`` and ``zero_shot``, ``text`` (a model's own caption encoder), ``prior``,
``codes`` and ``prior_ar``, ``prior_linear``, ``unet``, ``decoder``, ``upsampler``, ``presets``
(builders, and sizes that are known to work), ``scales`` (sizes of published systems).
"""
