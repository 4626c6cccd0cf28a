"""Run the whole chain of a run file, from candidates to evaluated pictures.

What is finished is skipped, what is not is run or resumed.

    python -m jobs.run --config jobs/configs/demo/run.yaml
    python -m jobs.run --config jobs/configs/demo/run.yaml --sample 0.1 --price-per-cpu-hour 0.04
    ray job submit --working-dir . -- python -m jobs.run --config jobs/configs/demo/run.yaml
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.command import pilot_options, run_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def choose(run: "RunFile", options: argparse.Namespace) -> Sequence[str] | None:
    """All stages; of a pilot those that curate."""
    from pipeline.chain import pilot
    from pipeline.chain.stages import stages

    if options.sample is None:
        return None
    return [stage.name for stage in stages(run) if stage.name in pilot.STAGES]


if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", choose, pilot_options))
