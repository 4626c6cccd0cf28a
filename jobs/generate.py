r"""Generate pictures from text, and the ablations that show what each part does.

python -m jobs.generate --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.generate --config jobs/configs/demo/run.yaml

Or beside the run, in a folder of its own: from prompts given here, from a registered model, or from
another run's models; the same command goes on where it stopped.

python -m jobs.generate --config jobs/configs/demo/run.yaml --prompt "a red circle" --output mine
python -m jobs.generate --config jobs/configs/demo/run.yaml --model models:/unclip@champion \
    --set generate.prompts='{type: parquet, path: prompts.parquet}' --output many
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jobs.command import run_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to generate beside the run."""
    parser.add_argument(
        "--prompt", action="append", default=[], help="draw this text; may be repeated"
    )
    parser.add_argument(
        "--model",
        metavar="RUN",
        help="another run's output folder, or models:/name@alias in this run's MLflow",
    )
    parser.add_argument("--output", metavar="DIR", help="folder for what --prompt or --model make")


def generate(run: "RunFile", options: argparse.Namespace) -> dict[str, Any] | None:
    """Pictures beside the run, where they are asked for."""
    if options.output is None:
        if options.prompt or options.model:
            from pipeline.errors import ConfigError

            raise ConfigError("--prompt and --model leave the run alone: say where with --output")
        return None
    from pipeline.chain.generation import generate_apart
    from pipeline.progress import Progress

    return generate_apart(
        run,
        options.model,
        options.prompt,
        options.output,
        Progress(),
        dry_run=options.dry_run,
    )


if __name__ == "__main__":
    sys.exit(
        run_job(__doc__ or "", lambda run, options: ["generate"], add_options, instead=generate)
    )
