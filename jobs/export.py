r"""Write the models of a finished run for other programs; no result of the run changes.

    diffusers   a folder for UnCLIPPipeline and UnCLIPImageVariationPipeline, from_pretrained
    open_clip   the CLIP as open_clip's checkpoint: create_model("local-dir:<folder>")
    mlflow      the stack as a pyfunc model for mlflow models serve, prompts in, PNG files out;
                --register and --alias give it a name in the run's MLflow

What the other program cannot express is refused with the fields that say so. The way back, into a
run of your own, is the run file's section `imported`.

    python -m jobs.export --config jobs/configs/demo/run.yaml --output exported --dry-run
    python -m jobs.export --config jobs/configs/demo/run.yaml --output exported
    python -m jobs.export --config jobs/configs/demo/run.yaml --output clip --format open_clip
    python -m jobs.export --config jobs/configs/demo/run.yaml --output model --format mlflow \
        --register unclip --alias champion
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jobs.command import run_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """For whom, and where to."""
    parser.add_argument("--output", required=True, metavar="DIR", help="a new local folder")
    parser.add_argument(
        "--format",
        choices=("diffusers", "open_clip", "mlflow"),
        default="diffusers",
        help="default: diffusers",
    )
    parser.add_argument(
        "--diffusers",
        metavar="VERSION",
        default="0.42.1",
        help="version whose from_pretrained shall load the folder (default: 0.42.1; versions "
        "before 0.38 find a class elsewhere); the folder's load.py works with any",
    )
    parser.add_argument("--register", metavar="NAME", help="registered model of --format mlflow")
    parser.add_argument("--alias", metavar="ALIAS", help="moved to the version that is registered")


def export(run: "RunFile", options: argparse.Namespace) -> dict[str, Any]:
    """Export, or say what would be written."""
    from pipeline.chain.export import export_run
    from pipeline.progress import Progress

    wanted = run, options.output, options.format, options.diffusers
    return export_run(
        *wanted,
        Progress(),
        name=options.register,
        alias=options.alias,
        dry_run=options.dry_run,
    )


if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: [], add_options, instead=export))
