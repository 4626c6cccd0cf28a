"""Run the whole chain of a run file, from candidates to evaluated pictures.

What is finished is skipped, what is not is run or resumed.

    python -m jobs.run --config jobs/configs/demo/run.yaml
    ray job submit --working-dir . -- python -m jobs.run --config jobs/configs/demo/run.yaml
"""

import sys

from jobs.command import run_job

if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: None))
