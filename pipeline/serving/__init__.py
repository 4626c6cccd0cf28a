"""Pictures for others, by Ray Serve.

Reading order: ``config``, ``requests`` (what may be asked), ``drawing`` (what is sampled together),
``page`` (the one-page UI), ``app`` (the deployment).
"""
