"""Give every sample its scores, and find semantic duplicates, for profiles to choose by.

python -m jobs.score --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.score --config jobs/configs/demo/run.yaml
"""

import sys

from jobs.command import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: ["score"]))
