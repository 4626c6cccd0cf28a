"""Measure generated pictures and write the report.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.evaluate --config jobs/configs/demo/run.yaml

Or measure a run's models, each beside what it must beat, on held-out samples; the same command
does nothing once it is finished. ``protocols.json`` and ``protocols.html`` say what was found.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml --protocol priors
python -m jobs.evaluate --config jobs/configs/demo/run.yaml --protocol decoder --protocol upsamplers

Or ask the run's CLIP (or that of a section open_clip) about a data set of others: folders of
classes, or a WebDataset in CLIP_benchmark's layout. ``zero_shot.json`` says what was found.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml --zero-shot datasets/imagenet
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jobs.command import run_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


PROTOCOLS = (
    "priors", "decoder", "upsamplers", "manipulations", "prior_importance", "guidance",
    "typographic", "probes", "memorisation", "side_by_side",
)  # fmt: skip


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to measure instead of the generated pictures."""
    parser.add_argument(
        "--protocol",
        action="append",
        default=[],
        choices=PROTOCOLS,
        help="priors: trains rival_priors, draws of each against the true embeddings, losses with "
        "other conditions; decoder: losses with other conditions, DDIM inversion; upsamplers: "
        "against bicubic; manipulations: what jobs.manipulate keeps, moves and loses; "
        "prior_importance: pictures of captions with and without the prior; "
        "guidance: a sweep of the decoder's guidance; typographic: words drawn on pictures; "
        "probes: prompts at known limits; memorisation: nearest training pictures of generated "
        "ones; side_by_side: another run's models on the same prompts; may be repeated",
    )
    parser.add_argument(
        "--zero-shot",
        action="append",
        default=[],
        metavar="FOLDER",
        help="accuracy (or retrieval, where samples have captions) of the run's CLIP on a folder "
        "of classes, or on a WebDataset in CLIP_benchmark's layout; may be repeated",
    )


def protocols(run: "RunFile", options: argparse.Namespace) -> dict[str, Any] | None:
    """The protocols or data sets that are asked for."""
    if not options.protocol and not options.zero_shot:
        return None
    from pipeline.progress import Progress

    if options.zero_shot:
        from pipeline.chain.zero_shot import check_zero_shot

        return check_zero_shot(run, options.zero_shot, Progress(), dry_run=options.dry_run)
    from pipeline.chain.protocols import preview, run_protocols

    if options.dry_run:
        return preview(run, options.protocol)
    return run_protocols(run, options.protocol, Progress())


if __name__ == "__main__":
    sys.exit(
        run_job(__doc__ or "", lambda run, options: ["evaluate"], add_options, instead=protocols)
    )
