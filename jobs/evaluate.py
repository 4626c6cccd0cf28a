"""Measure generated pictures and write the report.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.evaluate --config jobs/configs/demo/run.yaml
"""

import sys

from jobs.command import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: ["evaluate"]))
