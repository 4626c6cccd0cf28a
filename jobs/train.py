"""Train one model of a run file: clip, prior, decoder or one of the upsamplers.

python -m jobs.train --config jobs/configs/demo/run.yaml --stage prior
python -m jobs.train --config run.yaml --stage decoder --from-step 1200 --skip 40960:41984
ray job submit --working-dir . -- python -m jobs.train --config ... --stage prior
"""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from jobs.command import run_job
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_stage(parser: argparse.ArgumentParser) -> None:
    """The model to train."""
    parser.add_argument(
        "--stage", required=True, help="clip, prior, decoder, upsampler_<from>_<to>"
    )
    parser.add_argument(
        "--from-step",
        type=int,
        metavar="N",
        help="leave this training at its checkpoint of step N and go on in a branch of its own",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        metavar="FIRST:END",
        help="samples of the order that the branch leaves out, multiples of num_lanes; repeatable",
    )


def choose(run: "RunFile", options: argparse.Namespace) -> Sequence[str]:
    """The one named training stage of the run file."""
    stages = run.model_stages()
    if options.stage not in stages:
        trained = ", ".join(stages) or "nothing"
        raise ConfigError(f"--stage {options.stage}: this run file trains {trained}")
    return [options.stage]


def branch(options: argparse.Namespace) -> Sequence[str]:
    """What ``--from-step`` and ``--skip`` say, as overrides of the run file."""
    if options.from_step is None and not options.skip:
        return ()
    from pipeline.chain import branches

    return branches.overrides(
        options.config, options.set, options.stage, options.from_step, options.skip
    )


if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", choose, add_stage, override=branch))
