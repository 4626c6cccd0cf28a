"""One command per stage, ``python -m jobs.<name> --config <file>``, and ``jobs.run`` for all."""
