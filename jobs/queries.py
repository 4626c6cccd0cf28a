"""Build the list of queries that captions are matched against.

python -m jobs.queries --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.queries --config jobs/configs/demo/run.yaml
"""

import sys

from jobs.command import pilot_options, run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: ["queries"], pilot_options))
