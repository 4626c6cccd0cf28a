"""Seeded kills of the whole tiny chain, a minute or two each.

``python -m tests.chaos --num 3 --seed 1`` draws three; ``--all`` takes every failpoint once.
"""

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from tests.chaos.kills import draw, points, strike, undisturbed


def main() -> int:
    """Run the kills; 0 where every one was survived."""
    parser = argparse.ArgumentParser(description="Seeded kills of the whole tiny chain.")
    parser.add_argument("--all", action="store_true", help="every failpoint once")
    parser.add_argument("--num", type=int, default=3, help="so many kills (default 3)")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    kills = draw(arguments.seed, len(points()) if arguments.all else arguments.num)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"seed {arguments.seed}, {len(kills)} kills", file=sys.stderr)
    expected = undisturbed(folder / "undisturbed")
    outcomes = []
    for number, kill in enumerate(kills):
        outcome = strike(kill, folder / str(number), expected)
        outcomes.append(outcome)
        verdict = outcome.difference or "survived"
        line = f"{kill!s:<36} {outcome.calls} calls, {outcome.seconds:.0f} s: {verdict}"
        print(line, file=sys.stderr, flush=True)
        if not outcome.difference:
            shutil.rmtree(folder / str(number))
    survived = sum(not outcome.difference for outcome in outcomes)
    summary = {"seed": arguments.seed, "kills": len(kills), "survived": survived}
    print(json.dumps({**summary, "outcomes": [asdict(outcome) for outcome in outcomes]}))
    return 0 if survived == len(kills) else 1


if __name__ == "__main__":
    sys.exit(main())
