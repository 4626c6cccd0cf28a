"""Crawl, filter, balance and deduplicate candidates into WebDataset shards.

python -m jobs.curate --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.curate --config jobs/configs/demo/run.yaml
"""

import sys

from jobs.command import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: ["curate"]))
