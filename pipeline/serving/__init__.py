"""Pictures for others: ``config``, ``page`` (the one-page UI) and ``app`` (the Ray Serve app)."""
