"""Measure generated pictures and write the report.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml
ray job submit --working-dir . -- python -m jobs.evaluate --config jobs/configs/demo/run.yaml

Or measure a run's models, each beside what it must beat, on held-out samples; the same command
does nothing once it is finished. ``protocols.json`` and ``protocols.html`` say what was found.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml --protocol priors
python -m jobs.evaluate --config jobs/configs/demo/run.yaml --protocol decoder --protocol upsamplers

Or put all of it on one page, ``model.html``: the run's report, the protocols that are finished, the
limits that are known, and beside it the data card; both are kept with the run in MLflow.

python -m jobs.evaluate --config jobs/configs/demo/run.yaml --page

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
    parser.add_argument(
        "--page",
        action="store_true",
        help="write model.html: the report, the finished protocols (those of this call included), "
        "known limits, and the data card beside it",
    )
    parser.add_argument(
        "--no-tracking", action="store_true", help="do not keep the page and the card in MLflow"
    )


def protocols(run: "RunFile", options: argparse.Namespace) -> dict[str, Any] | None:
    """The protocols, data sets or page that are asked for."""
    if not (options.protocol or options.zero_shot or options.page):
        return None
    from pipeline.progress import Progress

    if options.zero_shot:
        from pipeline.chain.zero_shot import check_zero_shot

        return check_zero_shot(run, options.zero_shot, Progress(), dry_run=options.dry_run)
    from pipeline.chain.protocols import preview, run_protocols

    if options.dry_run:
        return preview(run, options.protocol)
    line = run_protocols(run, options.protocol, Progress()) if options.protocol else {}
    if options.page:
        from pipeline.chain.card import write_run_card
        from pipeline.chain.model_page import write_model_page

        card = write_run_card(run, None, is_tracked=False)["card"]
        line |= write_model_page(run, card, is_tracked=not options.no_tracking)
    return line


if __name__ == "__main__":
    sys.exit(
        run_job(__doc__ or "", lambda run, options: ["evaluate"], add_options, instead=protocols)
    )
