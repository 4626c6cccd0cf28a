r"""Change pictures with a run's models; no result of the run changes.

    reconstruction    encode as z_img and noise, and draw again
    variations        other pictures of what CLIP sees
    interpolation     from one picture to another, two by two
    text_difference   from what a picture is to what --text says
    pca               what the first principal components of z_img show
    inpainting        paint the white part of a mask anew

A new folder gets grid.png, settings.json and every picture. Pictures are the user's files or the
run's samples; squares are cut from their middle.

    python -m jobs.manipulate variations --config run.yaml --picture cat.png --output cats
    python -m jobs.manipulate interpolation --config run.yaml --held-out 4 --output between
    python -m jobs.manipulate text_difference --config run.yaml --picture cat.png \
        --base "a cat" --text "a lion" --theta 0.4 --output lions
    python -m jobs.manipulate inpainting --config run.yaml --picture cat.png --mask mask.png \
        --text "a cat with a hat" --output hats
"""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from jobs.command import run_job

if TYPE_CHECKING:
    from pipeline.run_file import RunFile


def add_options(parser: argparse.ArgumentParser) -> None:
    """What to do, to which pictures."""
    from pipeline.manipulation.asked import WAYS

    parser.add_argument("way", choices=WAYS, help="what to do")
    parser.add_argument("--output", required=True, metavar="DIR", help="a new folder")
    for name, metavar, text in (
        ("--picture", "FILE", "a picture; may be repeated"),
        ("--key", "KEY", "a sample of the run; may be repeated"),
    ):
        parser.add_argument(name, action="append", default=[], metavar=metavar, help=text)
    for name, kind, default, text in (
        ("--held-out", int, 0, "the first held-out samples of the run"),
        ("--seed", int, 0, "of every draw (default: 0)"),
        ("--steps", int, 100, "denoising steps of an inversion and of a way back (default: 100)"),
        ("--number", int, None, "variations, or pictures from end to end (default: 6)"),
        ("--eta", float, None, "variations: share of fresh noise on the way (default: 1)"),
        ("--theta", float, None, "text_difference: share of the way to the text (default: 0.5)"),
        ("--visits", int, None, "inpainting: how often each move is made (default: 5)"),
    ):
        parser.add_argument(name, type=kind, default=default, metavar="N", help=text)
    parser.add_argument(
        "--noise",
        choices=("inverted", "random"),
        help="variations, interpolation: start from the pictures' own noise (default) or another",
    )
    parser.add_argument("--text", help="text_difference, inpainting: what shall be seen")
    parser.add_argument(
        "--base", help="text_difference: what is seen (default: a sample's caption, or no words)"
    )
    parser.add_argument(
        "--dimensions", type=int, nargs="+", metavar="K", help="pca (default: powers of two)"
    )
    parser.add_argument(
        "--mask", action="append", metavar="FILE", help="inpainting: white where to paint"
    )


def manipulate(run: "RunFile", options: argparse.Namespace) -> dict[str, Any]:
    """The pictures, or what would be made of them."""
    from pipeline.chain.manipulate import manipulate_run
    from pipeline.manipulation.asked import from_options
    from pipeline.progress import Progress

    asked = from_options(vars(options))
    return manipulate_run(run, asked, options.output, Progress(), dry_run=options.dry_run)


if __name__ == "__main__":
    sys.exit(run_job(__doc__ or "", lambda run, options: [], add_options, instead=manipulate))
