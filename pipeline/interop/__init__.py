"""Bridges to weights and formats of other projects.

Reading order: ``open_clip`` (its vision-transformer CLIPs into ours), ``mlflow_model``.
"""
